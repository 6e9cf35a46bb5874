/*
 * The bytes that each operation of enum device_op reads and writes, from its arguments, as its
 * header promises: no more, so that two operations on parts of one buffer are not taken for rivals,
 * and no less. What is added to is read and written. Called by the driving thread.
 *
 * An operation that is new in device.h has no case here, which the compiler reports.
 */
#include <stdlib.h>

#include "kernels/activation.h"
#include "kernels/adam.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/rotary.h"
#include "kernels/vector.h"
#include "tests/record_internal.h"

static void updates(struct record_list *list, const void *at, size_t bytes)
{
	record_reads(list, at, bytes);
	record_writes(list, at, bytes);
}

/* Rows of `width` elements that begin `row` elements apart; row 0: `width`. */
static void rows_touch(struct record_list *list, const void *at, size_t rows, size_t width,
		       size_t row, enum dtype type, bool reads, bool writes)
{
	size_t elem = dtype_bytes(type);
	size_t pieces = row && row != width ? rows : 1;
	size_t bytes = (pieces == 1 ? rows * width : width) * elem;

	for (size_t i = 0; at && i < pieces; i++) {
		const char *p = (const char *)at + i * row * elem;

		if (reads)
			record_reads(list, p, bytes);
		if (writes)
			record_writes(list, p, bytes);
	}
}

static void linear_weight(struct record_list *list, const struct linear *l)
{
	record_reads(list, l->w, l->in * l->out * dtype_bytes(l->w_type));
	updates(list, l->scratch, l->scratch_count * sizeof(float));
}

static void linear_forward_accesses(struct record_list *list, const struct linear *l)
{
	enum dtype y = l->add ? DTYPE_F32 : l->act;

	linear_weight(list, l);
	record_reads(list, l->bias, l->out * dtype_bytes(l->w_type));
	record_reads(list, l->x, l->rows * l->in * dtype_bytes(l->act));
	record_reads(list, l->add, l->rows * l->out * sizeof(float));
	record_writes(list, l->gelu_in, l->rows * l->out * dtype_bytes(l->act));
	rows_touch(list, l->y, l->rows, l->out, l->y_row, y, false, true);
}

static void linear_backward_input_accesses(struct record_list *list, const struct linear *l)
{
	linear_weight(list, l);
	rows_touch(list, l->dy, l->rows, l->out, l->y_row, l->act, true, false);
	record_reads(list, l->gelu_in, l->rows * l->in * dtype_bytes(l->act));
	record_writes(list, l->dx, l->rows * l->in * dtype_bytes(l->act));
}

static void linear_backward_weight_accesses(struct record_list *list, const struct linear *l)
{
	record_reads(list, l->x, l->rows * l->in * dtype_bytes(l->act));
	rows_touch(list, l->dy, l->rows, l->out, l->y_row, l->act, true, false);
	updates(list, l->dw, l->in * l->out * sizeof(float));
	updates(list, l->dbias, l->out * sizeof(float));
}

static void layernorm_accesses(struct record_list *list, const struct layernorm *l, bool forward)
{
	size_t elems = l->rows * l->width;

	record_reads(list, l->gain, l->width * dtype_bytes(l->type));
	record_reads(list, l->x, elems * sizeof(float));
	if (forward) {
		record_reads(list, l->bias, l->width * dtype_bytes(l->type));
		record_writes(list, l->y, elems * dtype_bytes(l->act));
		record_writes(list, l->mean, l->rows * sizeof(float));
		record_writes(list, l->rstd, l->rows * sizeof(float));
		return;
	}
	record_reads(list, l->mean, l->rows * sizeof(float));
	record_reads(list, l->rstd, l->rows * sizeof(float));
	record_reads(list, l->dy, elems * dtype_bytes(l->act));
	updates(list, l->dx, elems * sizeof(float));
	record_writes(list, l->dx_act, elems * dtype_bytes(l->act));
	updates(list, l->dgain, l->width * sizeof(float));
	updates(list, l->dbias, l->width * sizeof(float));
}

static void rmsnorm_accesses(struct record_list *list, const struct rmsnorm *n, bool forward)
{
	size_t elems = n->rows * n->width;

	record_reads(list, n->gain, n->width * dtype_bytes(n->type));
	record_reads(list, n->x, elems * sizeof(float));
	if (forward) {
		record_writes(list, n->y, elems * dtype_bytes(n->act));
		record_writes(list, n->rstd, n->rows * sizeof(float));
		return;
	}
	record_reads(list, n->rstd, n->rows * sizeof(float));
	record_reads(list, n->dy, elems * dtype_bytes(n->act));
	updates(list, n->dx, elems * sizeof(float));
	record_writes(list, n->dx_act, elems * dtype_bytes(n->act));
	updates(list, n->dgain, n->width * sizeof(float));
}

static void rotary_accesses(struct record_list *list, const struct rotary *r)
{
	rows_touch(list, r->x, r->batch * r->seq, r->heads * r->head_dim, r->row, r->act, true,
		   true);
	record_reads(list, r->table, r->seq * r->head_dim * sizeof(*r->table));
}

static void attention_accesses(struct record_list *list, const struct attention *a, bool forward)
{
	size_t elems = a->batch * a->seq * a->heads * a->head_dim, act = dtype_bytes(a->act);
	size_t lse = a->batch * a->heads * a->seq * sizeof(float);

	record_reads(list, a->qkv, 3 * elems * act);
	updates(list, a->scratch, a->scratch_count * sizeof(float));
	if (forward) {
		record_writes(list, a->out, elems * act);
		record_writes(list, a->lse, lse);
		return;
	}
	record_reads(list, a->out, elems * act);
	record_reads(list, a->lse, lse);
	record_reads(list, a->dout, elems * act);
	record_writes(list, a->dqkv, 3 * elems * act);
}

static void gelu_accesses(struct record_list *list, const struct gelu *g, bool forward)
{
	size_t bytes = g->count * dtype_bytes(g->act);

	record_reads(list, g->x, bytes);
	if (forward) {
		record_writes(list, g->y, bytes);
		return;
	}
	record_reads(list, g->dy, bytes);
	record_writes(list, g->dx, bytes);
}

static void swiglu_accesses(struct record_list *list, const struct swiglu *s, bool forward)
{
	size_t bytes = s->rows * s->width * dtype_bytes(s->act);

	record_reads(list, s->x, 2 * bytes);
	if (forward) {
		record_writes(list, s->y, bytes);
		return;
	}
	record_reads(list, s->dy, bytes);
	record_writes(list, s->dx, 2 * bytes);
}

/*
 * How many rows a table of tokens has is not among the arguments. The positions' table follows it
 * in the same unit: it ends there at the latest.
 */
static size_t token_bytes(const void *tokens, const void *positions)
{
	return (size_t)((const char *)positions - (const char *)tokens);
}

static void embedding_accesses(struct record_list *list, const struct embedding *e, bool forward)
{
	size_t elems = e->batch * e->seq * e->width;

	record_reads(list, e->tokens, e->batch * e->seq * sizeof(*e->tokens));
	if (forward) {
		record_reads(list, e->token_table, token_bytes(e->token_table, e->position_table));
		record_reads(list, e->position_table, e->seq * e->width * dtype_bytes(e->type));
		record_writes(list, e->out, elems * sizeof(float));
		return;
	}
	record_reads(list, e->dout, elems * sizeof(float));
	updates(list, e->dtoken, token_bytes(e->dtoken, e->dposition));
	updates(list, e->dposition, e->seq * e->width * sizeof(float));
}

static void cross_entropy_accesses(struct record_list *list, const struct cross_entropy *c)
{
	rows_touch(list, c->logits, c->rows, c->vocab, c->row, c->act, true, c->gradient);
	record_reads(list, c->targets, c->rows * sizeof(*c->targets));
	updates(list, c->loss_sum, sizeof(*c->loss_sum));
}

static void adam_accesses(struct record_list *list, const struct adam *a)
{
	record_reads(list, a->grad, a->count * dtype_bytes(a->grad_type));
	updates(list, a->param, a->count * dtype_bytes(a->param_type));
	if (a->param_type == DTYPE_BF16)
		updates(list, a->lo, a->count * sizeof(*a->lo));
	updates(list, a->m, a->count * sizeof(*a->m));
	updates(list, a->v, a->count * sizeof(*a->v));
}

static void optimizer_accesses(struct record_list *list, const struct optimizer_step *s)
{
	const size_t moment_bytes = s->moments == MOMENTS_F32    ? 4
				    : s->moments == MOMENTS_BF16 ? 2
								 : 1;
	const size_t blocks = (s->count + OPTIMIZER_BLOCK - 1) / OPTIMIZER_BLOCK;

	record_reads(list, s->grad, s->count * dtype_bytes(s->grad_type));
	updates(list, s->param, s->count * dtype_bytes(s->param_type));
	if (s->param_type == DTYPE_BF16)
		updates(list, s->state.lo, s->count * sizeof(*s->state.lo));
	for (unsigned i = 0; i < optimizer_moment_count(s->kind); i++) {
		updates(list, s->state.moment[i], s->count * moment_bytes);
		if (s->moments == MOMENTS_INT8)
			updates(list, s->state.scale[i], blocks * sizeof(*s->state.scale[i]));
	}
}

static const char *vector_accesses(struct record_list *list, const struct vector *v,
				   enum device_op op)
{
	record_reads(list, v->a, v->count * dtype_bytes(v->a_type));
	switch (op) {
	case OP_VECTOR_ADD:
		record_reads(list, v->b, v->count * sizeof(float));
		record_writes(list, v->out, v->count * sizeof(float));
		return "vector_add";
	case OP_VECTOR_CONVERT:
		record_writes(list, v->out, v->count * dtype_bytes(v->out_type));
		return "vector_convert";
	case OP_VECTOR_ACCUMULATE:
		updates(list, v->out, v->count * sizeof(float));
		return "vector_accumulate";
	default:
		record_writes(list, v->blocks, vector_blocks(v->count) * sizeof(double));
		return "vector_sumsq";
	}
}

const char *record_op_accesses(enum device_op op, const void *args, struct record_list *list)
{
	switch (op) {
	case OP_LINEAR_FORWARD:
		linear_forward_accesses(list, args);
		return "linear_forward";
	case OP_LINEAR_BACKWARD_INPUT:
		linear_backward_input_accesses(list, args);
		return "linear_backward_input";
	case OP_LINEAR_BACKWARD_WEIGHT:
		linear_backward_weight_accesses(list, args);
		return "linear_backward_weight";
	case OP_LAYERNORM_FORWARD:
		layernorm_accesses(list, args, true);
		return "layernorm_forward";
	case OP_LAYERNORM_BACKWARD:
		layernorm_accesses(list, args, false);
		return "layernorm_backward";
	case OP_RMSNORM_FORWARD:
		rmsnorm_accesses(list, args, true);
		return "rmsnorm_forward";
	case OP_RMSNORM_BACKWARD:
		rmsnorm_accesses(list, args, false);
		return "rmsnorm_backward";
	case OP_ROTARY:
		rotary_accesses(list, args);
		return "rotary";
	case OP_ATTENTION_FORWARD:
		attention_accesses(list, args, true);
		return "attention_forward";
	case OP_ATTENTION_BACKWARD:
		attention_accesses(list, args, false);
		return "attention_backward";
	case OP_GELU_FORWARD:
		gelu_accesses(list, args, true);
		return "gelu_forward";
	case OP_GELU_BACKWARD:
		gelu_accesses(list, args, false);
		return "gelu_backward";
	case OP_SWIGLU_FORWARD:
		swiglu_accesses(list, args, true);
		return "swiglu_forward";
	case OP_SWIGLU_BACKWARD:
		swiglu_accesses(list, args, false);
		return "swiglu_backward";
	case OP_EMBEDDING_FORWARD:
		embedding_accesses(list, args, true);
		return "embedding_forward";
	case OP_EMBEDDING_BACKWARD:
		embedding_accesses(list, args, false);
		return "embedding_backward";
	case OP_CROSS_ENTROPY:
		cross_entropy_accesses(list, args);
		return "cross_entropy";
	case OP_VECTOR_ADD:
	case OP_VECTOR_CONVERT:
	case OP_VECTOR_ACCUMULATE:
	case OP_VECTOR_SUMSQ:
		return vector_accesses(list, args, op);
	case OP_ADAM:
		adam_accesses(list, args);
		return "adam_step";
	case OP_OPTIMIZER:
		optimizer_accesses(list, args);
		return "optimizer_step";
	case DEVICE_OP_COUNT:
		break;
	}
	abort();
}
