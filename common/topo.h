/*
 * Where processes run: the cores this process may use, split among workers, through hwloc.
 * DSRUN_TOPOLOGY holds an hwloc synthetic description ("numa:2 core:4 pu:2") for tests, which
 * then plan without binding.
 */
#ifndef COMMON_TOPO_H
#define COMMON_TOPO_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct topo; /* opaque; one thread at a time */

int topo_open(struct topo **ret, struct err *err);
struct topo *topo_free(struct topo *topo);

unsigned topo_cores(const struct topo *topo); /* physical cores allowed, at least 1 */
unsigned topo_numa_nodes(const struct topo *topo);
bool topo_is_synthetic(const struct topo *topo);

#define TOPO_SET_TEXT_BYTES 256

/*
 * The cpuset, as hwloc list text ("0-3,8"), of part `index` of `parts` equal parts: whole cores,
 * neighbours together, each part within one NUMA node where that can be. When there are more parts
 * than cores, parts share cores. Returns 0 or a negative code.
 */
int topo_split(const struct topo *topo, unsigned index, unsigned parts,
	       char ret_set[TOPO_SET_TEXT_BYTES], unsigned *ret_cores, struct err *err);

/*
 * The same of the cores of one NUMA node, by the number that the system gives it. -ENOENT when no
 * core of it is ours.
 */
int topo_split_node(const struct topo *topo, unsigned node, unsigned index, unsigned parts,
		    char ret_set[TOPO_SET_TEXT_BYTES], unsigned *ret_cores, struct err *err);

/* Binds the calling thread (and what it creates later) to a set made by topo_split. */
int topo_bind_thread(const struct topo *topo, const char *set, struct err *err);

#endif
