/*
 * Initial weights, piece by piece. Called by the worker's main thread before the first step.
 *
 * Invariant: a weight is a function of (seed, tensor, element), so every rank makes its own share
 * and every world size starts from the same model.
 */
#include "worker/init.h"

#include <string.h>

#include "common/rng.h"

static uint64_t tensors_before(const struct arch *arch, size_t unit)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < unit; i++)
		sum += arch->units[i].tensor_count;
	return sum;
}

static void fill(const struct arch_tensor *t, uint64_t seed, uint64_t id, uint64_t first,
		 uint64_t count, float *ret)
{
	for (uint64_t i = 0; i < count; i++)
		switch (t->init) {
		case ARCH_INIT_ZERO:
			ret[i] = 0;
			break;
		case ARCH_INIT_ONE:
			ret[i] = 1;
			break;
		case ARCH_INIT_NORMAL:
			ret[i] = (float)(t->std * rng_normal(seed, id, first + i));
			break;
		}
}

void init_fill(const struct arch *arch, uint64_t seed, size_t unit, uint64_t first, uint64_t count,
	       float *ret)
{
	const struct arch_unit *u = &arch->units[unit];
	uint64_t id = tensors_before(arch, unit);

	/* Padding behind the unit's elements stays zero. */
	memset(ret, 0, count * sizeof(*ret));
	for (size_t i = 0; i < u->tensor_count; i++) {
		const struct arch_tensor *t = &u->tensors[i];
		uint64_t from = first > t->offset ? first : t->offset;
		uint64_t piece_end = first + count, tensor_end = t->offset + t->count;
		uint64_t end = piece_end < tensor_end ? piece_end : tensor_end;

		if (from < end)
			fill(t, seed, id + i, from - t->offset, end - from, ret + (from - first));
	}
}

int init_engine(struct engine *engine, const struct arch *arch, uint64_t seed, struct err *err)
{
	for (size_t u = 0; u < arch->unit_count; u++)
		for (size_t i = 0; i < engine_import_pieces(engine, u); i++) {
			struct engine_piece p;
			int rc = engine_import_begin(engine, u, i, &p, err);

			if (rc < 0)
				return rc;
			init_fill(arch, seed, u, p.first, p.count, p.master);
			memset(p.m, 0, p.count * sizeof(*p.m));
			if (p.v)
				memset(p.v, 0, p.count * sizeof(*p.v));
			rc = engine_import_end(engine, &p, err);
			if (rc < 0)
				return rc;
		}
	return engine_import_done(engine, err);
}
