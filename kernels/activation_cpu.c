/* GELU and SwiGLU on the cpu device. */
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

static void gelu_forward_piece(void *arg, size_t part, unsigned worker)
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

	cpu_team_run(team, gelu_forward_piece, (void *)g, parts_of(g->count, PIECE));
}

static void gelu_backward_piece(void *arg, size_t part, unsigned worker)
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

	cpu_team_run(team, gelu_backward_piece, (void *)g, parts_of(g->count, PIECE));
}

/* SwiGLU's rows are twice as wide as its results: rows are shared out, at least one. */
static size_t rows_piece(const struct swiglu *s)
{
	return s->width < PIECE ? PIECE / s->width : 1;
}

static void swiglu_forward_rows(void *arg, size_t part, unsigned worker)
{
	const struct swiglu *s = arg;
	size_t piece = rows_piece(s), begin = part * piece;

	(void)worker;
	simd_get()->swiglu_forward(s, begin, smaller(begin + piece, s->rows));
}

void cpu_swiglu_forward(struct cpu_team *team, const void *args)
{
	const struct swiglu *s = args;

	cpu_team_run(team, swiglu_forward_rows, (void *)s, parts_of(s->rows, rows_piece(s)));
}

static void swiglu_backward_rows(void *arg, size_t part, unsigned worker)
{
	const struct swiglu *s = arg;
	size_t piece = rows_piece(s), begin = part * piece;

	(void)worker;
	simd_get()->swiglu_backward(s, begin, smaller(begin + piece, s->rows));
}

void cpu_swiglu_backward(struct cpu_team *team, const void *args)
{
	const struct swiglu *s = args;

	cpu_team_run(team, swiglu_backward_rows, (void *)s, parts_of(s->rows, rows_piece(s)));
}
