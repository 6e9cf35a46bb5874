/*
 * Collectives among the ranks of a job, enqueued on a device's stream. All ranks enqueue the same
 * calls in the same order on one stream. Backends:
 *
 *   shm    ranks of one host, cpu device. Reductions are in fp32 and in rank order, ((r0 + r1) +
 *          r2) + ..., bf16 rounded once at the end. The death of a peer is not noticed here:
 *          whoever supervises the ranks kills the others.
 *   nccl   cuda device. The order of a reduction is NCCL's; equal sizes give equal bits. A peer's
 *          death and an error of the communicator end what waits for it at once.
 *
 * Results do not depend on timing. A failure sticks to the stream's device.
 */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "kernels/device.h"
#include "kernels/dtype.h"

struct comm;

#define COMM_WORLD_MAX 1024u
#define COMM_ID_BYTES  128u

enum comm_backend { COMM_SHM, COMM_NCCL, COMM_BACKEND_COUNT };

struct comm_config {
	enum comm_backend backend;
	unsigned rank, world;
	int shm_fd; /* a memfd of comm_shm_bytes(world), shared by all ranks; borrowed */

	/* nccl */
	struct device *device; /* of the streams; borrowed until comm_free */
	int news_fd; /* comm/news.h: brings the id, and deaths; borrowed until comm_free */
	/* Rank 0 makes the id and hands it out; it comes back to every rank through news_fd. */
	int (*publish)(void *arg, const uint8_t id[COMM_ID_BYTES], struct err *err);
	void *publish_arg;
	uint64_t timeout_ns; /* once the id has come, all ranks must have within this time */
};

/* Bytes of the memfd that the ranks of a host share. */
size_t comm_shm_bytes(unsigned world);

/* How much of it they touch: all with shm; with nccl, of which no byte goes that way, one page. */
size_t comm_used_bytes(enum comm_backend backend, unsigned world);

/* Is the backend in this build? */
bool comm_backend_built(enum comm_backend backend);

/*
 * Waits for all ranks to arrive. ERR_CONFIG when the backend is not in this build, or its library
 * not to be had.
 */
int comm_open(const struct comm_config *config, struct comm **ret, struct err *err);

/* Work that was enqueued must have run, or the device have failed. NULL is fine. */
struct comm *comm_free(struct comm *comm);

/*
 * Rank r's `bytes` at `part` become part r of `whole` ([world][bytes]) on every rank. `part` may
 * be this rank's place in `whole`.
 */
void comm_all_gather(struct comm *comm, struct device_stream *stream, void *whole, const void *part,
		     size_t bytes);

/* part[i] = sum over ranks of their whole[rank * count + i]; whole is [world][count]. */
void comm_reduce_scatter(struct comm *comm, struct device_stream *stream, enum dtype type,
			 void *part, const void *whole, size_t count);

/*
 * data[i] = sum over ranks, on every rank. Where count is a multiple of the world, the bits are
 * those that comm_reduce_scatter gives.
 */
void comm_all_reduce(struct comm *comm, struct device_stream *stream, enum dtype type, void *data,
		     size_t count);

void comm_broadcast(struct comm *comm, struct device_stream *stream, void *data, size_t bytes,
		    unsigned root);

/* Bytes this rank has moved through the backend. */
uint64_t comm_moved_bytes(const struct comm *comm);

#endif
