/*
 * GPT-2, forward and backward, phase by phase. Called by the worker's main thread between
 * engine_phase_begin and engine_phase_end; everything is enqueued on the compute stream.
 *
 * Per block, x being its input:   r = x + proj(attention(c_attn(ln_1(x))))
 *				   y = r + proj(gelu(c_fc(ln_2(r))))
 *
 * 1. The backward phase recomputes the block by the same calls that computed it forward, so it sees
 *    the same bits.
 * 2. The MLP goes through rows in chunks of layout.mlp_rows, the head in chunks of
 *    layout.logits_rows, both forward and backward. Chunks depend on the configuration alone.
 * 3. LayerNorm outputs are not kept: `norm` holds ln_2's in the MLP, then gradients, and ln_1's is
 *    made again where c_attn's weight gradient needs it.
 * 4. `dres` is the gradient of the residual stream; layernorm_backward adds to it, so that the two
 *    paths of each residual connection meet there.
 */
#include "worker/gpt2.h"

#include <assert.h>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/vector.h"

/* One phase in work: what its functions share. */
struct work {
	const struct gpt2 *g;
	const struct gpt2_pass *pass;
	const struct engine_io *io;
	const struct arch_unit *unit; /* of param, or of grad where there is no param */
	size_t tokens;
};

void gpt2_init(struct gpt2 *ret, const struct train_config *config, const struct arch *arch,
	       struct device_stream *stream)
{
	*ret = (struct gpt2){
		.arch = arch,
		.stream = stream,
		.type = config->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32,
		.hidden = config->model.hidden,
		.heads = config->model.heads,
		.vocab = config->model.vocab,
	};
	gpt2_layout_make(config, &ret->layout);
}

static void *at(const struct work *w, uint64_t offset)
{
	return (char *)w->io->workspace + offset;
}

static float *floats(const struct work *w, uint64_t offset)
{
	return at(w, offset);
}

static const void *param(const struct work *w, unsigned tensor)
{
	return (const char *)w->io->param +
	       w->unit->tensors[tensor].offset * dtype_bytes(w->g->type);
}

static float *grad(const struct work *w, unsigned tensor)
{
	return w->io->grad + w->unit->tensors[tensor].offset;
}

/* x [rows][in] times a weight, without pointers of the direction. */
static struct linear linear_of(const struct work *w, unsigned weight, size_t rows)
{
	const struct arch_tensor *t = &w->unit->tensors[weight];

	return (struct linear){
		.rows = rows,
		.in = t->rows,
		.out = t->cols,
		.w = param(w, weight),
		.w_type = w->g->type,
		.scratch = floats(w, w->g->layout.scratch),
		.scratch_count = w->g->layout.scratch_count,
	};
}

static void project(const struct work *w, unsigned weight, unsigned bias, size_t rows,
		    const float *x, float *y)
{
	struct linear l = linear_of(w, weight, rows);

	l.bias = param(w, bias);
	l.x = x;
	l.y = y;
	linear_forward(w->g->stream, &l);
}

/* Gradients of weight and bias, then of the input; dx may be x, which is read before. */
static void project_backward(const struct work *w, unsigned weight, unsigned bias, size_t rows,
			     const float *x, const float *dy, float *dx)
{
	struct linear l = linear_of(w, weight, rows);

	l.x = x;
	l.dy = dy;
	l.dw = grad(w, weight);
	l.dbias = grad(w, bias);
	linear_backward_weight(w->g->stream, &l);
	l.dx = dx;
	linear_backward_input(w->g->stream, &l);
}

static struct layernorm norm_of(const struct work *w, unsigned gain, unsigned bias, const float *x)
{
	return (struct layernorm){
		.rows = w->tokens,
		.width = w->g->hidden,
		.eps = GPT2_NORM_EPS,
		.type = w->g->type,
		.gain = param(w, gain),
		.bias = param(w, bias),
		.x = x,
		.mean = floats(w, w->g->layout.mean),
		.rstd = floats(w, w->g->layout.rstd),
	};
}

static void normalize(const struct work *w, unsigned gain, unsigned bias, const float *x, float *y)
{
	struct layernorm n = norm_of(w, gain, bias, x);

	n.y = y;
	layernorm_forward(w->g->stream, &n);
}

/* mean and rstd must be those of x: the last normalize() was x's. Adds to dres. */
static void normalize_backward(const struct work *w, unsigned gain, unsigned bias, const float *x,
			       const float *dy)
{
	struct layernorm n = norm_of(w, gain, bias, x);

	n.dy = dy;
	n.dx = floats(w, w->g->layout.dres);
	n.dgain = grad(w, gain);
	n.dbias = grad(w, bias);
	layernorm_backward(w->g->stream, &n);
}

static struct attention attention_of(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;

	return (struct attention){
		.batch = w->pass->batch,
		.seq = w->pass->seq,
		.heads = w->g->heads,
		.head_dim = w->g->hidden / w->g->heads,
		.qkv = floats(w, l->qkv),
		.out = floats(w, l->attn),
		.lse = floats(w, l->lse),
		.scratch = floats(w, l->scratch),
		.scratch_count = l->scratch_count,
	};
}

static void embed(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;
	const struct gpt2_pass *pass = w->pass;
	struct device_stream *s = w->g->stream;
	struct embedding e = {
		.batch = pass->batch,
		.seq = pass->seq,
		.width = w->g->hidden,
		.tokens = at(w, l->ids),
		.type = w->g->type,
		.token_table = param(w, GPT2_WTE),
		.position_table = param(w, GPT2_WPE),
		.out = w->io->act_out,
	};

	device_copy(s, at(w, l->ids), pass->ids, w->tokens * sizeof(uint32_t), DEVICE_COPY_IN);
	if (pass->targets)
		device_copy(s, at(w, l->targets), pass->targets, w->tokens * sizeof(uint32_t),
			    DEVICE_COPY_IN);
	if (pass->first)
		device_zero(s, at(w, l->loss_sum), sizeof(double));
	embedding_forward(s, &e);
}

static void embed_backward(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;
	struct embedding e = {
		.batch = w->pass->batch,
		.seq = w->pass->seq,
		.width = w->g->hidden,
		.tokens = at(w, l->ids),
		.type = w->g->type,
		.dout = floats(w, l->dres),
		.dtoken = grad(w, GPT2_WTE),
		.dposition = grad(w, GPT2_WPE),
	};

	embedding_backward(w->g->stream, &e);
}

/* To the residual stream between attention and MLP, and ln_2 of it. */
static void block_upto_mlp(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;
	float *norm = floats(w, l->norm), *res = floats(w, l->res);
	struct attention a = attention_of(w);
	struct vector residual = {
		.count = w->tokens * w->g->hidden, .a = w->io->act_in, .b = res, .out = res};

	normalize(w, GPT2_LN1_GAIN, GPT2_LN1_BIAS, w->io->act_in, norm);
	project(w, GPT2_ATTN_W, GPT2_ATTN_B, w->tokens, norm, floats(w, l->qkv));
	attention_forward(w->g->stream, &a);
	project(w, GPT2_ATTN_PROJ_W, GPT2_ATTN_PROJ_B, w->tokens, floats(w, l->attn), res);
	vector_add(w->g->stream, &residual);
	normalize(w, GPT2_LN2_GAIN, GPT2_LN2_BIAS, res, norm);
}

static size_t chunk_rows(const struct work *w, size_t first, size_t rows_max)
{
	return w->tokens - first < rows_max ? w->tokens - first : rows_max;
}

/* The MLP's hidden rows from `first`, before and behind the GELU. */
static void mlp_hidden(const struct work *w, size_t first, size_t rows)
{
	const struct gpt2_layout *l = &w->g->layout;
	struct gelu gelu = {.count = rows * 4 * w->g->hidden,
			    .x = floats(w, l->hidden),
			    .y = floats(w, l->gelu)};

	project(w, GPT2_FC_W, GPT2_FC_B, rows, floats(w, l->norm) + first * w->g->hidden,
		floats(w, l->hidden));
	gelu_forward(w->g->stream, &gelu);
}

static void block(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;
	struct vector residual = {.count = w->tokens * w->g->hidden,
				  .a = floats(w, l->res),
				  .b = w->io->act_out,
				  .out = w->io->act_out};

	block_upto_mlp(w);
	for (size_t i = 0; i < w->tokens; i += l->mlp_rows) {
		size_t rows = chunk_rows(w, i, l->mlp_rows);

		mlp_hidden(w, i, rows);
		project(w, GPT2_MLP_PROJ_W, GPT2_MLP_PROJ_B, rows, floats(w, l->gelu),
			w->io->act_out + i * w->g->hidden);
	}
	vector_add(w->g->stream, &residual);
}

/* dres has the gradient of y; afterwards of r. */
static void mlp_backward(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;
	float *hidden = floats(w, l->hidden), *gelu = floats(w, l->gelu);

	for (size_t i = 0; i < w->tokens; i += l->mlp_rows) {
		size_t rows = chunk_rows(w, i, l->mlp_rows);
		float *norm = floats(w, l->norm) + i * w->g->hidden;
		const float *dres = floats(w, l->dres) + i * w->g->hidden;
		struct gelu back = {
			.count = rows * 4 * w->g->hidden, .x = hidden, .dy = gelu, .dx = gelu};

		mlp_hidden(w, i, rows);
		project_backward(w, GPT2_MLP_PROJ_W, GPT2_MLP_PROJ_B, rows, gelu, dres, gelu);
		gelu_backward(w->g->stream, &back);
		project_backward(w, GPT2_FC_W, GPT2_FC_B, rows, norm, gelu, norm);
	}
	normalize_backward(w, GPT2_LN2_GAIN, GPT2_LN2_BIAS, floats(w, l->res), floats(w, l->norm));
}

static void block_backward(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;
	float *norm = floats(w, l->norm), *attn = floats(w, l->attn), *dqkv = floats(w, l->dqkv);
	struct attention a = attention_of(w);

	block_upto_mlp(w);
	mlp_backward(w);
	/* dres is both r's gradient, which passes by attention to x, and that of proj's output. */
	project_backward(w, GPT2_ATTN_PROJ_W, GPT2_ATTN_PROJ_B, w->tokens, attn, floats(w, l->dres),
			 norm);
	a.dout = norm;
	a.dqkv = dqkv;
	attention_backward(w->g->stream, &a);
	normalize(w, GPT2_LN1_GAIN, GPT2_LN1_BIAS, w->io->act_in, attn);
	project_backward(w, GPT2_ATTN_W, GPT2_ATTN_B, w->tokens, attn, dqkv, norm);
	normalize_backward(w, GPT2_LN1_GAIN, GPT2_LN1_BIAS, w->io->act_in, norm);
}

/* The tied head: logits are norm times the token table, transposed. */
static struct linear head_of(const struct work *w, size_t rows, float *norm, float *logits)
{
	const struct gpt2_layout *l = &w->g->layout;

	return (struct linear){
		.rows = rows,
		.in = w->g->hidden,
		.out = w->g->vocab,
		.w = param(w, GPT2_WTE),
		.w_type = w->g->type,
		.w_transposed = true,
		.x = norm,
		.y = logits,
		.dy = logits,
		.dx = norm,
		.scratch = floats(w, l->scratch),
		.scratch_count = l->scratch_count,
	};
}

static void head_loss(const struct work *w, bool training)
{
	const struct gpt2_layout *l = &w->g->layout;
	struct device_stream *s = w->g->stream;

	for (size_t i = 0; i < w->tokens; i += l->logits_rows) {
		size_t rows = chunk_rows(w, i, l->logits_rows);
		struct linear head = head_of(w, rows, floats(w, l->norm) + i * w->g->hidden,
					     floats(w, l->logits));
		struct cross_entropy ce = {
			.rows = rows,
			.vocab = w->g->vocab,
			.logits = floats(w, l->logits),
			.targets = (const uint32_t *)at(w, l->targets) + i,
			.scale = w->pass->grad_scale,
			.gradient = training,
			.loss_sum = at(w, l->loss_sum),
		};

		linear_forward(s, &head);
		cross_entropy(s, &ce);
		if (!training)
			continue;
		head.dw = grad(w, GPT2_WTE);
		linear_backward_weight(s, &head);
		linear_backward_input(s, &head);
	}
}

static void head_logits(const struct work *w)
{
	float *last = floats(w, w->g->layout.norm) + (w->tokens - 1) * w->g->hidden;
	float *logits = floats(w, w->g->layout.logits);
	struct linear head = head_of(w, 1, last, logits);

	linear_forward(w->g->stream, &head);
	device_copy(w->g->stream, w->pass->logits, logits, w->g->vocab * sizeof(float),
		    DEVICE_COPY_OUT);
}

static void head(const struct work *w, bool training)
{
	const struct gpt2_layout *l = &w->g->layout;
	struct device_stream *s = w->g->stream;

	normalize(w, GPT2_LNF_GAIN, GPT2_LNF_BIAS, w->io->act_in, floats(w, l->norm));
	if (w->pass->targets)
		head_loss(w, training);
	if (w->pass->logits)
		head_logits(w);
	if (w->pass->loss_sum)
		device_copy(s, w->pass->loss_sum, at(w, l->loss_sum), sizeof(double),
			    DEVICE_COPY_OUT);
	if (!training)
		return;
	device_zero(s, at(w, l->dres), w->tokens * w->g->hidden * sizeof(float));
	normalize_backward(w, GPT2_LNF_GAIN, GPT2_LNF_BIAS, w->io->act_in, floats(w, l->norm));
}

void gpt2_phase(const struct gpt2 *g, const struct gpt2_pass *pass, const struct arch_phase *phase,
		const struct engine_io *io)
{
	int unit = phase->unit >= 0 ? phase->unit : phase->grad_unit;
	struct work w = {
		.g = g,
		.pass = pass,
		.io = io,
		.unit = &g->arch->units[unit],
		.tokens = pass->batch * pass->seq,
	};

	assert(pass->batch <= g->layout.batch && pass->seq <= g->layout.seq);
	switch ((enum gpt2_phase)phase->kind) {
	case GPT2_EMBED:
		embed(&w);
		break;
	case GPT2_BLOCK:
		block(&w);
		break;
	case GPT2_HEAD:
		head(&w, phase->grad_unit >= 0);
		break;
	case GPT2_BLOCK_BACKWARD:
		block_backward(&w);
		break;
	case GPT2_EMBED_BACKWARD:
		embed_backward(&w);
		break;
	}
}
