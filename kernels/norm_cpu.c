/* LayerNorm on the cpu device: rows are shared out, and for the parameters' gradients columns. */
#include "kernels/norm.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

#define ROWS_PIECE    32u
#define COLUMNS_PIECE 256u

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static void forward_rows(void *arg, size_t part, unsigned worker)
{
	const struct layernorm *l = arg;
	size_t begin = part * ROWS_PIECE;

	(void)worker;
	simd_get()->layernorm_forward(l, begin, smaller(begin + ROWS_PIECE, l->rows));
}

void cpu_layernorm_forward(struct cpu_team *team, const void *args)
{
	const struct layernorm *l = args;

	cpu_team_run(team, forward_rows, (void *)l, parts_of(l->rows, ROWS_PIECE));
}

static void backward_rows(void *arg, size_t part, unsigned worker)
{
	const struct layernorm *l = arg;
	size_t begin = part * ROWS_PIECE;

	(void)worker;
	simd_get()->layernorm_backward_rows(l, begin, smaller(begin + ROWS_PIECE, l->rows));
}

static void backward_columns(void *arg, size_t part, unsigned worker)
{
	const struct layernorm *l = arg;
	size_t begin = part * COLUMNS_PIECE;

	(void)worker;
	simd_get()->layernorm_backward_columns(l, begin, smaller(begin + COLUMNS_PIECE, l->width));
}

void cpu_layernorm_backward(struct cpu_team *team, const void *args)
{
	const struct layernorm *l = args;

	cpu_team_run(team, backward_columns, (void *)l, parts_of(l->width, COLUMNS_PIECE));
	cpu_team_run(team, backward_rows, (void *)l, parts_of(l->rows, ROWS_PIECE));
}
