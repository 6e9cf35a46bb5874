/*
 * Philox 4x32-10: ten rounds of two 32x32 multiplications on a 128-bit counter under a 64-bit key.
 *
 * Pure functions, any thread. Invariant: these values are part of what a run means (initial
 * weights, sampling), so a change breaks resuming; known answers in tests/t_rng.c hold it still.
 */
#include "common/rng.h"

#include <math.h>

/* Multipliers, and the key's increments: the golden ratio and sqrt(3) - 1 in 32 bits. */
#define MUL_0  0xd2511f53u
#define MUL_1  0xcd9e8d57u
#define WEYL_0 0x9e3779b9u
#define WEYL_1 0xbb67ae85u
#define ROUNDS 10

void rng_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t ret[4])
{
	uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
	uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t p0 = (uint64_t)MUL_0 * c0, p1 = (uint64_t)MUL_1 * c2;

		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += WEYL_0;
		k1 += WEYL_1;
	}
	ret[0] = c0;
	ret[1] = c1;
	ret[2] = c2;
	ret[3] = c3;
}

static uint64_t join(uint32_t lo, uint32_t hi)
{
	return (uint64_t)hi << 32 | lo;
}

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t index)
{
	uint32_t w[4];

	rng_block(seed, stream, index, w);
	return join(w[0], w[1]);
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
	return (double)(rng_u64(seed, stream, index) >> 11) * 0x1p-53;
}

double rng_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
	const double two_pi = 6.283185307179586476925;
	double radius, angle;
	uint32_t w[4];

	rng_block(seed, stream, index, w);
	/* In (0, 1]: the logarithm of 0 would be infinite. */
	radius = (double)((join(w[0], w[1]) >> 11) + 1) * 0x1p-53;
	angle = (double)(join(w[2], w[3]) >> 11) * 0x1p-53;
	return sqrt(-2.0 * log(radius)) * cos(two_pi * angle);
}

uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound)
{
	unsigned __int128 wide = (unsigned __int128)rng_u64(seed, stream, index) * bound;

	return (uint64_t)(wide >> 64);
}
