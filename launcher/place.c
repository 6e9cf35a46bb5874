/*
 * Where workers run. Called by the agent before it starts them.
 *
 * 1. A worker of the cpu device gets its share of all cores; so does one of a cuda device where the
 *    place of its GPU is not known, which is said unless the system has no such places.
 * 2. Else a worker gets its share of the cores of its GPU's NUMA node, shared among the workers of
 *    that node. All workers are placed by the same rule: two rules would give a core to two.
 */
#include "launcher/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/gpu.h"

static int place_everywhere(struct agent *a, unsigned world, struct err *err)
{
	unsigned cores;

	for (unsigned i = 0; i < world; i++)
		if (topo_split(a->topo, i, world, a->children[i].cores, &cores, err) < 0)
			return err_add(err, "rank %u", i);
	return 0;
}

/* Among the workers of its node: which is i, of how many? */
static void among(const int *nodes, unsigned world, unsigned i, unsigned *ret_index,
		  unsigned *ret_parts)
{
	*ret_index = *ret_parts = 0;
	for (unsigned j = 0; j < world; j++) {
		if (nodes[j] != nodes[i])
			continue;
		*ret_index += j < i;
		++*ret_parts;
	}
}

/* 1 when done, 0 when the system does not say where GPUs are, or the reason why it is not done. */
static int place_near(struct agent *a, const int *nodes, unsigned world, struct err *err)
{
	unsigned index, parts, cores;

	for (unsigned i = 0; i < world; i++)
		if (nodes[i] < 0)
			return 0;
	for (unsigned i = 0; i < world; i++) {
		among(nodes, world, i, &index, &parts);
		if (topo_split_node(a->topo, (unsigned)nodes[i], index, parts, a->children[i].cores,
				    &cores, err) < 0)
			return err_add(err, "rank %u", i);
	}
	return 1;
}

static int place_by_gpu(struct agent *a, const char *root, unsigned world, struct err *err)
{
	const char *order = getenv("CUDA_DEVICE_ORDER");
	int *nodes, rc;

	if (order && strcmp(order, "PCI_BUS_ID") != 0)
		return err_set(err, ERR_UNAVAILABLE, "CUDA_DEVICE_ORDER is '%s'", order);
	nodes = calloc(world, sizeof(*nodes));
	if (!nodes)
		return err_sys(err, -ENOMEM, "GPUs");
	rc = gpu_nodes(root, getenv("CUDA_VISIBLE_DEVICES"), world, nodes, err);
	if (rc == 0)
		rc = place_near(a, nodes, world, err);
	free(nodes);
	return rc;
}

int agent_place(struct agent *a, const char *root, struct err *err)
{
	unsigned world = (unsigned)a->launch.job.world;
	char text[ERR_TEXT_BYTES + 64];
	struct err why = {0};
	int rc = a->launch.cuda ? place_by_gpu(a, root, world, &why) : 0;

	if (rc < 0) {
		int len = snprintf(text, sizeof(text), "workers are not bound near their GPUs: %s",
				   why.text);
		agent_put(a, LINK_NOTICE, LINK_RANK_NONE, NULL, 0, text, (size_t)len);
	}
	return rc > 0 ? 0 : place_everywhere(a, world, err);
}
