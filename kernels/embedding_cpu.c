/*
 * Embeddings on the cpu device. Forward shares out rows; backward columns, so that each element of
 * a table is added to by one thread, in batch order.
 */
#include "kernels/embedding.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

#define ROWS_PIECE    32u
#define COLUMNS_PIECE 256u

static void forward_rows(void *arg, size_t part, unsigned worker)
{
	const struct embedding *e = arg;
	size_t begin = part * ROWS_PIECE, end = smaller(begin + ROWS_PIECE, e->batch * e->seq);
	size_t row_bytes = e->width * dtype_bytes(e->type);
	const uint8_t *token = e->token_table, *position = e->position_table;

	(void)worker;
	for (size_t i = begin; i < end; i++)
		simd_get()->add_params(e->out + i * e->width, token + e->tokens[i] * row_bytes,
				       position + i % e->seq * row_bytes, e->type, e->width);
}

void cpu_embedding_forward(struct cpu_team *team, const void *args)
{
	const struct embedding *e = args;

	cpu_team_run(team, forward_rows, (void *)e, parts_of(e->batch * e->seq, ROWS_PIECE));
}

static void backward_columns(void *arg, size_t part, unsigned worker)
{
	const struct embedding *e = arg;
	size_t j = part * COLUMNS_PIECE, n = smaller(COLUMNS_PIECE, e->width - j);

	(void)worker;
	for (size_t i = 0; i < e->batch * e->seq; i++) {
		const float *dout = e->dout + i * e->width + j;

		simd_get()->accumulate(e->dtoken + e->tokens[i] * e->width + j, dout, DTYPE_F32, n);
		simd_get()->accumulate(e->dposition + i % e->seq * e->width + j, dout, DTYPE_F32,
				       n);
	}
}

void cpu_embedding_backward(struct cpu_team *team, const void *args)
{
	const struct embedding *e = args;

	cpu_team_run(team, backward_columns, (void *)e, parts_of(e->width, COLUMNS_PIECE));
}
