/*
 * What the optimizers' bodies share: the walk over a step's elements, sixteen lanes at a time, and
 * where decay ends. Each body defines NAME_lanes and has OPTIMIZER_STEP make NAME_step of it.
 */
#ifndef KERNELS_OPTIMIZER_BODY_H
#define KERNELS_OPTIMIZER_BODY_H

#ifndef VEC_LANES
#include "kernels/vec_scalar.h"
#endif

#include "kernels/optimizer_kernels.h"
#include "kernels/step_lanes.h"

/* `decayed` in the lanes from i on that decay, `rest` in the others. */
STEP_INLINE struct vec step_decay(const struct optimizer_step *s, size_t i, float decayed,
				  float rest)
{
	if (i + VEC_LANES <= s->decay_count)
		return vec_set(decayed);
	if (i >= s->decay_count)
		return vec_set(rest);
	return vec_blend(vec_set(decayed), vec_set(rest), s->decay_count - i);
}

/* The gradient of Adagrad and SGD, of which decay is a part. */
STEP_INLINE struct vec step_grad_decayed(const struct optimizer_step *s, struct vec grad,
					 struct vec p, size_t i)
{
	struct vec decay = step_decay(s, i, s->scalars.other.decay, 0.0f);

	return vec_fma(decay, p, vec_mul(grad, vec_set(s->scalars.other.grad_scale)));
}

/* Asks for the 2 * VEC_LANES elements at i. */
STEP_INLINE void step_ask(const struct optimizer_step *s, size_t i, enum dtype grad_type,
			  enum dtype param_type, unsigned moments, size_t moment_bytes)
{
	const size_t n = 2 * VEC_LANES;

	lanes_ask_param(s->grad, grad_type, s->param, s->state.lo, param_type, i, n);
	for (unsigned k = 0; k < moments; k++)
		lanes_ask((const char *)s->state.moment[k] + i * moment_bytes, n * moment_bytes);
}

/* NAME_step out of NAME_run, which is inlined once for each pair of types. */
#define OPTIMIZER_TYPES(name)                                                                      \
	static void name##_step(const struct optimizer_step *s)                                    \
	{                                                                                          \
		if (s->grad_type == DTYPE_BF16 && s->param_type == DTYPE_BF16)                     \
			name##_run(s, DTYPE_BF16, DTYPE_BF16);                                     \
		else if (s->grad_type == DTYPE_BF16)                                               \
			name##_run(s, DTYPE_BF16, DTYPE_F32);                                      \
		else if (s->param_type == DTYPE_BF16)                                              \
			name##_run(s, DTYPE_F32, DTYPE_BF16);                                      \
		else                                                                               \
			name##_run(s, DTYPE_F32, DTYPE_F32);                                       \
	}

/* NAME_step out of NAME_lanes(s, i, n, grad_type, param_type), which does n elements at i. */
#define OPTIMIZER_STEP(name, moments, moment_bytes)                                                \
	STEP_INLINE void name##_run(const struct optimizer_step *given, enum dtype grad_type,      \
				    enum dtype param_type)                                         \
	{                                                                                          \
		/* A copy the compiler knows no store of the loop can reach. */                    \
		const struct optimizer_step s = *given;                                            \
		size_t i = 0;                                                                      \
                                                                                                   \
		for (; s.count - i >= 2 * VEC_LANES; i += 2 * VEC_LANES) {                         \
			step_ask(&s, i + LANES_AHEAD, grad_type, param_type, moments,              \
				 moment_bytes);                                                    \
			name##_lanes(&s, i, VEC_LANES, grad_type, param_type);                     \
			name##_lanes(&s, i + VEC_LANES, VEC_LANES, grad_type, param_type);         \
		}                                                                                  \
		for (; s.count - i >= VEC_LANES; i += VEC_LANES)                                   \
			name##_lanes(&s, i, VEC_LANES, grad_type, param_type);                     \
		if (i < s.count)                                                                   \
			name##_lanes(&s, i, s.count - i, grad_type, param_type);                   \
	}                                                                                          \
	OPTIMIZER_TYPES(name)

#endif
