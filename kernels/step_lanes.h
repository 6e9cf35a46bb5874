/*
 * What every optimizer's step loads and stores: sixteen lanes of the gradient and of the parameter,
 * whatever their types. Included by the bodies after a vec header, the scalar one if none. Types
 * and n are constants where these are inlined, n < VEC_LANES only at the end of a vector.
 */
#ifndef KERNELS_STEP_LANES_H
#define KERNELS_STEP_LANES_H

#ifndef VEC_LANES
#include "kernels/vec_scalar.h"
#endif

#include "kernels/dtype.h"

/*
 * Functions of the bodies that hold more than a few operations: inlined, so that what is constant
 * in a caller is constant in them. The scalar form has them once: lanes in plain C are long.
 */
#ifndef STEP_INLINE
#define STEP_INLINE VEC_INLINE
#endif

/*
 * Elements that are asked of memory ahead of those in work. Division and square root keep a core
 * about as long as memory does, so that what waits in its window reaches too few lines ahead by
 * itself: 256 to 1024 measured alike, none at all 5 to 8 % slower.
 */
#define LANES_AHEAD 512u
#define LANES_LINE  64u

STEP_INLINE void lanes_ask(const void *at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += LANES_LINE)
		__builtin_prefetch((const char *)at + i);
}

/* Asks for n elements of gradient and parameter at i, whole lines of each. */
STEP_INLINE void lanes_ask_param(const void *grad, enum dtype grad_type, const void *param,
				 const int16_t *lo, enum dtype param_type, size_t i, size_t n)
{
	const size_t grad_bytes = grad_type == DTYPE_BF16 ? 2 : 4;
	const size_t param_bytes = param_type == DTYPE_BF16 ? 2 : 4;

	lanes_ask((const char *)grad + i * grad_bytes, n * grad_bytes);
	lanes_ask((const char *)param + i * param_bytes, n * param_bytes);
	if (param_type == DTYPE_BF16)
		lanes_ask(lo + i, n * sizeof(*lo));
}

STEP_INLINE struct vec lanes_load(const float *at, size_t n)
{
	return n == VEC_LANES ? vec_load(at) : vec_load_n(at, n);
}

STEP_INLINE void lanes_store(float *at, struct vec x, size_t n)
{
	if (n == VEC_LANES)
		vec_store(at, x);
	else
		vec_store_n(at, x, n);
}

STEP_INLINE struct vec lanes_load_bf16(const uint16_t *at, size_t n)
{
	return n == VEC_LANES ? vec_load_bf16(at) : vec_load_bf16_n(at, n);
}

/* n elements at i of the gradient */
STEP_INLINE struct vec lanes_grad(const void *grad, enum dtype type, size_t i, size_t n)
{
	if (type == DTYPE_BF16)
		return lanes_load_bf16((const uint16_t *)grad + i, n);
	return lanes_load((const float *)grad + i, n);
}

/* n elements at i of the master: split over param and lo in bf16 */
STEP_INLINE struct vec lanes_param(const void *param, const int16_t *lo, enum dtype type, size_t i,
				   size_t n)
{
	const uint16_t *hi = (const uint16_t *)param + i;

	if (type == DTYPE_BF16)
		return n == VEC_LANES ? vec_join(hi, lo + i) : vec_join_n(hi, lo + i, n);
	return lanes_load((const float *)param + i, n);
}

STEP_INLINE void lanes_param_store(void *param, int16_t *lo, enum dtype type, size_t i, size_t n,
				   struct vec p)
{
	uint16_t *hi = (uint16_t *)param + i;

	if (type == DTYPE_F32)
		lanes_store((float *)param + i, p, n);
	else if (n == VEC_LANES)
		vec_split(hi, lo + i, p);
	else
		vec_split_n(hi, lo + i, p, n);
}

#endif
