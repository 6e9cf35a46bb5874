/* Files whole or not at all. Every short transfer is resumed, every close is looked at. */
#ifndef COMMON_FILE_H
#define COMMON_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

/* All of `len` bytes or a negative code (ERR_DATA with -ENODATA's text on end of file). */
int file_read_all(int fd, void *buf, size_t len, struct err *err);
int file_pread_all(int fd, void *buf, size_t len, uint64_t offset, struct err *err);
int file_write_all(int fd, const void *buf, size_t len, struct err *err);
int file_pwrite_all(int fd, const void *buf, size_t len, uint64_t offset, struct err *err);

/*
 * The whole of a file of at most max_bytes, NUL-terminated for convenience; the caller frees it.
 * ERR_NOINPUT when it cannot be opened, ERR_DATA when it is larger.
 */
int file_load(const char *path, size_t max_bytes, char **ret_text, size_t *ret_len,
	      struct err *err);

/* Writes `path` atomically: temporary name beside it, fsync, rename, fsync of the directory. */
int file_replace(const char *path, const void *data, size_t len, struct err *err);

/* fsync of the directory that holds `path`, so that a rename in it lasts. */
int file_sync_parent(const char *path, struct err *err);

/* Removes a directory with all it holds, not following links. */
int file_remove_tree(const char *path, struct err *err);

#endif
