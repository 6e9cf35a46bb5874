/*
 * A submission, checked against the session's plan and turned into how it moves: which parts are
 * read, whether there is arithmetic, which parts are written. The session's thread calls, with the
 * copy that was popped from the ring; nothing of it is looked at in shared memory.
 *
 *	op        reads            arithmetic     writes           through
 *	FETCH     param                                            the arena itself
 *	GRAD      grad if adding   add, squares   grad             a buffer; the arena itself where
 *	                                                           it is kept as it came
 *	STEP      param state grad optimizer      param state      a buffer
 *	IMPORT                     split          param state      a buffer
 *	EXPORT    param state      join                            a buffer
 *	STORE                                     blob             the arena itself
 *	LOAD      blob                                             the arena itself
 *	PREPARE   (early.c)
 *
 * Parts that live in memory are neither read nor written; an operation of such parts only needs no
 * buffer.
 */
#include "daemon/internal.h"

#include <inttypes.h>
#include <math.h>

static bool inside(const struct session *s, uint64_t offset, uint64_t bytes)
{
	const struct session_plan *p = s->plan;

	return offset % PROTOCOL_ALIGN_BYTES == 0 && offset >= p->data_offset &&
	       offset <= p->arena_bytes && bytes <= p->arena_bytes - offset;
}

static const char *const op_names[] = {
	[PROTOCOL_OP_FETCH] = "FETCH",   [PROTOCOL_OP_GRAD] = "GRAD",
	[PROTOCOL_OP_STEP] = "STEP",     [PROTOCOL_OP_IMPORT] = "IMPORT",
	[PROTOCOL_OP_EXPORT] = "EXPORT", [PROTOCOL_OP_STORE] = "STORE",
	[PROTOCOL_OP_LOAD] = "LOAD",     [PROTOCOL_OP_PREPARE] = "PREPARE",
};

static int bad(const struct op *op, struct err *err, const char *what)
{
	return err_set(err, ERR_PROTOCOL, "protocol error: %s of %u: %s", op_names[op->sub.op],
		       op->sub.unit, what);
}

static int bad_place(const struct op *op, struct err *err, uint64_t bytes)
{
	return err_set(err, ERR_PROTOCOL,
		       "protocol error: %s of %u: %" PRIu64 " bytes at offset %" PRIu64
		       " are not inside the arena, or not aligned",
		       op_names[op->sub.op], op->sub.unit, bytes, op->sub.offset);
}

/* Of `parts`, those that the unit has in swap. */
static uint8_t swapped(const struct unit_plan *u, unsigned parts)
{
	unsigned set = 0;

	for (int part = 0; part < PART_COUNT; part++)
		if (u->home[part] == PROTOCOL_HOME_SWAP)
			set |= parts & PART_BIT(part);
	return (uint8_t)set;
}

static int fetch_plan(const struct session *s, struct op *op, struct err *err)
{
	const struct unit_plan *u = op->unit;
	uint64_t bytes = session_part_bytes(s->plan, PART_PARAM, u->wire.elems);

	if (u->home[PART_PARAM] == PROTOCOL_HOME_MEMORY) {
		op->sub.offset = u->wire.param_offset;
		return 0; /* no chunk to move: its turn is all that it waits for */
	}
	if (!inside(s, op->sub.offset, bytes))
		return bad_place(op, err, bytes);
	op->reads = PART_BIT(PART_PARAM);
	op->object = u->object[PART_PARAM];
	op->stride_bytes = session_part_bytes(s->plan, PART_PARAM, s->plan->open.chunk_elems);
	op->count = u->chunk_count;
	return 0;
}

static int grad_plan(const struct session *s, struct op *op, struct err *err)
{
	const struct session_plan *p = s->plan;
	const struct unit_plan *u = op->unit;
	uint64_t elem_bytes = dtype_bytes(p->grad_type);
	bool first = op->sub.flags & PROTOCOL_FLAG_FIRST;

	if (u->home[PART_GRAD] == PROTOCOL_HOME_NONE)
		return bad(op, err, "its gradients are not kept, they come with STEP");
	if (!first && !p->open.accumulate)
		return bad(op, err, "a second gradient, and the session does not accumulate");
	if (!inside(s, op->sub.offset, u->wire.elems * elem_bytes))
		return bad_place(op, err, u->wire.elems * elem_bytes);
	op->writes = swapped(u, PART_BIT(PART_GRAD));
	op->reads = first ? 0 : op->writes;
	op->buffered = op->writes && !(first && p->kept_type == p->grad_type);
	op->compute = op->buffered || !op->writes || (op->sub.flags & PROTOCOL_FLAG_LAST);
	op->object = u->object[PART_GRAD];
	op->stride_bytes = p->open.chunk_elems * elem_bytes;
	op->count = u->chunk_count;
	return 0;
}

static int step_plan(const struct session *s, struct op *op, struct err *err)
{
	const struct session_plan *p = s->plan;
	const struct unit_plan *u = op->unit;
	struct optimizer_hyper hyper = p->hyper;
	uint64_t bytes = u->wire.elems * dtype_bytes(p->grad_type);
	bool from_arena = op->sub.flags & PROTOCOL_FLAG_FROM_ARENA;

	if (!from_arena && u->home[PART_GRAD] == PROTOCOL_HOME_NONE)
		return bad(op, err, "no gradient: none is kept, and none comes with it");
	if (from_arena && !inside(s, op->sub.offset, bytes))
		return bad_place(op, err, bytes);
	if (op->sub.step == 0 || !isfinite(op->sub.lr) || !isfinite(op->sub.grad_scale))
		return bad(op, err, "step 0, or a rate or scale that is not finite");
	hyper.lr = op->sub.lr;
	op->scalars = optimizer_scalars_make(&hyper, op->sub.step, op->sub.grad_scale);
	op->writes = swapped(u, PART_BIT(PART_PARAM) | PART_BIT(PART_STATE));
	op->reads = op->writes | (from_arena ? 0 : swapped(u, PART_BIT(PART_GRAD)));
	op->buffered = op->reads != 0;
	op->compute = true;
	op->count = u->chunk_count;
	return 0;
}

/* IMPORT and EXPORT: one chunk of master and moments. */
static int transfer_plan(const struct session *s, struct op *op, struct err *err)
{
	const struct unit_plan *u = op->unit;
	uint8_t parts = swapped(u, PART_BIT(PART_PARAM) | PART_BIT(PART_STATE));
	uint64_t bytes;

	if (op->sub.chunk >= u->chunk_count)
		return bad(op, err, "it has no such chunk");
	bytes = (1 + optimizer_moment_count(s->plan->hyper.kind)) * sizeof(float) *
		unit_chunk_elems(s->plan, u, op->sub.chunk);
	if (!inside(s, op->sub.offset, bytes))
		return bad_place(op, err, bytes);
	if (op->sub.op == PROTOCOL_OP_IMPORT)
		op->writes = parts;
	else
		op->reads = parts;
	op->buffered = parts != 0;
	op->compute = true;
	op->first = op->sub.chunk;
	op->count = 1;
	return 0;
}

static int blob_plan(const struct session *s, struct op *op, struct err *err)
{
	const struct session_plan *p = s->plan;

	if (op->sub.unit >= p->open.blob_count)
		return bad(op, err, "there is no such blob");
	if (!inside(s, op->sub.offset, p->blobs[op->sub.unit]))
		return bad_place(op, err, p->blobs[op->sub.unit]);
	op->lane = &s->blob_lanes[op->sub.unit];
	/* A blob has but one part; which bit stands for it is all the same. */
	if (op->sub.op == PROTOCOL_OP_STORE)
		op->writes = PART_BIT(PART_PARAM);
	else
		op->reads = PART_BIT(PART_PARAM);
	op->object = p->blob_object + op->sub.unit;
	op->stride_bytes = p->open.blob_extent_bytes;
	op->count = nvme_extent_count(s->store, op->object);
	return 0;
}

/* No chunk to move: it takes effect when its turn comes. */
static int prepare_plan(const struct session *s, struct op *op, struct err *err)
{
	(void)s;
	(void)op;
	(void)err;
	return 0;
}

int op_plan(const struct session *s, struct op *op, struct err *err)
{
	static int (*const plans[])(const struct session *, struct op *, struct err *) = {
		[PROTOCOL_OP_FETCH] = fetch_plan,     [PROTOCOL_OP_GRAD] = grad_plan,
		[PROTOCOL_OP_STEP] = step_plan,       [PROTOCOL_OP_IMPORT] = transfer_plan,
		[PROTOCOL_OP_EXPORT] = transfer_plan, [PROTOCOL_OP_PREPARE] = prepare_plan,
	};
	uint32_t kind = op->sub.op;

	if (kind < PROTOCOL_OP_FETCH || kind > PROTOCOL_OP_PREPARE)
		return err_set(err, ERR_PROTOCOL, "protocol error: operation %u is not known",
			       kind);
	if (kind == PROTOCOL_OP_STORE || kind == PROTOCOL_OP_LOAD)
		return blob_plan(s, op, err);
	if (op->sub.unit >= s->plan->open.unit_count)
		return bad(op, err, "there is no such unit");
	op->unit = &s->plan->units[op->sub.unit];
	op->lane = &s->unit_lanes[op->sub.unit];
	return plans[kind](s, op, err);
}
