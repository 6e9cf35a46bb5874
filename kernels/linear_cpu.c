/*
 * Products with a weight matrix on the cpu device. Called from a stream's thread.
 *
 * Invariants:
 * 1. A product is cut into tiles of c by its shape alone, and each tile is one call of sgemm over
 *    the whole inner dimension. So the bits do not depend on the number of threads.
 * 2. A bf16 weight is widened panel by panel: as many columns of c as `scratch` holds whole inner
 *    dimensions for. The inner dimension is never cut. The last bits may depend on scratch_count,
 *    since OpenBLAS treats the columns at a matrix's edge by themselves.
 */
#include "kernels/linear.h"

#include <math.h>

#include "kernels/internal.h"
#include "kernels/simd.h"

/*
 * Tiles: sixteen, so that a team of any size finds its work in equal parts, but none below
 * TILE_FLOPS, which take a core some 50 us: a call of sgemm packs what it reads of both operands,
 * and sharing out takes microseconds. Edges are whole multiples of what kernels of sgemm hold in
 * registers.
 */
#define TILES_MAX  16u
#define TILE_FLOPS 4e6
#define TILE_ROWS  16u
#define TILE_COLS  64u

/* Columns of c for which a bf16 weight is widened at a time. */
#define PANEL_COLS 1024u

/* Rows that take a bias at a time. */
#define BIAS_PIECE 64u

/* Elements of a vector that a thread takes at a time. */
#define COLUMNS_PIECE 64u
#define ROWS_PIECE    16u
#define WIDEN_PIECE   4096u

struct product {
	bool a_transposed, b_transposed;
	size_t m, n, k;
	const float *a, *b;
	size_t a_row, b_row;
	float beta;
	float *c;
	size_t c_row;
	size_t tile_rows, tile_cols, tiles_across;
};

static void product_tile(void *arg, size_t part, unsigned worker)
{
	const struct product *p = arg;
	size_t i = part / p->tiles_across * p->tile_rows;
	size_t j = part % p->tiles_across * p->tile_cols;
	const float *a = p->a + (p->a_transposed ? i : i * p->a_row);
	const float *b = p->b + (p->b_transposed ? j * p->b_row : j);

	(void)worker;
	blas_sgemm(p->a_transposed, p->b_transposed, smaller(p->tile_rows, p->m - i),
		   smaller(p->tile_cols, p->n - j), p->k, a, p->a_row, b, p->b_row, p->beta,
		   p->c + i * p->c_row + j, p->c_row);
}

/* The edge of `parts` equal parts of `count`, in multiples of `unit`. */
static size_t edge_of(size_t count, size_t parts, size_t unit)
{
	return parts_of(parts_of(count, parts), unit) * unit;
}

/*
 * Cuts c into about as many tiles as it is worth. Of the grids that come to more than half of them
 * that one is taken for which sgemm packs the least: a once for each tile across, b once for each
 * tile down. A c too small for any such grid stays whole.
 */
static void product_cut(struct product *p)
{
	double flops = 2.0 * (double)p->m * (double)p->n * (double)p->k, least = INFINITY;
	size_t tiles = 1;

	while (tiles < TILES_MAX && flops >= 2 * TILE_FLOPS * (double)tiles)
		tiles *= 2;
	p->tile_rows = p->m;
	p->tile_cols = p->n;
	p->tiles_across = 1;
	for (size_t parts_down = 1; parts_down <= tiles; parts_down *= 2) {
		size_t rows = edge_of(p->m, parts_down, TILE_ROWS);
		size_t cols = edge_of(p->n, tiles / parts_down, TILE_COLS);
		size_t down = parts_of(p->m, rows), across = parts_of(p->n, cols);
		double packed = (double)p->m * (double)across + (double)p->n * (double)down;

		if (2 * down * across <= tiles || packed >= least)
			continue;
		least = packed;
		p->tile_rows = rows;
		p->tile_cols = cols;
		p->tiles_across = across;
	}
}

static void product_run(struct cpu_team *team, struct product *p)
{
	if (p->m == 0 || p->n == 0)
		return;
	product_cut(p);
	cpu_team_run(team, product_tile, p, parts_of(p->m, p->tile_rows) * p->tiles_across);
}

/* Widens rows x cols of a bf16 matrix to rows of `cols` floats. */
struct widening {
	float *to;
	const uint16_t *from;
	size_t rows, cols, from_row, piece_rows;
};

static void widen_piece(void *arg, size_t part, unsigned worker)
{
	const struct widening *w = arg;
	size_t begin = part * w->piece_rows, end = smaller(begin + w->piece_rows, w->rows);

	(void)worker;
	for (size_t i = begin; i < end; i++)
		simd_get()->widen(w->to + i * w->cols, w->from + i * w->from_row, w->cols);
}

static void widen_run(struct cpu_team *team, struct widening *w)
{
	w->piece_rows = parts_of(WIDEN_PIECE, w->cols);
	cpu_team_run(team, widen_piece, w, parts_of(w->rows, w->piece_rows));
}

/*
 * c (+)= a op(w) with w stored as [w_rows][w_cols]; b_transposed says that c's columns are w's
 * rows.
 */
static void product_with_weight(struct cpu_team *team, struct product *p, const struct linear *l,
				size_t w_cols)
{
	struct product panel = *p;
	size_t cols;

	if (l->w_type == DTYPE_F32) {
		p->b = l->w;
		p->b_row = w_cols;
		product_run(team, p);
		return;
	}
	cols = smaller(l->scratch_count / p->k, PANEL_COLS);
	if (cols > 16)
		cols = cols / 16 * 16;
	for (size_t j = 0; j < p->n; j += cols) {
		struct widening w = {.to = l->scratch, .from_row = w_cols};

		panel.n = smaller(cols, p->n - j);
		panel.c = p->c + j;
		panel.b = l->scratch;
		w.from = (const uint16_t *)l->w + (p->b_transposed ? j * w_cols : j);
		w.rows = p->b_transposed ? panel.n : p->k;
		w.cols = p->b_transposed ? p->k : panel.n;
		panel.b_row = w.cols;
		widen_run(team, &w);
		product_run(team, &panel);
	}
}

static size_t y_row(const struct linear *l)
{
	return l->y_row ? l->y_row : l->out;
}

/* Where x w + bias goes. */
static float *forward_to(const struct linear *l)
{
	return l->gelu_in ? l->gelu_in : l->y;
}

static void bias_rows(void *arg, size_t part, unsigned worker)
{
	const struct linear *l = arg;
	size_t begin = part * BIAS_PIECE, end = smaller(begin + BIAS_PIECE, l->rows);

	(void)worker;
	for (size_t i = begin; i < end; i++) {
		float *to = forward_to(l) + i * (l->gelu_in ? l->out : y_row(l));

		if (l->w_type == DTYPE_F32)
			memcpy(to, l->bias, l->out * sizeof(float));
		else
			simd_get()->widen(to, l->bias, l->out);
	}
}

static void add_rows(void *arg, size_t part, unsigned worker)
{
	const struct linear *l = arg;
	size_t begin = part * ROWS_PIECE, end = smaller(begin + ROWS_PIECE, l->rows);

	(void)worker;
	for (size_t i = begin; i < end; i++) {
		float *y = (float *)l->y + i * y_row(l);

		simd_get()->add(y, y, l->add + i * l->out, l->out);
	}
}

static void gelu_rows(void *arg, size_t part, unsigned worker)
{
	const struct linear *l = arg;
	size_t begin = part * ROWS_PIECE, end = smaller(begin + ROWS_PIECE, l->rows);

	(void)worker;
	for (size_t i = begin; i < end; i++)
		simd_get()->gelu_forward((float *)l->y + i * y_row(l),
					 (const float *)l->gelu_in + i * l->out, l->out);
}

static void gelu_slope_rows(void *arg, size_t part, unsigned worker)
{
	const struct linear *l = arg;
	size_t begin = part * ROWS_PIECE * l->in;
	size_t count = smaller(ROWS_PIECE * l->in, l->rows * l->in - begin);
	float *dx = (float *)l->dx + begin;

	(void)worker;
	simd_get()->gelu_backward(dx, dx, (const float *)l->gelu_in + begin, count);
}

void cpu_linear_forward(struct cpu_team *team, const void *args)
{
	const struct linear *l = args;
	struct product p = {
		.b_transposed = l->w_transposed,
		.m = l->rows,
		.n = l->out,
		.k = l->in,
		.a = l->x,
		.a_row = l->in,
		.beta = l->bias ? 1.0f : 0.0f,
		.c = forward_to(l),
		.c_row = l->gelu_in ? l->out : y_row(l),
	};

	/* The bias is there first and the product adds to it: no pass over y afterwards. */
	if (l->bias)
		cpu_team_run(team, bias_rows, (void *)l, parts_of(l->rows, BIAS_PIECE));
	product_with_weight(team, &p, l, l->w_transposed ? l->in : l->out);
	if (l->add)
		cpu_team_run(team, add_rows, (void *)l, parts_of(l->rows, ROWS_PIECE));
	if (l->gelu_in)
		cpu_team_run(team, gelu_rows, (void *)l, parts_of(l->rows, ROWS_PIECE));
}

void cpu_linear_backward_input(struct cpu_team *team, const void *args)
{
	const struct linear *l = args;
	struct product p = {
		.b_transposed = !l->w_transposed,
		.m = l->rows,
		.n = l->in,
		.k = l->out,
		.a = l->dy,
		.a_row = y_row(l),
		.c = l->dx,
		.c_row = l->in,
	};

	product_with_weight(team, &p, l, l->w_transposed ? l->in : l->out);
	if (l->gelu_in)
		cpu_team_run(team, gelu_slope_rows, (void *)l, parts_of(l->rows, ROWS_PIECE));
}

static void dbias_columns(void *arg, size_t part, unsigned worker)
{
	const struct linear *l = arg;
	size_t j = part * COLUMNS_PIECE;

	(void)worker;
	simd_get()->column_sum(l->dbias + j, (const float *)l->dy + j, l->rows, y_row(l),
			       smaller(COLUMNS_PIECE, l->out - j));
}

void cpu_linear_backward_weight(struct cpu_team *team, const void *args)
{
	const struct linear *l = args;
	const float *a = l->w_transposed ? l->dy : l->x, *b = l->w_transposed ? l->x : l->dy;
	size_t m = l->w_transposed ? l->out : l->in, n = l->w_transposed ? l->in : l->out;
	struct product p = {
		.a_transposed = true,
		.m = m,
		.n = n,
		.k = l->rows,
		.a = a,
		.b = b,
		.a_row = l->w_transposed ? y_row(l) : l->in,
		.b_row = l->w_transposed ? l->in : y_row(l),
		.beta = 1.0f,
		.c = l->dw,
		.c_row = n,
	};

	product_run(team, &p);
	if (l->dbias)
		cpu_team_run(team, dbias_columns, (void *)l, parts_of(l->out, COLUMNS_PIECE));
}
