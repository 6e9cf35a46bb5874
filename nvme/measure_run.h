/* Private to nvme/: files kept busy at one extent and depth for a while. See measure_run.c. */
#ifndef NVME_MEASURE_RUN_H
#define NVME_MEASURE_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvme/internal.h"

#define RUN_DEPTH_MAX 64u
/*
 * Of each directory. No disk needs more: 14 GB/s for the 1 ms that a request may take are 14 MB.
 * It bounds what measuring takes of memory, and what a choice can cost.
 */
#define RUN_FLIGHT_BYTES_MAX (64u << 20)

enum run_mode { RUN_READ, RUN_WRITE, RUN_MIXED, RUN_MODE_COUNT };

/* One directory's file and the transfers on it. */
struct run_lane {
	const char *name; /* borrowed */
	uint64_t bytes;   /* of the file that are in use */
	uint8_t *mem;     /* RUN_FLIGHT_BYTES_MAX */
	struct nvme_io ios[RUN_DEPTH_MAX];

	/* of the run in work */
	uint64_t at; /* where the next transfer goes */
	uint64_t started, done, counted_bytes;
	uint64_t from_ns, to_ns; /* bytes were counted in between */
	double rate; /* of the last run: bytes a second; 0 when too little was counted */
};

struct run_rig {
	struct run_lane *lanes;
	size_t lane_count;
	const struct nvme_engine_ops *ops;
	void *queue;                                            /* for all lanes at RUN_DEPTH_MAX */
	struct nvme_io *staged[NVME_PATHS_MAX * RUN_DEPTH_MAX]; /* to be given to the kernel */
	unsigned staged_count, in_flight;
	uint64_t written_bytes;
};

struct run {
	enum run_mode mode;
	uint32_t extent;
	unsigned depth;
	size_t first, count;  /* lanes */
	uint64_t each_bytes;  /* stop each lane when it moved this; 0: by the clock */
	double seconds;       /* of counting, at least; unless each_bytes */
	uint64_t deadline_ns; /* stop here, whatever was counted */
};

/*
 * Runs it until nothing is in flight. Each lane's rate is written, unless each_bytes. Returns 0, or
 * ERR_IO or the engine's code with the text in err; then the queue is not to be used again.
 */
int run_lanes(struct run_rig *rig, const struct run *run, struct err *err);

uint64_t run_now_ns(void);

#endif
