/* Private to comm/: what a backend provides. */
#ifndef COMM_INTERNAL_H
#define COMM_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "common/err.h"

/*
 * The collectives of comm.h, run to their end in the calling thread: a stream's. `bytes_moved` in
 * the results counts what this rank put into and took out of the backend. Each returns 0 or a
 * negative code with err filled.
 */
struct comm_ops {
	/* Waits for all ranks. */
	int (*open)(const struct comm_config *config, void **ret, struct err *err);
	void (*free)(void *state);
	int (*all_gather)(void *state, void *whole, const void *part, size_t bytes,
			  uint64_t *bytes_moved, struct err *err);
	int (*reduce_scatter)(void *state, float *part, const float *whole, size_t count,
			      uint64_t *bytes_moved, struct err *err);
	int (*all_reduce)(void *state, float *data, size_t count, uint64_t *bytes_moved,
			  struct err *err);
	int (*broadcast)(void *state, void *data, size_t bytes, unsigned root,
			 uint64_t *bytes_moved, struct err *err);
	int (*barrier)(void *state, struct err *err);
};

extern const struct comm_ops comm_shm_ops;

#endif
