/*
 * The typed functions of the operations' headers: each hands its arguments to the device under the
 * operation's number. Called from whichever thread feeds the stream. What only our own bug can get
 * wrong is asserted here, where the caller is still on the stack.
 */
#include <assert.h>

#include "kernels/activation.h"
#include "kernels/adam.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/internal.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/rotary.h"
#include "kernels/vector.h"

_Static_assert(sizeof(struct linear) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct layernorm) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct rmsnorm) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct rotary) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct attention) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct gelu) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct swiglu) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct embedding) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct cross_entropy) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct vector) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct optimizer_step) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");
_Static_assert(sizeof(struct adam) <= DEVICE_ARGS_BYTES_MAX, "arguments too large");

/* The cpu device works in fp32, whatever the parameters' type. */
static void act_check(struct device_stream *stream, enum dtype act)
{
	assert(act == DTYPE_F32 || stream->device->config.type != DEVICE_CPU);
}

static void linear_check(struct device_stream *stream, const struct linear *l)
{
	size_t wider = l->in > l->out ? l->in : l->out;

	assert(l->in > 0 && l->out > 0 && (!l->y_row || l->y_row >= l->out));
	act_check(stream, l->act);
	assert(stream->device->config.type != DEVICE_CPU || l->w_type == DTYPE_F32 ||
	       (l->scratch && l->scratch_count >= wider));
}

void linear_forward(struct device_stream *stream, const struct linear *l)
{
	linear_check(stream, l);
	assert(!l->add || !l->gelu_in);
	device_launch(stream, OP_LINEAR_FORWARD, l, sizeof(*l));
}

void linear_backward_input(struct device_stream *stream, const struct linear *l)
{
	linear_check(stream, l);
	device_launch(stream, OP_LINEAR_BACKWARD_INPUT, l, sizeof(*l));
}

void linear_backward_weight(struct device_stream *stream, const struct linear *l)
{
	assert(l->in > 0 && l->out > 0 && (!l->y_row || l->y_row >= l->out));
	act_check(stream, l->act);
	device_launch(stream, OP_LINEAR_BACKWARD_WEIGHT, l, sizeof(*l));
}

void layernorm_forward(struct device_stream *stream, const struct layernorm *l)
{
	assert(l->width > 0);
	act_check(stream, l->act);
	device_launch(stream, OP_LAYERNORM_FORWARD, l, sizeof(*l));
}

void layernorm_backward(struct device_stream *stream, const struct layernorm *l)
{
	assert(l->width > 0);
	act_check(stream, l->act);
	assert(!l->dx_act || stream->device->config.type != DEVICE_CPU);
	device_launch(stream, OP_LAYERNORM_BACKWARD, l, sizeof(*l));
}

void rmsnorm_forward(struct device_stream *stream, const struct rmsnorm *n)
{
	assert(n->width > 0);
	act_check(stream, n->act);
	device_launch(stream, OP_RMSNORM_FORWARD, n, sizeof(*n));
}

void rmsnorm_backward(struct device_stream *stream, const struct rmsnorm *n)
{
	assert(n->width > 0);
	act_check(stream, n->act);
	assert(!n->dx_act || stream->device->config.type != DEVICE_CPU);
	device_launch(stream, OP_RMSNORM_BACKWARD, n, sizeof(*n));
}

void rotary(struct device_stream *stream, const struct rotary *r)
{
	assert(r->heads > 0 && r->head_dim > 0 && r->head_dim % 2 == 0);
	assert(r->row >= r->heads * r->head_dim);
	act_check(stream, r->act);
	device_launch(stream, OP_ROTARY, r, sizeof(*r));
}

size_t attention_scratch_count(enum device_type type, size_t batch, size_t seq, size_t heads,
			       size_t head_dim, unsigned threads)
{
	if (type == DEVICE_CPU)
		return threads * cpu_attention_scratch_count(seq, head_dim);
	return batch * heads * seq; /* backward: the dot product of each row of out and dout */
}

static void attention_check(struct device_stream *stream, const struct attention *a)
{
	const struct device_config *c = &stream->device->config;

	assert(a->head_dim > 0);
	act_check(stream, a->act);
	assert(a->scratch_count >= attention_scratch_count(c->type, a->batch, a->seq, a->heads,
							   a->head_dim, c->threads));
}

void attention_forward(struct device_stream *stream, const struct attention *a)
{
	attention_check(stream, a);
	device_launch(stream, OP_ATTENTION_FORWARD, a, sizeof(*a));
}

void attention_backward(struct device_stream *stream, const struct attention *a)
{
	attention_check(stream, a);
	device_launch(stream, OP_ATTENTION_BACKWARD, a, sizeof(*a));
}

void gelu_forward(struct device_stream *stream, const struct gelu *g)
{
	act_check(stream, g->act);
	device_launch(stream, OP_GELU_FORWARD, g, sizeof(*g));
}

void gelu_backward(struct device_stream *stream, const struct gelu *g)
{
	act_check(stream, g->act);
	device_launch(stream, OP_GELU_BACKWARD, g, sizeof(*g));
}

void swiglu_forward(struct device_stream *stream, const struct swiglu *s)
{
	assert(s->width > 0);
	act_check(stream, s->act);
	device_launch(stream, OP_SWIGLU_FORWARD, s, sizeof(*s));
}

void swiglu_backward(struct device_stream *stream, const struct swiglu *s)
{
	assert(s->width > 0);
	act_check(stream, s->act);
	device_launch(stream, OP_SWIGLU_BACKWARD, s, sizeof(*s));
}

void embedding_forward(struct device_stream *stream, const struct embedding *e)
{
	device_launch(stream, OP_EMBEDDING_FORWARD, e, sizeof(*e));
}

void embedding_backward(struct device_stream *stream, const struct embedding *e)
{
	device_launch(stream, OP_EMBEDDING_BACKWARD, e, sizeof(*e));
}

void cross_entropy(struct device_stream *stream, const struct cross_entropy *c)
{
	assert(c->vocab > 0 && (!c->row || c->row >= c->vocab));
	act_check(stream, c->act);
	device_launch(stream, OP_CROSS_ENTROPY, c, sizeof(*c));
}

void vector_add(struct device_stream *stream, const struct vector *v)
{
	assert(v->a_type == DTYPE_F32);
	device_launch(stream, OP_VECTOR_ADD, v, sizeof(*v));
}

void vector_convert(struct device_stream *stream, const struct vector *v)
{
	device_launch(stream, OP_VECTOR_CONVERT, v, sizeof(*v));
}

void vector_accumulate(struct device_stream *stream, const struct vector *v)
{
	device_launch(stream, OP_VECTOR_ACCUMULATE, v, sizeof(*v));
}

void vector_sumsq(struct device_stream *stream, const struct vector *v)
{
	device_launch(stream, OP_VECTOR_SUMSQ, v, sizeof(*v));
}

void adam_step(struct device_stream *stream, const struct adam *a)
{
	assert(a->decay_count <= a->count);
	device_launch(stream, OP_ADAM, a, sizeof(*a));
}

void optimizer_step(struct device_stream *stream, const struct optimizer_step *step)
{
	if (step->kind == OPTIMIZER_ADAMW && step->moments == MOMENTS_F32) {
		const struct adam adam = optimizer_adam(step);

		adam_step(stream, &adam);
		return;
	}
	assert(step->decay_count <= step->count);
	assert(stream->device->config.type == DEVICE_CPU);
	device_launch(stream, OP_OPTIMIZER, step, sizeof(*step));
}
