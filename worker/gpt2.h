/* The arithmetic of GPT-2, phase by phase. The shape is offload/arch_gpt2.h's. */
#ifndef WORKER_GPT2_H
#define WORKER_GPT2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/dtype.h"
#include "offload/arch.h"
#include "offload/arch_gpt2.h"
#include "offload/engine.h"
#include "offload/train_config.h"

struct gpt2 {
	const struct arch *arch;
	struct device_stream *stream;
	struct gpt2_layout layout;
	enum dtype type; /* of parameters */
	size_t hidden, heads, vocab;
	size_t layers, kept; /* the last `kept` of them are not recomputed */
};

/*
 * `stream` is where everything is enqueued; it and `arch` must outlive *ret. kept_blocks is the
 * plan's, at most arch->kept_max.
 */
void gpt2_init(struct gpt2 *ret, const struct train_config *config, const struct arch *arch,
	       size_t kept_blocks, struct device_stream *stream);

/*
 * What a pass works on: at most layout.batch sequences of at most layout.seq tokens. ids and
 * targets are host memory, read when the GPT2_EMBED phase runs; later phases ask of targets only
 * whether it is NULL. Results are host memory, written when the GPT2_HEAD phase runs; each may be
 * NULL. Of passes side by side the phases come in their order.
 */
struct gpt2_pass {
	size_t batch, seq;
	const uint32_t *ids;
	const uint32_t *targets; /* NULL: no loss is computed */
	bool first;              /* the loss starts from 0 */
	float grad_scale;        /* of the loss's gradient, in training */
	double *loss_sum;        /* of all tokens since `first` */
	float *logits;           /* [vocab] behind the last token of the only sequence */
};

/* Enqueues `phase`, which the engine has begun with `io`. Never blocks, never fails. */
void gpt2_phase(const struct gpt2 *g, const struct gpt2_pass *pass, const struct arch_phase *phase,
		const struct engine_io *io);

#endif
