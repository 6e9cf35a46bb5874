/* Adam as an operation of the cpu device: a piece of the vectors to a thread. */
#include "kernels/adam.h"

#include "kernels/internal.h"

/* Elements a thread takes at a time: some 400 KiB, small to share out and long for prefetchers. */
#define PIECE 16384u

static void step_piece(void *arg, size_t part, unsigned worker)
{
	struct adam a = *(const struct adam *)arg;
	size_t begin = part * PIECE, left = a.count - begin;

	(void)worker;
	a.count = left < PIECE ? left : PIECE;
	a.decay_count = a.decay_count > begin ? a.decay_count - begin : 0;
	a.decay_count = a.decay_count < a.count ? a.decay_count : a.count;
	a.grad = (const uint8_t *)a.grad + begin * dtype_bytes(a.grad_type);
	a.param = (uint8_t *)a.param + begin * dtype_bytes(a.param_type);
	a.lo = a.lo ? a.lo + begin : NULL;
	a.m += begin;
	a.v += begin;
	adam_host_step(&a);
}

void cpu_adam(struct cpu_team *team, const void *args)
{
	const struct adam *a = args;

	cpu_team_run(team, step_piece, (void *)a, parts_of(a->count, PIECE));
}
