/*
 * Optimizers: the formula of a step (enum optimizer_kind), the form in which its moments are kept
 * between steps (enum optimizer_moments), and where the vectors of a step lie. One pass over the
 * elements: a gradient with its scale in, moments and parameter out. In bf16 mode the fp32 master
 * is held split (dtype.h). Scalar, AVX2 and AVX-512 give the same bits, for any count and
 * alignment.
 *
 * For each element, in fp32, fma() where written and nowhere else; `decay` is weight_decay for the
 * first decay_count elements and 0 for the others:
 *
 * AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019): moments m and v; adam.h has it.
 *
 * Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"): moment m; decay apart
 * from the gradient, as in AdamW; sign(0) = 0.
 *	g = grad * grad_scale
 *	p = fma(-lr, sign(fma(1 - beta1, g - m, m)), p * (1 - lr * decay))
 *	m = fma(1 - beta2, g - m, m)
 *
 * Adagrad (Duchi, Hazan & Singer 2011) as torch.optim.Adagrad has it: moment s, the sum of squares
 * from 0 on; decay as a part of the gradient; eps outside the root.
 *	g = fma(decay, p, grad * grad_scale)
 *	s = fma(g, g, s)
 *	p = fma(-lr, g / (sqrt(s) + eps), p)
 *
 * SGD with momentum (Polyak 1964; Sutskever et al. 2013) as torch.optim.SGD has it, dampening 0 and
 * not Nesterov's: moment m; decay as a part of the gradient.
 *	g = fma(decay, p, grad * grad_scale)
 *	m = fma(momentum, m, g)
 *	p = fma(-lr, m, p)
 *
 * AdamW's moments may be kept smaller; the step itself is in fp32 whatever they are kept in.
 *
 * MOMENTS_BF16: rounded to bf16 stochastically, up with the probability of what is cut off, so that
 * changes too small for a bf16 are right on average (Gupta et al. 2015, "Deep Learning with Limited
 * Numerical Precision"). The random bits are a function of (seed, step, position of the element,
 * moment) and of nothing else: chunks, threads, placement and the number of ranks do not show.
 *
 * MOMENTS_INT8: eight bits an element and an fp32 scale a block of OPTIMIZER_BLOCK, after Dettmers
 * et al. 2022, "8-bit Optimizers via Block-wise Quantization". optimizer_codes.h has the code.
 *
 * The state of n elements is, one array behind the other: each moment (fp32, bf16 or codes), with
 * MOMENTS_INT8 the scales of each moment, a block each, and with bf16 parameters `lo`.
 */
#ifndef KERNELS_OPTIMIZER_H
#define KERNELS_OPTIMIZER_H

#include <stddef.h>
#include <stdint.h>

#include "common/cpu.h"
#include "common/err.h"
#include "kernels/adam.h"
#include "kernels/device.h"
#include "kernels/dtype.h"

enum optimizer_kind {
	OPTIMIZER_ADAMW,
	OPTIMIZER_LION,
	OPTIMIZER_ADAGRAD,
	OPTIMIZER_SGD,
	OPTIMIZER_KINDS,
};

enum optimizer_moments { MOMENTS_F32, MOMENTS_BF16, MOMENTS_INT8, MOMENTS_KINDS };

#define OPTIMIZER_MOMENTS_MAX 2u
#define OPTIMIZER_BLOCK       256u

/* In the order of the enums, NULL at the end: "adamw", "lion", "adagrad", "sgd"; "fp32", ... */
extern const char *const optimizer_kind_names[OPTIMIZER_KINDS + 1];
extern const char *const optimizer_moments_names[MOMENTS_KINDS + 1];

/* What a kind does not use is not looked at: beta1 and beta2 are AdamW's and Lion's, ... */
struct optimizer_hyper {
	enum optimizer_kind kind;
	enum optimizer_moments moments;
	double lr;
	double beta1, beta2;
	double eps;      /* AdamW, Adagrad */
	double momentum; /* SGD */
	double weight_decay;
	uint64_t seed; /* of MOMENTS_BF16's random bits */
};

/* Moments an element has: 1 or 2. */
unsigned optimizer_moment_count(enum optimizer_kind kind);

/* Bytes of one moment of an element; scales are apart. */
size_t optimizer_moment_bytes(enum optimizer_moments moments);

/*
 * 0 when a step can be made of `hyper`. Else ERR_CONFIG, err->text says what is wrong with the
 * value ("1.5, expected ..."), and *ret_key, unless ret_key is NULL, is the key of the section
 * `optimizer` of train.yaml(5) that the value is of (static storage).
 */
int optimizer_hyper_check(const struct optimizer_hyper *hyper, const char **ret_key,
			  struct err *err);

/* What a step needs beside the vectors; computed in double, rounded once. Of its kind's own. */
struct optimizer_scalars {
	union {
		struct adam_scalars adam;
		struct {
			float grad_scale, minus_lr;
			float decay; /* Lion: 1 - lr * decay. Adagrad, SGD: decay */
			float one_minus_beta1, one_minus_beta2; /* Lion */
			float eps;                              /* Adagrad */
			float momentum;                         /* SGD */
		} other;
	};
	uint32_t random_key[2]; /* of the step's random bits: optimizer_random.h */
};

/* `step` counts from 1. */
struct optimizer_scalars optimizer_scalars_make(const struct optimizer_hyper *hyper, uint64_t step,
						double grad_scale);

/* Bytes of the state of `count` elements, nothing between and behind: a multiple of the block. */
uint64_t optimizer_state_bytes(enum optimizer_kind kind, enum optimizer_moments moments,
			       enum dtype param_type, uint64_t count);

/* Where the state of an element and of those behind it lies. NULL for what there is not. */
struct optimizer_state {
	void *moment[OPTIMIZER_MOMENTS_MAX]; /* float, uint16_t or uint8_t */
	float *scale[OPTIMIZER_MOMENTS_MAX];
	int16_t *lo;
};

/*
 * Of element `first` in the state of `total` elements that begins at `base`, which is aligned for a
 * float. Both are multiples of the block.
 */
struct optimizer_state optimizer_state_at(enum optimizer_kind kind, enum optimizer_moments moments,
					  enum dtype param_type, void *base, uint64_t total,
					  uint64_t first);

/*
 * A step over `count` elements from `position`, an element's number in the whole model; with
 * MOMENTS_INT8 blocks count from the first of them. `kind` and `moments` are those that `scalars`
 * was made for.
 */
struct optimizer_step {
	enum optimizer_kind kind;
	enum optimizer_moments moments;
	size_t count, decay_count; /* decay_count <= count */
	uint64_t position;
	const void *grad;
	enum dtype grad_type;
	enum dtype
		param_type; /* F32: param is float. BF16: param is the upper half, lo the lower */
	void *param;
	struct optimizer_state state;
	struct optimizer_scalars scalars;
};

/* The step as adam.h has it: of AdamW with MOMENTS_F32. */
struct adam optimizer_adam(const struct optimizer_step *step);

/* The `count` elements from `begin` on; `begin` is a multiple of the block with MOMENTS_INT8. */
struct optimizer_step optimizer_part(const struct optimizer_step *step, size_t begin, size_t count);

/* In the calling thread, with the best instruction set of cpu_isa(). */
void optimizer_host_step(const struct optimizer_step *step);

/* With a given instruction set, which must be present: for tests and benchmarks. */
void optimizer_host_step_isa(const struct optimizer_step *step, enum cpu_isa isa);

/*
 * What a step is measured against: reads and writes its bytes and computes nothing; all stays as it
 * was. Whole blocks. (adam_host_move is the one for AdamW with MOMENTS_F32.)
 */
void optimizer_host_move(const struct optimizer_step *step);

/*
 * As an operation of a device, for state that is not offloaded. A device that is not of type cpu
 * has AdamW with MOMENTS_F32 only.
 */
void optimizer_step(struct device_stream *stream, const struct optimizer_step *step);

/*
 * Between the stored form of `count` elements and fp32: moment i to or from[i]. Export gives what
 * the next step takes the moments for. Import rounds to nearest; of what was exported it makes the
 * bits that were stored. No element is infinite or NaN. In the calling thread.
 */
void optimizer_moments_export(enum optimizer_kind kind, enum optimizer_moments moments,
			      const struct optimizer_state *state, size_t count,
			      float *const to[OPTIMIZER_MOMENTS_MAX]);
void optimizer_moments_import(enum optimizer_kind kind, enum optimizer_moments moments,
			      const struct optimizer_state *state, size_t count,
			      const float *const from[OPTIMIZER_MOMENTS_MAX]);

/* With a given instruction set, which must be present: for tests. */
void optimizer_moments_export_isa(enum optimizer_kind kind, enum optimizer_moments moments,
				  const struct optimizer_state *state, size_t count,
				  float *const to[OPTIMIZER_MOMENTS_MAX], enum cpu_isa isa);
void optimizer_moments_import_isa(enum optimizer_kind kind, enum optimizer_moments moments,
				  const struct optimizer_state *state, size_t count,
				  const float *const from[OPTIMIZER_MOMENTS_MAX], enum cpu_isa isa);

#endif
