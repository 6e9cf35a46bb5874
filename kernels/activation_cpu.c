/* GELU on the cpu device. */
#include "kernels/activation.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

/* Elements a thread takes at a time: three arrays of them fit a first-level cache. */
#define PIECE 4096u

static size_t piece_count(size_t part, size_t count)
{
	size_t left = count - part * PIECE;

	return left < PIECE ? left : PIECE;
}

static void forward_piece(void *arg, size_t part, unsigned worker)
{
	const struct gelu *g = arg;
	size_t i = part * PIECE;

	(void)worker;
	simd_get()->gelu_forward((float *)g->y + i, (const float *)g->x + i,
				 piece_count(part, g->count));
}

void cpu_gelu_forward(struct cpu_team *team, const void *args)
{
	const struct gelu *g = args;

	cpu_team_run(team, forward_piece, (void *)g, parts_of(g->count, PIECE));
}

static void backward_piece(void *arg, size_t part, unsigned worker)
{
	const struct gelu *g = arg;
	size_t i = part * PIECE;

	(void)worker;
	simd_get()->gelu_backward((float *)g->dx + i, (const float *)g->dy + i,
				  (const float *)g->x + i, piece_count(part, g->count));
}

void cpu_gelu_backward(struct cpu_team *team, const void *args)
{
	const struct gelu *g = args;

	cpu_team_run(team, backward_piece, (void *)g, parts_of(g->count, PIECE));
}
