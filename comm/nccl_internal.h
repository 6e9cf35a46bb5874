/*
 * What the files of the nccl backend share: nccl_lib.c (the library), nccl.c (the collectives) and
 * nccl_watch.c (what ends them).
 */
#ifndef COMM_NCCL_INTERNAL_H
#define COMM_NCCL_INTERNAL_H

#include <pthread.h>
#include <stddef.h>

#include <nccl.h>

#include "comm/internal.h"

/*
 * The oldest NCCL that will do, as ncclGetVersion counts: communicators that block nobody have
 * their configuration's present form since 2.18, and abort from another thread there.
 */
#define NCCL_LEAST 21800

/* The functions that we use, by their addresses in the loaded library. */
struct nccl_lib {
	int version;
	__typeof__(ncclGetVersion) *GetVersion;
	__typeof__(ncclGetErrorString) *GetErrorString;
	__typeof__(ncclGetLastError) *GetLastError;
	__typeof__(ncclGetUniqueId) *GetUniqueId;
	__typeof__(ncclCommInitRankConfig) *CommInitRankConfig;
	__typeof__(ncclCommGetAsyncError) *CommGetAsyncError;
	__typeof__(ncclCommFinalize) *CommFinalize;
	__typeof__(ncclCommDestroy) *CommDestroy;
	__typeof__(ncclCommAbort) *CommAbort;
	__typeof__(ncclAllGather) *AllGather;
	__typeof__(ncclReduceScatter) *ReduceScatter;
	__typeof__(ncclAllReduce) *AllReduce;
	__typeof__(ncclBroadcast) *Broadcast;
};

/*
 * Loads the library, once in a process; it stays. ERR_CONFIG when it is not to be had, lacks
 * something, or is older than NCCL_LEAST; the text says which. Any thread.
 */
int nccl_lib_open(const struct nccl_lib **ret, struct err *err);

/* err for a result that is no success and not "in progress"; `call` begins with the file's name. */
int nccl_error(const struct nccl_lib *lib, ncclComm_t comm, const char *call, ncclResult_t result,
	       struct err *err);

struct nccl {
	const struct nccl_lib *lib;
	struct device *device;
	unsigned rank, world;
	int news_fd, stop_fd; /* stop_fd: an eventfd that ends the watcher */
	struct comm_roll *roll;
	pthread_t watcher;
	/* Into the communicator goes one call at a time. */
	pthread_mutex_t lock;
	ncclComm_t comm; /* NULL before it is made and once it was aborted */
};

/* One look at the news, at most timeout_ms long: 0 when there are none, else the error they are. */
int nccl_news(struct nccl *n, int timeout_ms, struct err *err);

/*
 * A peer's death shows as an error of ours, maybe before the launcher has told of it. Waits a
 * little for that news and, when they come, puts them in the place of the error that `result` made.
 */
void nccl_blame(struct nccl *n, ncclResult_t result, struct err *err);

/* The communicator's own state: ncclSuccess, ncclInProgress, or what is wrong. Takes the lock. */
ncclResult_t nccl_state(struct nccl *n);

/* Ends every call in work, here and, as they notice, elsewhere. The lock is taken. */
void nccl_abort(struct nccl *n);

/* From here to nccl_watch_stop what ends the communicator becomes the device's sticky error. */
int nccl_watch_start(struct nccl *n, struct err *err);
void nccl_watch_stop(struct nccl *n);

#endif
