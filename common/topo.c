/*
 * Where processes run: hwloc's view of the machine, cut down to the cores we may use.
 *
 * Called by dsrun, its agent, the daemon and workers at their start; one thread at a time.
 * Invariants:
 * 1. Cores are those whose hardware threads the process's own binding and its cgroup allow.
 * 2. Cores stand in groups, one for each NUMA node that has cores of ours. Groups and the cores in
 *    them keep hwloc's logical order, so neighbours in the list are neighbours in the machine.
 * 3. A synthetic machine is never bound to.
 */
#include "common/topo.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <hwloc.h>

struct group {
	unsigned first, count; /* in topo->cores */
	unsigned node;         /* as the system numbers it */
};

struct topo {
	hwloc_topology_t hwloc;
	hwloc_cpuset_t allowed;
	hwloc_cpuset_t *cores;
	struct group *groups;
	unsigned core_count, group_count;
	bool synthetic;
};

static int no_memory(struct err *err)
{
	return err_sys(err, -ENOMEM, "topology");
}

static int load(struct topo *topo, struct err *err)
{
	const char *synthetic = getenv("DSRUN_TOPOLOGY");

	if (hwloc_topology_init(&topo->hwloc) < 0) {
		topo->hwloc = NULL;
		return no_memory(err);
	}
	topo->synthetic = synthetic && *synthetic;
	if (topo->synthetic && hwloc_topology_set_synthetic(topo->hwloc, synthetic) < 0)
		return err_set(err, ERR_CONFIG, "DSRUN_TOPOLOGY: '%s' describes no machine",
			       synthetic);
	if (hwloc_topology_load(topo->hwloc) < 0)
		return err_sys(err, -errno, "topology: reading the machine");
	return 0;
}

static int allowed_find(struct topo *topo, struct err *err)
{
	hwloc_cpuset_t bound;

	topo->allowed = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topo->hwloc));
	bound = hwloc_bitmap_alloc();
	if (!topo->allowed || !bound) {
		hwloc_bitmap_free(bound);
		return no_memory(err);
	}
	/* Where the system does not tell a binding there is none. */
	if (!topo->synthetic && hwloc_get_cpubind(topo->hwloc, bound, HWLOC_CPUBIND_PROCESS) == 0 &&
	    hwloc_bitmap_intersects(topo->allowed, bound))
		hwloc_bitmap_and(topo->allowed, topo->allowed, bound);
	hwloc_bitmap_free(bound);
	return 0;
}

/* Appends the allowed cores within `within` as a group, unless there are none. */
static int group_add(struct topo *topo, hwloc_const_cpuset_t within, unsigned node, struct err *err)
{
	/* Some virtual machines show hardware threads only. */
	hwloc_obj_type_t type = hwloc_get_nbobjs_by_type(topo->hwloc, HWLOC_OBJ_CORE) > 0
					? HWLOC_OBJ_CORE
					: HWLOC_OBJ_PU;
	unsigned first = topo->core_count;
	hwloc_obj_t obj = NULL;

	while ((obj = hwloc_get_next_obj_by_type(topo->hwloc, type, obj))) {
		hwloc_cpuset_t set;

		if (!obj->cpuset || !hwloc_bitmap_isincluded(obj->cpuset, within))
			continue;
		set = hwloc_bitmap_alloc();
		if (!set)
			return no_memory(err);
		hwloc_bitmap_and(set, obj->cpuset, topo->allowed);
		if (hwloc_bitmap_iszero(set))
			hwloc_bitmap_free(set);
		else
			topo->cores[topo->core_count++] = set;
	}
	if (topo->core_count > first)
		topo->groups[topo->group_count++] =
			(struct group){first, topo->core_count - first, node};
	return 0;
}

/* Memory of several kinds may share its cores; those are one node to us. */
static bool seen_before(const struct topo *topo, hwloc_obj_t node)
{
	hwloc_obj_t other = NULL;

	while ((other = hwloc_get_next_obj_by_type(topo->hwloc, HWLOC_OBJ_NUMANODE, other)) &&
	       other != node)
		if (hwloc_bitmap_intersects(other->cpuset, node->cpuset))
			return true;
	return false;
}

static int groups_find(struct topo *topo, struct err *err)
{
	unsigned pus = (unsigned)hwloc_get_nbobjs_by_type(topo->hwloc, HWLOC_OBJ_PU);
	unsigned nodes = (unsigned)hwloc_get_nbobjs_by_type(topo->hwloc, HWLOC_OBJ_NUMANODE);
	hwloc_obj_t node = NULL;
	int rc = 0;

	topo->cores = calloc(pus, sizeof(hwloc_cpuset_t));
	topo->groups = calloc((size_t)nodes + 1, sizeof(*topo->groups));
	if (!topo->cores || !topo->groups)
		return no_memory(err);
	while (rc == 0 &&
	       (node = hwloc_get_next_obj_by_type(topo->hwloc, HWLOC_OBJ_NUMANODE, node)))
		if (!seen_before(topo, node))
			rc = group_add(topo, node->cpuset, node->os_index, err);
	if (rc == 0 && topo->core_count == 0)
		rc = group_add(topo, hwloc_topology_get_topology_cpuset(topo->hwloc), 0, err);
	if (rc == 0 && topo->core_count == 0)
		rc = err_set(err, ERR_CONFIG, "topology: no core that this process may use");
	return rc;
}

int topo_open(struct topo **ret, struct err *err)
{
	struct topo *topo = calloc(1, sizeof(*topo));
	int rc;

	if (!topo)
		return no_memory(err);
	rc = load(topo, err);
	if (rc == 0)
		rc = allowed_find(topo, err);
	if (rc == 0)
		rc = groups_find(topo, err);
	if (rc < 0) {
		topo_free(topo);
		return rc;
	}
	*ret = topo;
	return 0;
}

struct topo *topo_free(struct topo *topo)
{
	if (!topo)
		return NULL;
	for (unsigned i = 0; i < topo->core_count; i++)
		hwloc_bitmap_free(topo->cores[i]);
	free(topo->cores);
	free(topo->groups);
	hwloc_bitmap_free(topo->allowed);
	if (topo->hwloc)
		hwloc_topology_destroy(topo->hwloc);
	free(topo);
	return NULL;
}

unsigned topo_cores(const struct topo *topo)
{
	return topo->core_count;
}

unsigned topo_numa_nodes(const struct topo *topo)
{
	return topo->group_count;
}

bool topo_is_synthetic(const struct topo *topo)
{
	return topo->synthetic;
}

/* Part `index` of `parts` of `count` things in a row; at least one of them, shared if need be. */
static struct group share(unsigned index, unsigned parts, unsigned count)
{
	unsigned first = (unsigned)((uint64_t)index * count / parts);
	unsigned end = (unsigned)((uint64_t)(index + 1) * count / parts);

	return (struct group){first, end > first ? end - first : 1, 0};
}

/*
 * The cores of a part. With fewer parts than nodes a part takes whole nodes. Otherwise a node takes
 * the parts whose middle falls into its share of the cores, and cuts its own cores among them.
 */
static struct group part_find(const struct topo *topo, unsigned index, unsigned parts)
{
	uint64_t cores = topo->core_count;
	struct group nodes, cut;

	if (parts < topo->group_count) {
		const struct group *last;

		nodes = share(index, parts, topo->group_count);
		last = &topo->groups[nodes.first + nodes.count - 1];
		cut.first = topo->groups[nodes.first].first;
		cut.count = last->first + last->count - cut.first;
		return cut;
	}
	for (unsigned i = 0; i < topo->group_count; i++) {
		const struct group *g = &topo->groups[i];
		/* Parts before this node and up to its end, rounded to the nearest. */
		uint64_t end = g->first + g->count;
		uint64_t before = (2 * (uint64_t)parts * g->first + cores) / (2 * cores);
		uint64_t until = (2 * (uint64_t)parts * end + cores) / (2 * cores);

		if (index < before || index >= until)
			continue;
		cut = share((unsigned)(index - before), (unsigned)(until - before), g->count);
		cut.first += g->first;
		return cut;
	}
	/* The last node's end is `parts`, so every part was found. */
	assert(!"a part without a node");
	return (struct group){0, topo->core_count, 0};
}

/* Part `index` of `parts`, as list text. */
static int part_text(const struct topo *topo, const struct group *part, unsigned index,
		     unsigned parts, char ret_set[TOPO_SET_TEXT_BYTES], struct err *err)
{
	char text[TOPO_SET_TEXT_BYTES];
	hwloc_cpuset_t set = hwloc_bitmap_alloc();
	int len;

	if (!set)
		return no_memory(err);
	for (unsigned i = 0; i < part->count; i++)
		hwloc_bitmap_or(set, set, topo->cores[part->first + i]);
	len = hwloc_bitmap_list_snprintf(text, sizeof(text), set);
	hwloc_bitmap_free(set);
	if (len < 0 || (size_t)len >= sizeof(text))
		return err_sys(err, -EOVERFLOW, "topology: the core list of part %u of %u", index,
			       parts);
	memcpy(ret_set, text, (size_t)len + 1);
	return 0;
}

int topo_split(const struct topo *topo, unsigned index, unsigned parts,
	       char ret_set[TOPO_SET_TEXT_BYTES], unsigned *ret_cores, struct err *err)
{
	struct group part;
	int rc;

	if (index >= parts)
		return err_sys(err, -EINVAL, "topology: part %u of %u", index, parts);
	part = part_find(topo, index, parts);
	rc = part_text(topo, &part, index, parts, ret_set, err);
	if (rc == 0)
		*ret_cores = part.count;
	return rc;
}

int topo_split_node(const struct topo *topo, unsigned node, unsigned index, unsigned parts,
		    char ret_set[TOPO_SET_TEXT_BYTES], unsigned *ret_cores, struct err *err)
{
	const struct group *g = topo->groups, *end = g + topo->group_count;
	struct group part;
	int rc;

	if (index >= parts)
		return err_sys(err, -EINVAL, "topology: part %u of %u", index, parts);
	while (g < end && g->node != node)
		g++;
	if (g == end)
		return err_set(err, -ENOENT, "NUMA node %u has no core that this process may use",
			       node);
	part = share(index, parts, g->count);
	part.first += g->first;
	rc = part_text(topo, &part, index, parts, ret_set, err);
	if (rc == 0)
		*ret_cores = part.count;
	return rc;
}

int topo_bind_thread(const struct topo *topo, const char *set, struct err *err)
{
	hwloc_cpuset_t bitmap;
	int rc = 0;

	if (topo->synthetic)
		return 0;
	bitmap = hwloc_bitmap_alloc();
	if (!bitmap)
		return no_memory(err);
	if (hwloc_bitmap_list_sscanf(bitmap, set) < 0 || hwloc_bitmap_iszero(bitmap))
		rc = err_sys(err, -EINVAL, "topology: '%s' is no core list", set);
	else if (hwloc_set_cpubind(topo->hwloc, bitmap, HWLOC_CPUBIND_THREAD) < 0)
		rc = err_sys(err, -errno, "binding to cores %s", set);
	hwloc_bitmap_free(bitmap);
	return rc;
}
