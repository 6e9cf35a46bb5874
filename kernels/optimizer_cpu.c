/* Optimizers as an operation of the cpu device: a piece of the vectors to a thread. */
#include "kernels/internal.h"
#include "kernels/optimizer.h"

/* Elements a thread takes at a time, as in adam_cpu.c: a multiple of OPTIMIZER_BLOCK. */
#define PIECE 16384u

static void step_piece(void *arg, size_t part, unsigned worker)
{
	const struct optimizer_step *step = arg;
	size_t begin = part * PIECE, left = step->count - begin;
	struct optimizer_step piece = optimizer_part(step, begin, left < PIECE ? left : PIECE);

	(void)worker;
	optimizer_host_step(&piece);
}

void cpu_optimizer(struct cpu_team *team, const void *args)
{
	const struct optimizer_step *step = args;

	cpu_team_run(team, step_piece, (void *)step, parts_of(step->count, PIECE));
}
