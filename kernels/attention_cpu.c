/*
 * Attention on the cpu device: one (batch, head) is one part, with scratch of its worker. Called
 * from a stream's thread.
 */
#include "kernels/attention.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

/* k and v transposed, a block of probabilities and one of their gradients: see attention_body.h. */
static size_t scratch_of_thread(size_t seq, size_t head_dim)
{
	return (2 * head_dim + 2 * ATTENTION_QUERIES_BACKWARD) * attention_row(seq);
}

size_t attention_scratch_count(size_t seq, size_t head_dim, unsigned threads)
{
	return threads * scratch_of_thread(seq, head_dim);
}

static void forward_head(void *arg, size_t part, unsigned worker)
{
	const struct attention *a = arg;

	simd_get()->attention_forward(a, part / a->heads, part % a->heads,
				      a->scratch + worker * scratch_of_thread(a->seq, a->head_dim));
}

void cpu_attention_forward(struct cpu_team *team, const void *args)
{
	const struct attention *a = args;

	cpu_team_run(team, forward_head, (void *)a, a->batch * a->heads);
}

static void backward_head(void *arg, size_t part, unsigned worker)
{
	const struct attention *a = arg;

	simd_get()->attention_backward(a, part / a->heads, part % a->heads,
				       a->scratch +
					       worker * scratch_of_thread(a->seq, a->head_dim));
}

void cpu_attention_backward(struct cpu_team *team, const void *args)
{
	const struct attention *a = args;

	cpu_team_run(team, backward_head, (void *)a, a->batch * a->heads);
}
