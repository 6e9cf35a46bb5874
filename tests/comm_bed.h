/* What the collectives must do whatever the backend, as cases that each rank runs. */
#ifndef TESTS_COMM_BED_H
#define TESTS_COMM_BED_H

#include <stdbool.h>
#include <stdio.h>

#include "comm/comm.h"
#include "comm/news.h"

#define COMM_BED_WORLD_MAX 5u
#define COMM_BED_SEED      977u

/* Ranks say no more than this of a failure: the line, and whose. */
#define REQUIRE(what)                                                                              \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			printf("rank %u of %u, %s:%d: %s; %s\n", x->rank, x->world, __FILE__,      \
			       __LINE__, #what, x->err.text);                                      \
			fflush(stdout);                                                            \
			return 1;                                                                  \
		}                                                                                  \
	} while (0)

#define TAKEN_MAX 4u

struct rank {
	unsigned rank, world;
	enum comm_backend backend;
	int fd;                    /* the shared segment */
	const int *news;           /* nccl: [world][2], each rank's pipe */
	uint64_t timeout_ns;       /* nccl: to meet in; 0: a minute */
	void (*before_open)(void); /* between the device and the communicator */

	struct device *device;
	struct device_stream *stream;
	struct comm *comm;
	struct err err;
	char *scratch; /* cuda: device memory that buffers are cut from */
	size_t scratch_used;
	void *taken[TAKEN_MAX];
	unsigned taken_count;
};

typedef int rank_fn(struct rank *x);

/* Device, stream and communicator, and their end. 0, or what a rank returns when it has failed. */
int comm_bed_begin(struct rank *x);
int comm_bed_end(struct rank *x);

/* Cases: rank_fn each. */
int comm_bed_all_sizes(struct rank *x);
int comm_bed_many_calls(struct rank *x);
int comm_bed_a_failure_sticks(struct rank *x);

/* Every rank a process, or a thread. Ends the others when one has failed; then the test fails. */
void comm_bed_processes(enum comm_backend backend, unsigned world, rank_fn *fn);
void comm_bed_threads(enum comm_backend backend, unsigned world, rank_fn *fn);

int comm_bed_segment(unsigned world);

/* The pipes of news: rank 0's id goes into all of them. */
void comm_bed_news_open(unsigned world, int news[][2]);
void comm_bed_news_close(unsigned world, int news[][2]);

#endif
