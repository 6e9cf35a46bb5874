/* How fast this host's memory lets the optimizer step, for those who plan by it. */
#ifndef KERNELS_ADAM_MEASURE_H
#define KERNELS_ADAM_MEASURE_H

#include <stddef.h>

#include "common/err.h"

#define ADAM_MEASURE_THREADS_MAX 1024u

struct adam_speed {
	unsigned threads;
	double move, step; /* bytes a second of all threads: adam_host_move, adam_host_step */
};

/*
 * Measures bf16 steps of `params` parameters (14 bytes of memory each) with 1, 2, 4, ... and
 * `threads` threads, 1..ADAM_MEASURE_THREADS_MAX, as far as ret[] has room; the last row is that of
 * all of them. Takes about `seconds`. Returns how many rows there are, or a negative code.
 */
int adam_measure(size_t params, unsigned threads, double seconds, struct adam_speed *ret,
		 size_t room, struct err *err);

/* Parameters whose step goes well beyond this host's caches; at most 2^28. */
size_t adam_measure_params(void);

#endif
