/* The norms on the cpu device: rows are shared out, and for the parameters' gradients columns. */
#include "kernels/norm.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

#define ROWS_PIECE    32u
#define COLUMNS_PIECE 256u

static void layernorm_forward_rows(void *arg, size_t part, unsigned worker)
{
	const struct layernorm *l = arg;
	size_t begin = part * ROWS_PIECE;

	(void)worker;
	simd_get()->layernorm_forward(l, begin, smaller(begin + ROWS_PIECE, l->rows));
}

void cpu_layernorm_forward(struct cpu_team *team, const void *args)
{
	const struct layernorm *l = args;

	cpu_team_run(team, layernorm_forward_rows, (void *)l, parts_of(l->rows, ROWS_PIECE));
}

static void layernorm_backward_rows(void *arg, size_t part, unsigned worker)
{
	const struct layernorm *l = arg;
	size_t begin = part * ROWS_PIECE;

	(void)worker;
	simd_get()->layernorm_backward_rows(l, begin, smaller(begin + ROWS_PIECE, l->rows));
}

static void layernorm_backward_columns(void *arg, size_t part, unsigned worker)
{
	const struct layernorm *l = arg;
	size_t begin = part * COLUMNS_PIECE;

	(void)worker;
	simd_get()->layernorm_backward_columns(l, begin, smaller(begin + COLUMNS_PIECE, l->width));
}

void cpu_layernorm_backward(struct cpu_team *team, const void *args)
{
	const struct layernorm *l = args;

	cpu_team_run(team, layernorm_backward_columns, (void *)l,
		     parts_of(l->width, COLUMNS_PIECE));
	cpu_team_run(team, layernorm_backward_rows, (void *)l, parts_of(l->rows, ROWS_PIECE));
}

static void rmsnorm_forward_rows(void *arg, size_t part, unsigned worker)
{
	const struct rmsnorm *n = arg;
	size_t begin = part * ROWS_PIECE;

	(void)worker;
	simd_get()->rmsnorm_forward(n, begin, smaller(begin + ROWS_PIECE, n->rows));
}

void cpu_rmsnorm_forward(struct cpu_team *team, const void *args)
{
	const struct rmsnorm *n = args;

	cpu_team_run(team, rmsnorm_forward_rows, (void *)n, parts_of(n->rows, ROWS_PIECE));
}

static void rmsnorm_backward_rows(void *arg, size_t part, unsigned worker)
{
	const struct rmsnorm *n = arg;
	size_t begin = part * ROWS_PIECE;

	(void)worker;
	simd_get()->rmsnorm_backward_rows(n, begin, smaller(begin + ROWS_PIECE, n->rows));
}

static void rmsnorm_backward_columns(void *arg, size_t part, unsigned worker)
{
	const struct rmsnorm *n = arg;
	size_t begin = part * COLUMNS_PIECE;

	(void)worker;
	simd_get()->rmsnorm_backward_columns(n, begin, smaller(begin + COLUMNS_PIECE, n->width));
}

void cpu_rmsnorm_backward(struct cpu_team *team, const void *args)
{
	const struct rmsnorm *n = args;

	cpu_team_run(team, rmsnorm_backward_columns, (void *)n, parts_of(n->width, COLUMNS_PIECE));
	cpu_team_run(team, rmsnorm_backward_rows, (void *)n, parts_of(n->rows, ROWS_PIECE));
}
