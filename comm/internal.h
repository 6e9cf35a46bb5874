/* Private to comm/: what a backend provides, and what several of them use. */
#ifndef COMM_INTERNAL_H
#define COMM_INTERNAL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "common/err.h"

enum comm_kind { COMM_ALL_GATHER, COMM_REDUCE_SCATTER, COMM_ALL_REDUCE, COMM_BROADCAST };

/* One collective, as its public function was given it. */
struct comm_call {
	enum comm_kind kind;
	enum dtype type; /* reductions: of the elements */
	unsigned root;
	void *out;
	const void *in; /* NULL: `out` is both */
	size_t size;    /* elements of a reduction, else bytes; never 0 */
};

/*
 * A backend has one of `run` and `enqueue`. `bytes_moved` counts what this rank puts into and takes
 * out of the backend. Each returns 0 or a negative code with err filled.
 */
struct comm_ops {
	/* Waits for all ranks. */
	int (*open)(const struct comm_config *config, void **ret, struct err *err);
	void (*free)(void *state);
	/* The call from its beginning to its end, in the calling thread: a stream's. */
	int (*run)(void *state, const struct comm_call *call, uint64_t *bytes_moved,
		   struct err *err);
	/* Enqueues the call on the device's own stream, from the thread that feeds it. */
	int (*enqueue)(void *state, struct device_stream *stream, const struct comm_call *call,
		       uint64_t *bytes_moved, struct err *err);
};

extern const struct comm_ops comm_shm_ops;
extern const struct comm_ops comm_nccl_ops; /* where nccl.h was found */

/*
 * The roll at the head of the segment that the ranks of a host share: what world and layout it is
 * for, and who has come. All zero at first.
 */
struct comm_roll {
	_Alignas(128) _Atomic uint64_t tag;
	_Alignas(128) _Atomic uint8_t present[COMM_WORLD_MAX];
};

/* What a mapping of it takes. */
#define COMM_ROLL_BYTES 4096u
_Static_assert(sizeof(struct comm_roll) <= COMM_ROLL_BYTES, "the roll is one page");

/*
 * Enters a rank. ERR_PROTOCOL when others were told another world or layout (`tag`, with its low
 * 24 bits free for the world), or when the rank is there already.
 */
int comm_roll_join(struct comm_roll *roll, uint64_t tag, unsigned rank, unsigned world,
		   struct err *err);

/* How many have not come; *ret names the first of them: "rank 3", "ranks 1, 2". */
#define COMM_ROLL_TEXT_BYTES 128
unsigned comm_roll_missing(const struct comm_roll *roll, unsigned world,
			   char ret[COMM_ROLL_TEXT_BYTES]);

#endif
