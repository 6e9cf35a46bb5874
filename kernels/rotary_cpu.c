/* Rotary positions on the cpu device: tokens are shared out. */
#include "kernels/rotary.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

/* Elements a thread takes at a time, or one token's: they fit a first-level cache. */
#define PIECE 4096u

static size_t tokens_piece(const struct rotary *r)
{
	size_t token = r->heads * r->head_dim;

	return token < PIECE ? PIECE / token : 1;
}

static void turn_tokens(void *arg, size_t part, unsigned worker)
{
	const struct rotary *r = arg;
	size_t piece = tokens_piece(r), begin = part * piece;

	(void)worker;
	simd_get()->rotary(r, begin, smaller(begin + piece, r->batch * r->seq));
}

void cpu_rotary(struct cpu_team *team, const void *args)
{
	const struct rotary *r = args;

	cpu_team_run(team, turn_tokens, (void *)r, parts_of(r->batch * r->seq, tokens_piece(r)));
}
