/*
 * GPT-2, forward and backward, phase by phase. Called by the worker's main thread between
 * engine_phase_begin and engine_phase_end; everything is enqueued on the compute stream.
 *
 * Per block, x being its input:   r = x + proj(attention(c_attn(ln_1(x))))
 *				   y = r + proj(gelu(c_fc(ln_2(r))))
 *
 * 1. The backward phase sees the bits of the forward one: a kept block's intermediates are still
 *    there, any other's are recomputed by the same calls.
 * 2. The MLP goes through rows in chunks of layout.mlp_rows, the head in chunks of
 *    layout.logits_rows, both forward and backward. Chunks depend on the configuration alone.
 * 3. LayerNorm outputs are never kept: `norm` holds ln_2's in the MLP, then gradients, and both are
 *    made again where a weight gradient needs them.
 * 4. `dres` is the gradient of the residual stream; layernorm_backward adds to it, so that the two
 *    paths of each residual connection meet there. The stream and its gradient are fp32; what
 *    branches off is of layout.act, and dres_act is dres in that type.
 */
#include "worker/gpt2.h"

#include <assert.h>

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
	const struct gpt2_area *area; /* of a block phase */
	char *area_mem;
};

void gpt2_init(struct gpt2 *ret, const struct train_config *config, const struct arch *arch,
	       size_t kept_blocks, struct device_stream *stream)
{
	assert(kept_blocks <= arch->kept_max);
	*ret = (struct gpt2){
		.arch = arch,
		.stream = stream,
		.type = config->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32,
		.hidden = config->model.hidden,
		.heads = config->model.heads,
		.vocab = config->model.vocab,
		.layers = config->model.layers,
		.kept = kept_blocks,
	};
	gpt2_layout_make(config, &ret->layout);
}

static void *at(const struct work *w, uint64_t offset)
{
	return (char *)w->io->workspace + offset;
}

/* What the micro-batch carries from phase to phase. */
static void *carried(const struct work *w, uint64_t offset)
{
	return (char *)w->io->carry + offset;
}

static float *floats(const struct work *w, uint64_t offset)
{
	return at(w, offset);
}

/* Activations of layout.act, `elems` behind `base`. */
static void *acts(const struct work *w, const void *base, size_t elems)
{
	return (char *)(uintptr_t)base + elems * dtype_bytes(w->g->layout.act);
}

/* A block's intermediates. */
static void *in_area(const struct work *w, uint64_t offset)
{
	return w->area_mem + offset;
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
		.act = w->g->layout.act,
		.scratch = floats(w, w->g->layout.scratch),
		.scratch_count = w->g->layout.scratch_count,
	};
}

/* y = x w + bias; with `add`, which is fp32 like y then, added to it; with gelu_in, its GELU. */
static void project(const struct work *w, unsigned weight, unsigned bias, size_t rows,
		    const void *x, void *y, const float *add, void *gelu_in)
{
	struct linear l = linear_of(w, weight, rows);

	l.bias = param(w, bias);
	l.x = x;
	l.y = y;
	l.add = add;
	l.gelu_in = gelu_in;
	linear_forward(w->g->stream, &l);
}

/*
 * Gradients of weight and bias, then of the input, or of gelu_in when x is its GELU; dx may be x,
 * which is read before.
 */
static void project_backward(const struct work *w, unsigned weight, unsigned bias, size_t rows,
			     const void *x, const void *dy, void *dx, void *gelu_in)
{
	struct linear l = linear_of(w, weight, rows);

	l.x = x;
	l.dy = dy;
	l.dw = grad(w, weight);
	l.dbias = grad(w, bias);
	linear_backward_weight(w->g->stream, &l);
	l.dx = dx;
	l.gelu_in = gelu_in;
	linear_backward_input(w->g->stream, &l);
}

static struct layernorm norm_of(const struct work *w, unsigned gain, unsigned bias, const float *x)
{
	return (struct layernorm){
		.rows = w->tokens,
		.width = w->g->hidden,
		.eps = GPT2_NORM_EPS,
		.type = w->g->type,
		.act = w->g->layout.act,
		.gain = param(w, gain),
		.bias = param(w, bias),
		.x = x,
		.mean = floats(w, w->g->layout.mean),
		.rstd = floats(w, w->g->layout.rstd),
	};
}

static void normalize(const struct work *w, unsigned gain, unsigned bias, const float *x, void *y)
{
	struct layernorm n = norm_of(w, gain, bias, x);

	n.y = y;
	layernorm_forward(w->g->stream, &n);
}

/* mean and rstd must be those of x: the last normalize() was x's. Adds to dres, sets dres_act. */
static void normalize_backward(const struct work *w, unsigned gain, unsigned bias, const float *x,
			       const void *dy)
{
	const struct gpt2_layout *l = &w->g->layout;
	struct layernorm n = norm_of(w, gain, bias, x);

	n.dy = dy;
	n.dx = carried(w, l->dres);
	n.dx_act = l->act == DTYPE_F32 ? NULL : carried(w, l->dres_act);
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
		.act = l->act,
		.qkv = in_area(w, w->area->qkv),
		.out = in_area(w, w->area->attn),
		.lse = in_area(w, w->area->lse),
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
		.tokens = carried(w, l->ids),
		.type = w->g->type,
		.token_table = param(w, GPT2_WTE),
		.position_table = param(w, GPT2_WPE),
		.out = w->io->act_out,
	};

	device_copy(s, carried(w, l->ids), pass->ids, w->tokens * sizeof(uint32_t), DEVICE_COPY_IN);
	if (pass->targets)
		device_copy(s, carried(w, l->targets), pass->targets, w->tokens * sizeof(uint32_t),
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
		.tokens = carried(w, l->ids),
		.type = w->g->type,
		.dout = carried(w, l->dres),
		.dtoken = grad(w, GPT2_WTE),
		.dposition = grad(w, GPT2_WPE),
	};

	embedding_backward(w->g->stream, &e);
}

/* To the residual stream between attention and MLP. */
static void block_attention(const struct work *w)
{
	void *norm = at(w, w->g->layout.norm);
	struct attention a = attention_of(w);

	normalize(w, GPT2_LN1_GAIN, GPT2_LN1_BIAS, w->io->act_in, norm);
	project(w, GPT2_ATTN_W, GPT2_ATTN_B, w->tokens, norm, in_area(w, w->area->qkv), NULL, NULL);
	attention_forward(w->g->stream, &a);
	project(w, GPT2_ATTN_PROJ_W, GPT2_ATTN_PROJ_B, w->tokens, a.out, in_area(w, w->area->res),
		w->io->act_in, NULL);
}

/* ln_2 of the stream, the MLP's input. */
static void block_norm_2(const struct work *w)
{
	normalize(w, GPT2_LN2_GAIN, GPT2_LN2_BIAS, in_area(w, w->area->res),
		  at(w, w->g->layout.norm));
}

static size_t chunk_rows(const struct work *w, size_t first, size_t rows_max)
{
	return w->tokens - first < rows_max ? w->tokens - first : rows_max;
}

/* Some rows of the MLP, from `first`. */
struct mlp_rows {
	size_t first, rows;
	void *norm;          /* of these rows: the MLP's input */
	void *hidden, *gelu; /* before and behind the GELU */
};

static struct mlp_rows mlp_rows(const struct work *w, size_t first)
{
	const struct gpt2_layout *l = &w->g->layout;
	size_t wide = 4 * w->g->hidden, skip = w->area->mlp_rows < w->tokens ? 0 : first * wide;

	return (struct mlp_rows){
		.first = first,
		.rows = chunk_rows(w, first, l->mlp_rows),
		.norm = acts(w, at(w, l->norm), first * w->g->hidden),
		.hidden = acts(w, in_area(w, w->area->hidden), skip),
		.gelu = acts(w, in_area(w, w->area->gelu), skip),
	};
}

static void mlp_hidden(const struct work *w, const struct mlp_rows *m)
{
	project(w, GPT2_FC_W, GPT2_FC_B, m->rows, m->norm, m->gelu, NULL, m->hidden);
}

static void block(const struct work *w)
{
	const float *res = in_area(w, w->area->res);

	block_attention(w);
	block_norm_2(w);
	for (size_t i = 0; i < w->tokens; i += w->g->layout.mlp_rows) {
		struct mlp_rows m = mlp_rows(w, i);
		size_t skip = i * w->g->hidden;

		mlp_hidden(w, &m);
		project(w, GPT2_MLP_PROJ_W, GPT2_MLP_PROJ_B, m.rows, m.gelu, w->io->act_out + skip,
			res + skip, NULL);
	}
}

static bool kept(const struct work *w)
{
	return w->area == &w->g->layout.kept;
}

/* dres has the gradient of y; afterwards of r. */
static void mlp_backward(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;

	for (size_t i = 0; i < w->tokens; i += l->mlp_rows) {
		struct mlp_rows m = mlp_rows(w, i);
		const void *dres = acts(w, carried(w, l->dres_act), i * w->g->hidden);

		if (!kept(w))
			mlp_hidden(w, &m);
		project_backward(w, GPT2_MLP_PROJ_W, GPT2_MLP_PROJ_B, m.rows, m.gelu, dres, m.gelu,
				 m.hidden);
		project_backward(w, GPT2_FC_W, GPT2_FC_B, m.rows, m.norm, m.gelu, m.norm, NULL);
	}
	normalize_backward(w, GPT2_LN2_GAIN, GPT2_LN2_BIAS, in_area(w, w->area->res),
			   at(w, l->norm));
}

static void block_backward(const struct work *w)
{
	const struct gpt2_layout *l = &w->g->layout;
	struct attention a = attention_of(w);
	void *norm = at(w, l->norm);

	if (!kept(w))
		block_attention(w);
	block_norm_2(w);
	mlp_backward(w);
	/* dres is both r's gradient, which passes by attention to x, and that of proj's output. */
	project_backward(w, GPT2_ATTN_PROJ_W, GPT2_ATTN_PROJ_B, w->tokens, a.out,
			 carried(w, l->dres_act), norm, NULL);
	a.dout = norm;
	a.dqkv = in_area(w, w->area->dqkv);
	attention_backward(w->g->stream, &a);
	normalize(w, GPT2_LN1_GAIN, GPT2_LN1_BIAS, w->io->act_in, a.out);
	project_backward(w, GPT2_ATTN_W, GPT2_ATTN_B, w->tokens, a.out, a.dqkv, norm, NULL);
	normalize_backward(w, GPT2_LN1_GAIN, GPT2_LN1_BIAS, w->io->act_in, norm);
}

/* The tied head: logits are norm times the token table, transposed. */
static struct linear head_of(const struct work *w, size_t rows, void *norm)
{
	const struct gpt2_layout *l = &w->g->layout;

	return (struct linear){
		.rows = rows,
		.in = w->g->hidden,
		.out = w->g->vocab,
		.w = param(w, GPT2_WTE),
		.w_type = w->g->type,
		.act = l->act,
		.w_transposed = true,
		.x = norm,
		.y = at(w, l->logits),
		.dy = at(w, l->logits),
		.y_row = l->logits_row,
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
		struct linear head = head_of(w, rows, acts(w, at(w, l->norm), i * w->g->hidden));
		struct cross_entropy ce = {
			.rows = rows,
			.vocab = w->g->vocab,
			.act = l->act,
			.logits = at(w, l->logits),
			.row = l->logits_row,
			.targets = (const uint32_t *)carried(w, l->targets) + i,
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
	const struct gpt2_layout *l = &w->g->layout;
	struct linear head = head_of(w, 1, acts(w, at(w, l->norm), (w->tokens - 1) * w->g->hidden));
	struct vector widen = {.count = w->g->vocab,
			       .a = head.y,
			       .a_type = l->act,
			       .out = acts(w, head.y, l->logits_row),
			       .out_type = DTYPE_F32};
	const void *logits = head.y;

	linear_forward(w->g->stream, &head);
	if (l->act != DTYPE_F32) {
		vector_convert(w->g->stream, &widen);
		logits = widen.out;
	}
	device_copy(w->g->stream, w->pass->logits, logits, w->g->vocab * sizeof(float),
		    DEVICE_COPY_OUT);
}

static void head(const struct work *w, bool training)
{
	const struct gpt2_layout *l = &w->g->layout;
	struct device_stream *s = w->g->stream;

	normalize(w, GPT2_LNF_GAIN, GPT2_LNF_BIAS, w->io->act_in, at(w, l->norm));
	if (w->pass->targets)
		head_loss(w, training);
	if (w->pass->logits)
		head_logits(w);
	if (w->pass->loss_sum)
		device_copy(s, w->pass->loss_sum, at(w, l->loss_sum), sizeof(double),
			    DEVICE_COPY_OUT);
	if (!training)
		return;
	device_zero(s, carried(w, l->dres), w->tokens * w->g->hidden * sizeof(float));
	normalize_backward(w, GPT2_LNF_GAIN, GPT2_LNF_BIAS, w->io->act_in, at(w, l->norm));
}

/* Where a block phase works: the block's own area, or the workspace's. */
static void area_choose(struct work *w, const struct arch_phase *phase)
{
	const struct gpt2_layout *l = &w->g->layout;
	size_t layer = (size_t)phase->layer, first_kept = w->g->layers - w->g->kept;

	if (layer >= first_kept) {
		w->area = &l->kept;
		w->area_mem = (char *)w->io->kept + (layer - first_kept) * l->kept.bytes;
	} else {
		w->area = &l->recomputed;
		w->area_mem = at(w, l->area);
	}
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
	if (phase->kind == GPT2_BLOCK || phase->kind == GPT2_BLOCK_BACKWARD)
		area_choose(&w, phase);
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
