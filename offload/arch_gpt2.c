/*
 * The shape of GPT-2: units, phases, activations and workspace. Called through arch_make; pure.
 *
 * Unit 0 is the embedding with the final norm, units 1..layers are the blocks. A training pass is
 *
 *	embed -> block 0 .. L-1 -> head -> block L-1 .. 0 backward -> embed backward
 *	      act 0       act 1 .. L          reads act i
 *
 * where the head computes the loss and its gradient.
 *
 * Every block's input is kept and the block is recomputed from it (Chen et al., 2016), so that
 * activations cost one row of `hidden` a token and a block. Where the plan finds room, the last
 * blocks keep all that their backward reads instead: the same bits, without the recomputation.
 *
 * 1. Tensors with weight decay, the matrices, come first in their unit.
 * 2. A unit's gradient is complete at its grad_last phase: the head adds to unit 0 before the
 *    embedding does, and nothing between them touches it.
 * 3. The gradient of the residual stream goes from phase to phase in what the micro-batch carries,
 *    never through an activation.
 * 4. Nothing depends on the rank, the world or the host: all processes of a job get the same shape.
 */
#include "offload/arch_gpt2.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/attention.h"
#include "kernels/device.h"
#include "offload/protocol.h"

#define INIT_STD 0.02 /* as the paper's code */

/* The longest vector a size computation here may reach: products below stay far from 2^64. */
#define ELEMS_MAX (UINT64_C(1) << 48)

struct tensor_spec {
	const char *name;
	uint64_t rows, cols;
	enum arch_init init;
	double std;
};

static uint64_t take(uint64_t *at, uint64_t bytes)
{
	uint64_t offset = *at;

	*at += (bytes + GPT2_WORKSPACE_ALIGN - 1) / GPT2_WORKSPACE_ALIGN * GPT2_WORKSPACE_ALIGN;
	return offset;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool on_cuda(const struct train_config *c)
{
	return c->device.type == DEVICE_CUDA;
}

static size_t scratch_floats(const struct train_config *c)
{
	uint64_t floats = attention_scratch_count(
		(enum device_type)c->device.type, c->batch.micro, c->data.sequence, c->model.heads,
		c->model.hidden / c->model.heads, GPT2_THREADS_MAX);
	uint64_t widest = max_u64(4 * c->model.hidden, c->model.vocab);

	if (c->precision == PRECISION_BF16 && !on_cuda(c))
		floats = max_u64(floats, max_u64(widest, min_u64(GPT2_PANEL_FLOATS,
								 widest * c->model.hidden)));
	return floats;
}

static void area_make(const struct train_config *c, const struct gpt2_layout *l, size_t mlp_rows,
		      struct gpt2_area *ret)
{
	const uint64_t f = sizeof(float), act = dtype_bytes(l->act), h = c->model.hidden;
	uint64_t at = 0, end;

	ret->mlp_rows = mlp_rows;
	ret->lse = take(&at, f * l->tokens * c->model.heads);
	ret->qkv = take(&at, act * l->tokens * 3 * h);
	ret->attn = take(&at, act * l->tokens * h);
	ret->res = take(&at, f * l->tokens * h);
	ret->dqkv = at;
	end = at + act * l->tokens * 3 * h;
	ret->hidden = take(&at, act * mlp_rows * 4 * h);
	ret->gelu = take(&at, act * mlp_rows * 4 * h);
	ret->bytes = 0;
	take(&ret->bytes, max_u64(end, at));
}

/* How many rows of the MLP and of logits are in memory at a time. */
static void rows_make(const struct train_config *c, struct gpt2_layout *l)
{
	const uint64_t v = c->model.vocab;
	const bool cuda = on_cuda(c);
	const uint64_t logits_max = cuda ? GPT2_LOGITS_BYTES_MAX_CUDA : GPT2_LOGITS_BYTES_MAX;
	const uint64_t pad = cuda ? GPT2_LOGITS_ROW_CUDA : 1;

	l->mlp_rows = min_u64(l->tokens, cuda ? GPT2_MLP_ROWS_MAX_CUDA : GPT2_MLP_ROWS_MAX);
	l->logits_row = (v + pad - 1) / pad * pad;
	l->logits_rows =
		min_u64(l->tokens, max_u64(cuda ? 1 : GPT2_LOGITS_ROWS_MIN,
					   logits_max / (dtype_bytes(l->act) * l->logits_row)));
}

void gpt2_layout_make(const struct train_config *c, struct gpt2_layout *l)
{
	const uint64_t f = sizeof(float), h = c->model.hidden;
	uint64_t at = 0, end, act;

	/* Products of bf16 are what a GPU is made for; a CPU computes in fp32 anyway. */
	l->act = on_cuda(c) && c->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
	act = dtype_bytes(l->act);
	l->batch = c->batch.micro;
	l->seq = c->data.sequence;
	l->tokens = l->batch * l->seq;
	l->scratch_count = scratch_floats(c);
	rows_make(c, l);
	area_make(c, l, l->mlp_rows, &l->recomputed);
	area_make(c, l, l->tokens, &l->kept);

	l->ids = take(&at, sizeof(uint32_t) * l->tokens);
	l->targets = take(&at, sizeof(uint32_t) * l->tokens);
	l->dres = take(&at, f * l->tokens * h);
	l->dres_act = l->act == DTYPE_F32 ? l->dres : take(&at, act * l->tokens * h);
	l->carry_bytes = at;

	at = 0;
	l->loss_sum = take(&at, sizeof(double));
	l->norm = take(&at, act * l->tokens * h);
	l->mean = take(&at, f * l->tokens);
	l->rstd = take(&at, f * l->tokens);
	l->scratch = take(&at, f * l->scratch_count);
	l->area = l->logits = at;
	/* head_logits widens one row behind the row itself. */
	end = at + max_u64(act * l->logits_rows, act + f) * l->logits_row;
	l->bytes = 0;
	take(&l->bytes, max_u64(end, at + l->recomputed.bytes));
}

/* Fills `unit` from a table, in its order. */
static int unit_make(struct arch_unit *unit, const char *prefix, const struct tensor_spec *spec,
		     size_t count)
{
	unit->tensors = calloc(count, sizeof(*unit->tensors));
	if (!unit->tensors)
		return -ENOMEM;
	unit->tensor_count = count;
	for (size_t i = 0; i < count; i++) {
		struct arch_tensor *t = &unit->tensors[i];

		snprintf(t->name, sizeof(t->name), "%s%s", prefix, spec[i].name);
		t->rows = spec[i].rows;
		t->cols = spec[i].cols;
		t->count = t->rows ? t->rows * t->cols : t->cols;
		t->offset = unit->elems;
		t->decay = t->rows > 0;
		t->init = spec[i].init;
		t->std = spec[i].std;
		unit->elems += t->count;
		if (t->decay)
			unit->decay_elems = unit->elems;
	}
	return 0;
}

static int embedding_make(struct arch_unit *unit, const struct train_config *c)
{
	const uint64_t h = c->model.hidden;
	const struct tensor_spec spec[GPT2_EMBEDDING_TENSORS] = {
		[GPT2_WTE] = {"wte.weight", c->model.vocab, h, ARCH_INIT_NORMAL, INIT_STD},
		[GPT2_WPE] = {"wpe.weight", c->model.context, h, ARCH_INIT_NORMAL, INIT_STD},
		[GPT2_LNF_GAIN] = {"ln_f.weight", 0, h, ARCH_INIT_ONE, 0},
		[GPT2_LNF_BIAS] = {"ln_f.bias", 0, h, ARCH_INIT_ZERO, 0},
	};

	snprintf(unit->name, sizeof(unit->name), "embedding");
	return unit_make(unit, "", spec, GPT2_EMBEDDING_TENSORS);
}

static int block_make(struct arch_unit *unit, const struct train_config *c, size_t layer)
{
	const uint64_t h = c->model.hidden;
	/* Each block adds to the residual stream twice: its variance must not grow with depth. */
	const double residual = INIT_STD / sqrt(2.0 * (double)c->model.layers);
	const struct tensor_spec spec[GPT2_BLOCK_TENSORS] = {
		[GPT2_ATTN_W] = {"attn.c_attn.weight", h, 3 * h, ARCH_INIT_NORMAL, INIT_STD},
		[GPT2_ATTN_PROJ_W] = {"attn.c_proj.weight", h, h, ARCH_INIT_NORMAL, residual},
		[GPT2_FC_W] = {"mlp.c_fc.weight", h, 4 * h, ARCH_INIT_NORMAL, INIT_STD},
		[GPT2_MLP_PROJ_W] = {"mlp.c_proj.weight", 4 * h, h, ARCH_INIT_NORMAL, residual},
		[GPT2_LN1_GAIN] = {"ln_1.weight", 0, h, ARCH_INIT_ONE, 0},
		[GPT2_LN1_BIAS] = {"ln_1.bias", 0, h, ARCH_INIT_ZERO, 0},
		[GPT2_ATTN_B] = {"attn.c_attn.bias", 0, 3 * h, ARCH_INIT_ZERO, 0},
		[GPT2_ATTN_PROJ_B] = {"attn.c_proj.bias", 0, h, ARCH_INIT_ZERO, 0},
		[GPT2_LN2_GAIN] = {"ln_2.weight", 0, h, ARCH_INIT_ONE, 0},
		[GPT2_LN2_BIAS] = {"ln_2.bias", 0, h, ARCH_INIT_ZERO, 0},
		[GPT2_FC_B] = {"mlp.c_fc.bias", 0, 4 * h, ARCH_INIT_ZERO, 0},
		[GPT2_MLP_PROJ_B] = {"mlp.c_proj.bias", 0, h, ARCH_INIT_ZERO, 0},
	};
	char prefix[32];

	snprintf(unit->name, sizeof(unit->name), "block %zu", layer);
	snprintf(prefix, sizeof(prefix), "h.%zu.", layer);
	return unit_make(unit, prefix, spec, GPT2_BLOCK_TENSORS);
}

static struct arch_phase phase(enum gpt2_phase kind, size_t layer)
{
	return (struct arch_phase){.kind = kind,
				   .layer = (int)layer,
				   .unit = -1,
				   .grad_unit = -1,
				   .act_in = -1,
				   .act_out = -1};
}

/* The forward phases, which training and evaluation begin with. Returns how many. */
static size_t forward_make(struct arch_phase *p, size_t layers, bool keep)
{
	p[0] = phase(GPT2_EMBED, 0);
	p[0].unit = 0;
	p[0].act_out = 0;
	for (size_t i = 0; i < layers; i++) {
		p[1 + i] = phase(GPT2_BLOCK, i);
		p[1 + i].unit = (int)i + 1;
		p[1 + i].act_in = (int)i;
		p[1 + i].act_in_last = !keep;
		p[1 + i].act_out = (int)i + 1;
	}
	p[1 + layers] = phase(GPT2_HEAD, 0);
	p[1 + layers].unit = 0;
	p[1 + layers].act_in = (int)layers;
	p[1 + layers].act_in_last = true;
	return layers + 2;
}

static void backward_make(struct arch_phase *p, size_t layers)
{
	for (size_t n = 0; n < layers; n++) {
		size_t i = layers - 1 - n;

		p[n] = phase(GPT2_BLOCK_BACKWARD, i);
		p[n].unit = (int)i + 1;
		p[n].grad_unit = (int)i + 1;
		p[n].grad_last = true;
		p[n].act_in = (int)i;
		p[n].act_in_last = true;
	}
	p[layers] = phase(GPT2_EMBED_BACKWARD, 0);
	p[layers].grad_unit = 0;
	p[layers].grad_last = true;
}

static int phases_make(struct arch *arch, size_t layers)
{
	arch->train_count = 2 * layers + 3;
	arch->eval_count = layers + 2;
	arch->train = calloc(arch->train_count, sizeof(*arch->train));
	arch->eval = calloc(arch->eval_count, sizeof(*arch->eval));
	if (!arch->train || !arch->eval)
		return -ENOMEM;
	forward_make(arch->eval, layers, false);
	size_t n = forward_make(arch->train, layers, true);
	arch->train[n - 1].grad_unit = 0;
	backward_make(arch->train + n, layers);
	return 0;
}

/* train_config.c checks each key; here only what the shape as a whole cannot be. */
static int limits_check(const struct train_config *c, struct err *err)
{
	const uint64_t h = c->model.hidden, layers = c->model.layers;
	uint64_t widest = max_u64(max_u64(c->model.vocab, c->model.context), 12 * h);

	if (!layers || !h || !c->model.heads || !c->model.vocab || !c->model.context ||
	    !c->batch.micro || !c->data.sequence)
		return err_set(err, ERR_CONFIG, "model: a dimension is zero");
	if (h % c->model.heads)
		return err_set(err, ERR_CONFIG,
			       "model.hidden: %ju is not a multiple of model.heads, %ju",
			       (uintmax_t)h, (uintmax_t)c->model.heads);
	if (layers + 1 > PROTOCOL_UNITS_MAX)
		return err_set(err, ERR_CONFIG, "model.layers: %ju, at most %u", (uintmax_t)layers,
			       PROTOCOL_UNITS_MAX - 1);
	if (h > UINT32_MAX / 16 || widest > ELEMS_MAX / h || c->batch.micro > UINT32_MAX ||
	    c->data.sequence > UINT32_MAX / c->batch.micro ||
	    c->batch.micro * c->data.sequence > ELEMS_MAX / max_u64(16 * h, c->model.vocab))
		return err_set(err, ERR_CONFIG, "model: its vectors would pass 2^48 elements");
	return 0;
}

static double flops_per_token(const struct train_config *c)
{
	double h = (double)c->model.hidden, layers = (double)c->model.layers;
	double matrices = 12 * layers * h * h + (double)c->model.vocab * h;

	/* Each weight multiplies and adds once forward, twice backward. Attention's two products
	 * see half of the sequence on average. */
	return 6 * matrices + 6 * layers * h * (double)c->data.sequence;
}

int arch_gpt2_make(const struct train_config *config, struct arch **ret, struct err *err)
{
	const size_t layers = config->model.layers;
	struct gpt2_layout layout;
	struct arch *arch;
	int rc = limits_check(config, err);

	if (rc < 0)
		return rc;
	arch = calloc(1, sizeof(*arch));
	if (!arch)
		return err_sys(err, -ENOMEM, "shape of the model");
	arch->name = "gpt2";
	arch->unit_count = layers + 1;
	arch->units = calloc(arch->unit_count, sizeof(*arch->units));
	rc = arch->units ? embedding_make(&arch->units[0], config) : -ENOMEM;
	for (size_t i = 0; !rc && i < layers; i++)
		rc = block_make(&arch->units[i + 1], config, i);
	if (!rc)
		rc = phases_make(arch, layers);
	if (rc < 0) {
		arch_free(arch);
		return err_sys(err, rc, "shape of the model");
	}
	gpt2_layout_make(config, &layout);
	arch->act_count = layers + 1;
	arch->act_bytes = sizeof(float) * layout.tokens * config->model.hidden;
	arch->carry_bytes = layout.carry_bytes;
	arch->workspace_bytes = layout.bytes;
	arch->kept_bytes = layout.kept.bytes;
	arch->kept_max = layers;
	for (size_t i = 0; i < arch->unit_count; i++)
		arch->params += arch->units[i].elems;
	arch->flops_per_token = flops_per_token(config);
	*ret = arch;
	return 0;
}
