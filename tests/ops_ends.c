/* Cases of t_ops: a model's two ends, embedding and loss, and element-wise work on vectors. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/embedding.h"
#include "kernels/loss.h"
#include "kernels/reference.h"
#include "kernels/vector.h"
#include "tests/ops_cases.h"

static void case_embedding(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	size_t n = s->a * s->b * s->c, vocab = 37, context = s->b + 3;
	struct embedding e = {
		.batch = s->a,
		.seq = s->b,
		.width = s->c,
		.tokens = kit_tokens(k, s->a * s->b, (uint32_t)vocab),
		.type = s->type,
		.token_table = kit_input(k, s->type, vocab * s->c, 1),
		.position_table = kit_input(k, s->type, context * s->c, 1),
		.out = kit_output(k, n * sizeof(float)),
		.dout = kit_input(k, DTYPE_F32, n, 1),
		.dtoken = kit_sum(k, vocab * s->c),
		.dposition = kit_sum(k, context * s->c),
	};
	struct reference_embedding ref = {
		.batch = s->a,
		.seq = s->b,
		.width = s->c,
		.tokens = e.tokens,
		.token_table = kit_doubles(k, e.token_table, s->type, vocab * s->c),
		.position_table = kit_doubles(k, e.position_table, s->type, context * s->c),
		.dout = kit_doubles(k, e.dout, DTYPE_F32, n),
		.out = kit_room(k, n),
		.dtoken = kit_doubles(k, e.dtoken, DTYPE_F32, vocab * s->c),
		.dposition = kit_doubles(k, e.dposition, DTYPE_F32, context * s->c),
	};

	embedding_forward(k->stream, &e);
	embedding_backward(k->stream, &e);
	kit_sync(k);
	reference_embedding_forward(&ref);
	reference_embedding_backward(&ref);
	ops_output(r, "out", e.out, ref.out, n, 1e-7);
	ops_output(r, "dtoken", e.dtoken, ref.dtoken, vocab * s->c, 1e-6);
	ops_output(r, "dposition", e.dposition, ref.dposition, context * s->c, 1e-6);
}

static void case_cross_entropy(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	size_t rows = s->a, vocab = s->b, n = rows * vocab, row = vocab + s->d;
	float *x = kit_sum(k, rows * row);
	struct cross_entropy c = {
		.rows = rows,
		.vocab = vocab,
		.logits = x,
		.row = s->d ? row : 0,
		.targets = kit_tokens(k, rows, (uint32_t)vocab),
		.scale = 0.125f,
		.gradient = s->flag,
		.loss_sum = kit_output(k, sizeof(double)),
	};
	double *logits = kit_room(k, n), *gradient = kit_room(k, n), loss;

	for (size_t i = 0; i < rows * row; i++)
		x[i] *= (float)s->c;
	for (size_t i = 0; i < n; i++)
		logits[i] = (double)x[i / vocab * row + i % vocab];
	*c.loss_sum = 1.5;
	cross_entropy(k->stream, &c);
	kit_sync(k);
	loss = 1.5 + reference_cross_entropy(rows, vocab, logits, c.targets, 0.125, gradient);
	if (!(fabs(*c.loss_sum - loss) <= 2e-7 * loss))
		snprintf(r->wrong, sizeof(r->wrong), "loss %.17g, expected %.17g", *c.loss_sum,
			 loss);
	for (size_t i = 0; i < rows; i++)
		memmove(x + i * vocab, x + i * row, vocab * sizeof(*x));
	ops_output(r, s->flag ? "gradient" : "logits", x, s->flag ? gradient : logits, n, 4e-7);
	r->outputs[r->output_count++] =
		(struct ops_output){"loss", c.loss_sum, 1, sizeof(double), NULL, 0};
}

static void case_vector(struct ops_run *r, const struct ops_shape *s)
{
	struct kit *k = &r->kit;
	size_t n = s->a, blocks = vector_blocks(n);
	struct vector add = {
		.count = n,
		.a = kit_input(k, DTYPE_F32, n, 1),
		.b = kit_input(k, DTYPE_F32, n, 1),
		.out = kit_output(k, n * sizeof(float)),
	};
	struct vector accumulate = {
		.count = n,
		.a = kit_input(k, s->type, n, 1),
		.a_type = s->type,
		.out = kit_sum(k, n),
	};
	struct vector sumsq = {
		.count = n,
		.a = accumulate.a,
		.a_type = s->type,
		.blocks = kit_output(k, blocks * sizeof(double)),
	};
	double *a = kit_doubles(k, add.a, DTYPE_F32, n), *b = kit_doubles(k, add.b, DTYPE_F32, n);
	double *x = kit_doubles(k, accumulate.a, s->type, n);
	double *sum = kit_doubles(k, accumulate.out, DTYPE_F32, n);

	vector_add(k->stream, &add);
	vector_accumulate(k->stream, &accumulate);
	vector_sumsq(k->stream, &sumsq);
	kit_sync(k);
	for (size_t i = 0; i < n; i++) {
		a[i] += b[i];
		sum[i] += x[i];
	}
	for (size_t i = 0; i < blocks; i++) {
		double want = 0;

		for (size_t j = i * VECTOR_BLOCK; j < n && j < (i + 1) * VECTOR_BLOCK; j++)
			want += x[j] * x[j];
		if (!(fabs(sumsq.blocks[i] - want) <= 1e-14 * want))
			snprintf(r->wrong, sizeof(r->wrong), "sum of squares of block %zu", i);
	}
	ops_output(r, "add", add.out, a, n, 6e-8);
	ops_output(r, "accumulate", accumulate.out, sum, n, 6e-8);
	r->outputs[r->output_count++] = (struct ops_output){
		"sumsq", sumsq.blocks, blocks, blocks * sizeof(double), NULL, 0};
}

static const struct ops_case cases[] = {
	/* batch, seq, width */
	{"embedding 2x3x1", case_embedding, {2, 3, 1, 0, DTYPE_F32, false}},
	{"embedding 3x50x270", case_embedding, {3, 50, 270, 0, DTYPE_F32, false}},
	{"embedding bf16 4x33x65", case_embedding, {4, 33, 65, 0, DTYPE_BF16, false}},
	/* rows, vocab, span of the logits, elements between rows; with gradient */
	{"cross-entropy 5x1", case_cross_entropy, {5, 1, 2, 0, DTYPE_F32, true}},
	{"cross-entropy 300x256", case_cross_entropy, {300, 256, 4, 0, DTYPE_F32, true}},
	{"cross-entropy 300x257 no gradient",
	 case_cross_entropy,
	 {300, 257, 4, 0, DTYPE_F32, false}},
	{"cross-entropy 33x250 padded", case_cross_entropy, {33, 250, 4, 6, DTYPE_F32, true}},
	{"cross-entropy 9x5003 steep", case_cross_entropy, {9, 5003, 90, 0, DTYPE_F32, true}},
	/* count */
	{"vector 1", case_vector, {1, 0, 0, 0, DTYPE_F32, false}},
	{"vector 2049", case_vector, {2049, 0, 0, 0, DTYPE_F32, false}},
	{"vector bf16 100007", case_vector, {100007, 0, 0, 0, DTYPE_BF16, false}},
};

const struct ops_table ops_ends = {cases, sizeof(cases) / sizeof(cases[0])};
