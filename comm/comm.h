/*
 * Collectives among the ranks of a job, enqueued on a device's stream. All ranks enqueue the same
 * calls in the same order on one stream. Reductions are in fp32 and in rank order, ((r0 + r1) + r2)
 * + ..., so that results do not depend on timing. Backends: shm (ranks of one host, cpu device).
 *
 * A failure sticks to the stream's device. The death of a peer is not noticed here: whoever
 * supervises the ranks kills the others.
 */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "kernels/device.h"

struct comm;

#define COMM_WORLD_MAX 1024u

enum comm_backend { COMM_SHM };

struct comm_config {
	enum comm_backend backend;
	unsigned rank, world;
	int shm_fd; /* shm: a memfd of comm_shm_bytes(world), shared by all ranks; borrowed */
};

/* Bytes of the memfd that the ranks of a host share. Every rank maps and touches all of it. */
size_t comm_shm_bytes(unsigned world);

/* Waits for all ranks to arrive. */
int comm_open(const struct comm_config *config, struct comm **ret, struct err *err);
struct comm *comm_free(struct comm *comm);

/*
 * Rank r's `bytes` at `part` become part r of `whole` ([world][bytes]) on every rank. `part` may
 * be this rank's place in `whole`.
 */
void comm_all_gather(struct comm *comm, struct device_stream *stream, void *whole, const void *part,
		     size_t bytes);

/* part[i] = sum over ranks of their whole[rank * count + i]; whole is [world][count]. */
void comm_reduce_scatter(struct comm *comm, struct device_stream *stream, float *part,
			 const float *whole, size_t count);

/* data[i] = sum over ranks, on every rank. */
void comm_all_reduce(struct comm *comm, struct device_stream *stream, float *data, size_t count);

void comm_broadcast(struct comm *comm, struct device_stream *stream, void *data, size_t bytes,
		    unsigned root);

void comm_barrier(struct comm *comm, struct device_stream *stream);

/* Bytes this rank has moved through the backend. */
uint64_t comm_moved_bytes(const struct comm *comm);

#endif
