/* Which NUMA node each GPU of this host hangs on, without asking CUDA. */
#ifndef LAUNCHER_GPU_H
#define LAUNCHER_GPU_H

#include "common/err.h"

/*
 * The node of each of the first `count` GPUs that a CUDA program would see with
 * CUDA_DEVICE_ORDER=PCI_BUS_ID and CUDA_VISIBLE_DEVICES=`visible` (NULL: not set), in its order;
 * -1 for one of which the system does not know it. `root` is "" but in tests: it stands before /sys
 * and /dev. Where the answer would be a guess (`visible` holds other names than ordinals, or too
 * few; /dev shows other GPUs than /sys, as in some containers) ERR_UNAVAILABLE with the reason.
 */
int gpu_nodes(const char *root, const char *visible, unsigned count, int *ret_nodes,
	      struct err *err);

#endif
