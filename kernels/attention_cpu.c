/*
 * Attention on the cpu device: one (batch, head) is one part, with scratch of its worker. Called
 * from a stream's thread.
 */
#include "kernels/attention.h"

#include "kernels/internal.h"
#include "kernels/simd.h"

/* k and v transposed, a block of probabilities and one of their gradients: see attention_body.h. */
size_t cpu_attention_scratch_count(size_t seq, size_t head_dim)
{
	return (2 * head_dim + 2 * ATTENTION_QUERIES_BACKWARD) * attention_row(seq);
}

static float *scratch_of(const struct attention *a, unsigned worker)
{
	return a->scratch + worker * cpu_attention_scratch_count(a->seq, a->head_dim);
}

static void forward_head(void *arg, size_t part, unsigned worker)
{
	const struct attention *a = arg;

	simd_get()->attention_forward(a, part / a->heads, part % a->heads, scratch_of(a, worker));
}

void cpu_attention_forward(struct cpu_team *team, const void *args)
{
	const struct attention *a = args;

	cpu_team_run(team, forward_head, (void *)a, a->batch * a->heads);
}

static void backward_head(void *arg, size_t part, unsigned worker)
{
	const struct attention *a = arg;

	simd_get()->attention_backward(a, part / a->heads, part % a->heads, scratch_of(a, worker));
}

void cpu_attention_backward(struct cpu_team *team, const void *args)
{
	const struct attention *a = args;

	cpu_team_run(team, backward_head, (void *)a, a->batch * a->heads);
}
