/* Weights as a safetensors file, with the names Hugging Face's GPT2LMHeadModel uses. */
#ifndef WORKER_SAFETENSORS_H
#define WORKER_SAFETENSORS_H

#include <stdint.h>

#include "common/err.h"
#include "kernels/dtype.h"
#include "offload/arch.h"

/* Whole unit `unit`, as engine_read_unit gives it. */
typedef int safetensors_read_fn(void *ctx, size_t unit, const void **ret, struct err *err);

/*
 * Writes `path` atomically, unit by unit: `read` is called once for each unit, in order. Tensors
 * are BF16 or F32 as `type` says. ERR_CANTCREAT, or the error of `read`.
 */
int safetensors_write(const char *path, const struct arch *arch, enum dtype type,
		      safetensors_read_fn *read, void *ctx, struct err *err);

#endif
