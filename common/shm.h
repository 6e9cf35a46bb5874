/* Shared memory without names: sealed memfds, which vanish with their last holder. */
#ifndef COMMON_SHM_H
#define COMMON_SHM_H

#include <stddef.h>

#include "common/err.h"

/*
 * A memfd of `bytes`, zeroed, close-on-exec, sealed against resizing. `name` shows in /proc only.
 * Returns the fd, which the caller closes, or a negative code.
 */
int shm_create(const char *name, size_t bytes, struct err *err);

/*
 * Maps all of `fd` read-write. Refuses (ERR_PROTOCOL) an fd that is not at least `bytes` long or
 * not sealed against shrinking: a peer could otherwise make our loads fault. Unmap by shm_unmap.
 */
int shm_map(int fd, size_t bytes, void **ret_base, struct err *err);

void shm_unmap(void *base, size_t bytes);

/* A memfd holding a copy of `len` bytes, sealed against writing, offset at 0. Returns the fd. */
int shm_copy(const char *name, const void *data, size_t len, struct err *err);

#endif
