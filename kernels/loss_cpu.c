/* Cross-entropy on the cpu device: rows are shared out, their losses added up in row order. */
#include "kernels/loss.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

/* Rows whose losses wait on the stack to be added in order. */
#define CHUNK_ROWS 256u

struct chunk {
	const struct cross_entropy *c;
	size_t begin;
	double loss[CHUNK_ROWS];
};

static void chunk_row(void *arg, size_t part, unsigned worker)
{
	struct chunk *chunk = arg;

	(void)worker;
	chunk->loss[part] = simd_get()->cross_entropy(chunk->c, chunk->begin + part);
}

void cpu_cross_entropy(struct cpu_team *team, const void *args)
{
	struct chunk chunk = {.c = args};
	size_t rows = chunk.c->rows;

	for (; chunk.begin < rows; chunk.begin += CHUNK_ROWS) {
		size_t left = rows - chunk.begin, count = left < CHUNK_ROWS ? left : CHUNK_ROWS;

		cpu_team_run(team, chunk_row, &chunk, count);
		for (size_t i = 0; i < count; i++)
			*chunk.c->loss_sum += chunk.loss[i];
	}
}
