/* The exponential over sixteen lanes; included after a vec header, the scalar one if none. */
#ifndef KERNELS_VEC_EXP_H
#define KERNELS_VEC_EXP_H

#ifndef VEC_LANES
#include "kernels/vec_scalar.h"
#endif

/*
 * e^x for x <= 88, within 2 ulp; 0 below ln 2^-126, where results would be subnormal. NaN stays.
 *
 * x = n ln2 + r with |r| <= ln2 / 2; e^r by its series to r^7, which leaves r^8/8! < 6e-9 or a
 * tenth of an ulp. n comes by adding 1.5 * 2^23, which puts round(x / ln2) in the low bits; the
 * 127 added with it makes those bits the exponent field of 2^n. ln2 is split so that n times its
 * upper part (fifteen bits) is exact.
 */
VEC_INLINE struct vec vec_exp(struct vec x)
{
	const struct vec magic = vec_set(12582912.0f + 127.0f);
	struct vec t = vec_fma(x, vec_set(1.44269504f), magic);
	struct vec minus_n = vec_sub(magic, t);
	struct vec r = vec_fma(minus_n, vec_set(0x1.62e4p-1f), x);
	struct vec p = vec_set(1.0f / 5040);

	r = vec_fma(minus_n, vec_set(0x1.7f7d1cp-20f), r);
	p = vec_fma(p, r, vec_set(1.0f / 720));
	p = vec_fma(p, r, vec_set(1.0f / 120));
	p = vec_fma(p, r, vec_set(1.0f / 24));
	p = vec_fma(p, r, vec_set(1.0f / 6));
	p = vec_fma(p, r, vec_set(0.5f));
	p = vec_fma(p, r, vec_set(1.0f));
	p = vec_fma(p, r, vec_set(1.0f));
	p = vec_mul(p, vec_shift_23(t));
	return vec_select_less(x, vec_set(-87.33654f), vec_set(0.0f), p);
}

#endif
