/*
 * The arithmetic on one chunk, on a pool thread: the step, gradients kept, and state in and out.
 *
 * A chunk's parts lie in its task's buffer when they live in swap, else at home; this file finds
 * them (chunk_of) and does not care which. Nothing here allocates, waits or looks at a ring.
 *
 * Invariants
 *  1. Two jobs that run at once work on different chunks, or on different units: lanes see to it.
 *  2. Block sums are kept per block and added up in block order, after the last one (compute_sum),
 *     so that the norm depends neither on chunks nor on who finished first.
 *  3. Gradients in the arena are the worker's memory: what it changes there under our hands, it
 *     changes in its own results.
 */
#include "daemon/internal.h"

#include <assert.h>
#include <string.h>

#include "kernels/vector.h"

struct chunk {
	uint64_t first; /* element of the unit */
	size_t count;
	uint8_t *param;
	struct optimizer_state state;
	uint8_t *grad; /* kept */
};

/* The state of `total` elements is at `base`; this is that from `first` on. */
static struct optimizer_state state_of(const struct session_plan *p, uint8_t *base, uint64_t total,
				       uint64_t first)
{
	return optimizer_state_at(p->hyper.kind, p->hyper.moments, p->param_type, base, total,
				  first);
}

static struct chunk chunk_of(const struct task *t)
{
	const struct session *s = t->session;
	const struct session_plan *p = s->plan;
	const struct unit_plan *u = t->op->unit;
	struct chunk c = {.first = t->chunk * p->open.chunk_elems};

	c.count = (size_t)unit_chunk_elems(p, u, t->chunk);
	if (u->home[PART_PARAM] == PROTOCOL_HOME_MEMORY)
		c.param = s->arena + u->wire.param_offset +
			  session_part_bytes(p, PART_PARAM, c.first);
	else if (t->buffer)
		c.param = t->buffer + p->buffer_offset[PART_PARAM];
	if (u->home[PART_STATE] == PROTOCOL_HOME_MEMORY)
		c.state = state_of(p, s->own + u->state_offset, u->wire.elems, c.first);
	else if (t->buffer)
		c.state = state_of(p, t->buffer + p->buffer_offset[PART_STATE], c.count, 0);
	if (u->home[PART_GRAD] == PROTOCOL_HOME_MEMORY)
		c.grad = s->own + u->grad_offset + session_part_bytes(p, PART_GRAD, c.first);
	else if (u->home[PART_GRAD] == PROTOCOL_HOME_SWAP && t->buffer)
		c.grad = t->buffer + p->buffer_offset[PART_GRAD];
	return c;
}

/* The chunk's gradient as the worker left it. */
static const uint8_t *arena_grad(const struct task *t, const struct chunk *c)
{
	return t->session->arena + t->op->sub.offset +
	       c->first * dtype_bytes(t->session->plan->grad_type);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void step(struct task *t)
{
	struct session *s = t->session;
	const struct session_plan *p = s->plan;
	const struct unit_plan *u = t->op->unit;
	bool from_arena = t->op->sub.flags & PROTOCOL_FLAG_FROM_ARENA;
	struct chunk c = chunk_of(t);
	uint64_t decay = u->wire.decay_elems, began = session_now_ns();
	struct optimizer_step o = {
		.kind = p->hyper.kind,
		.moments = p->hyper.moments,
		.count = c.count,
		.decay_count = decay > c.first ? (size_t)min_u64(decay - c.first, c.count) : 0,
		.position = u->wire.position + c.first,
		.grad = from_arena ? arena_grad(t, &c) : c.grad,
		.grad_type = from_arena ? p->grad_type : p->kept_type,
		.param_type = p->param_type,
		.param = c.param,
		.state = c.state,
		.scalars = t->op->scalars,
	};

	optimizer_host_step(&o);
	if (t->fetch)
		memcpy(s->arena + t->fetch->sub.offset + session_part_bytes(p, PART_PARAM, c.first),
		       c.param, session_part_bytes(p, PART_PARAM, c.count));
	atomic_fetch_add_explicit(&s->adam_ns, session_now_ns() - began, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->stepped_elems, c.count, memory_order_relaxed);
}

/* The squares of what of the chunk lies in the norm range, of `grad` of the chunk. */
static void sum_squares(const struct task *t, const struct chunk *c, const uint8_t *grad,
			enum dtype type)
{
	const struct unit_plan *u = t->op->unit;
	uint64_t norm_end = u->wire.norm_first + u->wire.norm_elems;
	uint64_t begin = c->first, end = min_u64(c->first + c->count, norm_end);

	static_assert(PROTOCOL_ALIGN_ELEMS == VECTOR_BLOCK,
		      "chunks and norm ranges are whole blocks");
	if (begin < u->wire.norm_first)
		begin = u->wire.norm_first;
	if (begin >= end)
		return;
	vector_host_sumsq(
		t->session->sums + u->sums_first + (begin - u->wire.norm_first) / VECTOR_BLOCK,
		grad + (begin - c->first) * dtype_bytes(type), type, (size_t)(end - begin));
}

static void grad(struct task *t)
{
	const struct session_plan *p = t->session->plan;
	uint32_t flags = t->op->sub.flags;
	struct chunk c = chunk_of(t);
	const uint8_t *arrived = arena_grad(t, &c);
	const uint8_t *kept = c.grad ? c.grad : arrived; /* on its way to swap as it came */

	if (c.grad && !(flags & PROTOCOL_FLAG_FIRST))
		vector_host_accumulate((float *)(void *)c.grad, arrived, p->grad_type, c.count);
	else if (c.grad && p->kept_type == p->grad_type)
		memcpy(c.grad, arrived, c.count * dtype_bytes(p->kept_type));
	else if (c.grad)
		vector_host_convert(c.grad, p->kept_type, arrived, p->grad_type, c.count);
	if (flags & PROTOCOL_FLAG_LAST)
		sum_squares(t, &c, kept, p->kept_type);
}

static void import_chunk(struct task *t)
{
	const struct session_plan *p = t->session->plan;
	struct chunk c = chunk_of(t);
	const float *from = (const float *)(const void *)(t->session->arena + t->op->sub.offset);
	uint16_t *hi = (uint16_t *)(void *)c.param;

	if (p->param_type == DTYPE_F32)
		memcpy(c.param, from, c.count * sizeof(float));
	else
		for (size_t i = 0; i < c.count; i++)
			bf16_split(from[i], &hi[i], &c.state.lo[i]);
	optimizer_moments_import(p->hyper.kind, p->hyper.moments, &c.state, c.count,
				 (const float *const[]){from + c.count, from + 2 * c.count});
}

static void export_chunk(struct task *t)
{
	const struct session_plan *p = t->session->plan;
	struct chunk c = chunk_of(t);
	float *to = (float *)(void *)(t->session->arena + t->op->sub.offset);
	const uint16_t *hi = (const uint16_t *)(const void *)c.param;

	if (p->param_type == DTYPE_F32)
		memcpy(to, c.param, c.count * sizeof(float));
	else
		for (size_t i = 0; i < c.count; i++)
			to[i] = bf16_join(hi[i], c.state.lo[i]);
	optimizer_moments_export(p->hyper.kind, p->hyper.moments, &c.state, c.count,
				 (float *const[]){to + c.count, to + 2 * c.count});
}

void compute_run(struct pool_job *job)
{
	struct task *t = (struct task *)(void *)((char *)job - offsetof(struct task, job));
	struct trace_lane **lanes = t->session->trace.threads;
	uint64_t began = lanes ? trace_begin(lanes[job->thread]) : 0;

	switch (t->op->sub.op) {
	case PROTOCOL_OP_STEP:
		step(t);
		break;
	case PROTOCOL_OP_GRAD:
		grad(t);
		break;
	case PROTOCOL_OP_IMPORT:
		import_chunk(t);
		break;
	case PROTOCOL_OP_EXPORT:
		export_chunk(t);
		break;
	default:
		assert(!"an operation without arithmetic");
	}
	session_trace_compute(t, began);
}

double compute_sum(const struct session *s, const struct unit_plan *u)
{
	const double *blocks = s->sums + u->sums_first;
	uint64_t count = u->wire.norm_elems / VECTOR_BLOCK;
	double sum = 0;

	for (uint64_t i = 0; i < count; i++)
		sum += blocks[i];
	return sum;
}
