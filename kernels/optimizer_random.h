/*
 * The random bits of stochastic rounding: 32 an element, the lower half for its first moment, the
 * upper for its second. A function of the step's key, which is of (seed, step), and of the
 * element's position, so that whoever computes an element rounds it alike.
 *
 * The mixing is Wellons's lowbias32 ("Prospecting for Hash Functions", 2018), which was searched
 * for low bias of its avalanche (0.17 on its author's measure): three shifts and two 32-bit
 * products, which AVX2 has. The first word of the key goes in before it and the second in its
 * middle; a key before it alone would give every step the same sequence in another order.
 */
#ifndef KERNELS_OPTIMIZER_RANDOM_H
#define KERNELS_OPTIMIZER_RANDOM_H

#include <stdint.h>

#define RANDOM_FIRST  0x7feb352du
#define RANDOM_SECOND 0x846ca68bu
/* 2^32 over the golden ratio, odd: what a position's upper half is told apart by. */
#define RANDOM_UPPER 0x9e3779b9u

/* The second word of the key for positions with this upper half. */
static inline uint32_t optimizer_random_key(const uint32_t key[2], uint64_t position)
{
	return key[1] + (uint32_t)(position >> 32) * RANDOM_UPPER;
}

/* The specification of what adamw_bf16_body.h does to sixteen lanes. */
static inline uint32_t optimizer_random(const uint32_t key[2], uint64_t position)
{
	uint32_t x = (uint32_t)position ^ key[0];

	x ^= x >> 16;
	x *= RANDOM_FIRST;
	x += optimizer_random_key(key, position);
	x ^= x >> 15;
	x *= RANDOM_SECOND;
	return x ^ x >> 16;
}

#endif
