/*
 * Where extents lie: the table from (object, extent) to (path, offset), made when a store opens.
 *
 * Called by store.c from the thread that opens the store.
 *
 * Every directory gets a share of the bytes in proportion to its weight, its speed beside the
 * others, so that all of them end a pass at the same time. The shares are fixed here, before the
 * files are made: a store that moved extents while it runs would have to reserve space for what may
 * come on every path, and could then find a disk full in the middle of a step.
 *
 * Invariants
 *  1. Each extent goes to the path that would have it written first, given what lies there already:
 *     after every extent of the order of placement, no path is more than one extent ahead or behind
 *     of its share. So a run of a few extents is served by all paths, too.
 *  2. Placement begins with another extent for each object: objects that are used together extent
 *     by extent, as the moments and the master weights of a unit are, do not meet on one path.
 *  3. What one object has on one path lies together, in order.
 *  4. Where things lie depends on the configuration, weights and rooms only, and what is read
 *     back depends on none of them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nvme/internal.h"

uint64_t nvme_padded(uint64_t bytes)
{
	return (bytes + NVME_ALIGN - 1) / NVME_ALIGN * NVME_ALIGN;
}

uint64_t nvme_store_bytes(const struct nvme_object *objects, size_t object_count)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < object_count; i++) {
		if (objects[i].bytes > INT64_MAX - NVME_ALIGN ||
		    nvme_padded(objects[i].bytes) > INT64_MAX - sum)
			return UINT64_MAX;
		sum += nvme_padded(objects[i].bytes);
	}
	return sum;
}

static int make_tables(struct nvme_layout *l, const struct nvme_object *objects)
{
	size_t i, place_count = 0;

	l->spans = calloc(l->object_count + 1, sizeof(*l->spans));
	if (!l->spans)
		return -ENOMEM;
	for (i = 0; i < l->object_count; i++) {
		struct nvme_span *o = &l->spans[i];

		o->bytes = objects[i].bytes;
		o->extent_bytes = objects[i].extent_bytes;
		o->extent_count = (uint32_t)((o->bytes + o->extent_bytes - 1) / o->extent_bytes);
		o->first_place = place_count;
		place_count += o->extent_count;
	}
	l->places = calloc(place_count + 1, sizeof(*l->places));
	return l->places ? 0 : -ENOMEM;
}

/*
 * The path that would be through with `bytes` more first; one that has no room for them only when
 * none has, and then making its file will say so.
 */
static size_t first_free(const struct nvme_layout *l, const double *weights, const uint64_t *rooms,
			 size_t path_count, uint64_t bytes)
{
	size_t p, best = 0;
	bool fits, best_fits = false;
	double end, best_end = 0;

	for (p = 0; p < path_count; p++) {
		fits = l->file_bytes[p] <= rooms[p] && bytes <= rooms[p] - l->file_bytes[p];
		end = (double)(l->file_bytes[p] + bytes) / weights[p];
		if (p > 0 && (fits < best_fits || (fits == best_fits && end >= best_end)))
			continue;
		best = p;
		best_fits = fits;
		best_end = end;
	}
	return best;
}

static void place_object(struct nvme_layout *l, size_t object, const double *weights,
			 const uint64_t *rooms, size_t path_count)
{
	struct nvme_span *o = &l->spans[object];
	struct nvme_place *places = l->places + o->first_place;
	uint64_t at[NVME_PATHS_MAX], bytes;
	uint32_t k, extent;

	memcpy(at, l->file_bytes, sizeof(at));
	for (k = 0; k < o->extent_count; k++) {
		extent = (uint32_t)((object + k) % o->extent_count);
		bytes = nvme_padded(nvme_span_extent_bytes(o, extent));
		places[extent].path = (uint16_t)first_free(l, weights, rooms, path_count, bytes);
		l->file_bytes[places[extent].path] += bytes;
	}
	for (extent = 0; extent < o->extent_count; extent++) {
		places[extent].offset = at[places[extent].path];
		at[places[extent].path] += nvme_padded(nvme_span_extent_bytes(o, extent));
	}
}

int nvme_layout_init(struct nvme_layout *l, const struct nvme_config *config, const double *weights,
		     const uint64_t *rooms, struct err *err)
{
	size_t object;
	int rc;

	memset(l, 0, sizeof(*l));
	l->object_count = config->object_count;
	rc = make_tables(l, config->objects);
	if (rc < 0)
		return err_sys(err, rc, "swap store of %zu objects", config->object_count);
	for (object = 0; object < l->object_count; object++)
		place_object(l, object, weights, rooms, config->path_count);
	return 0;
}

void nvme_layout_done(struct nvme_layout *l)
{
	free(l->spans);
	free(l->places);
}

uint32_t nvme_span_extent_bytes(const struct nvme_span *o, uint32_t extent)
{
	if (extent + 1 < o->extent_count)
		return o->extent_bytes;
	return (uint32_t)(o->bytes - (uint64_t)extent * o->extent_bytes);
}
