/*
 * Random numbers as a pure function of (seed, stream, index): the value for element i does not
 * depend on who asks, in what order or on how many ranks. Philox 4x32-10 (Salmon et al., SC'11).
 */
#ifndef COMMON_RNG_H
#define COMMON_RNG_H

#include <stdint.h>

/* Four words of Philox 4x32-10 at counter (index, stream) under key `seed`. */
void rng_block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t ret[4]);

/* Uniform 64 bits. */
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t index);

/* Uniform in [0, 1), 53 bits. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* Standard normal by Box-Muller from the block at `index`; rounded once to float by the caller. */
double rng_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* Uniform integer below `bound` (> 0), unbiased by 128-bit multiplication to 2^-64. */
uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound);

#endif
