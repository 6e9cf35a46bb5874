/* Element types of parameters and gradients. */
#ifndef KERNELS_DTYPE_H
#define KERNELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DTYPE_F32, DTYPE_BF16 };

static inline size_t dtype_bytes(enum dtype t)
{
	return t == DTYPE_BF16 ? 2 : 4;
}

static inline float bf16_to_float(uint16_t h)
{
	uint32_t bits = (uint32_t)h << 16;
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* Round to nearest, ties to even; a NaN stays a (quiet) NaN. For gradients and exports. */
static inline uint16_t bf16_from_float(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(bits >> 16 | 0x40u);
	return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/*
 * The exact split of an fp32 master weight (DESIGN, "Precision"): the upper half is the bf16
 * parameter, rounded to nearest with ties away from zero, the lower half what is missing.
 */
static inline void bf16_split(float master, uint16_t *ret_hi, int16_t *ret_lo)
{
	uint32_t bits;

	memcpy(&bits, &master, sizeof(bits));
	*ret_hi = (uint16_t)((bits + 0x8000u) >> 16);
	*ret_lo = (int16_t)(uint16_t)bits;
}

static inline float bf16_join(uint16_t hi, int16_t lo)
{
	uint32_t bits = ((uint32_t)hi << 16) + (uint32_t)(int32_t)lo;
	float f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

#endif
