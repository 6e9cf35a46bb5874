/* A large file written in pieces that appears whole under its name, or not at all. */
#ifndef WORKER_OUTFILE_H
#define WORKER_OUTFILE_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct outfile {
	const char *path; /* borrowed */
	char *temp;
	int fd;
};

/* Makes a temporary file beside `path`. ERR_CANTCREAT. Ends by outfile_commit or outfile_abort. */
int outfile_open(struct outfile *f, const char *path, struct err *err);

/* At the end of what is written so far. */
int outfile_write(struct outfile *f, const void *data, size_t len, struct err *err);

/* fsync, rename, fsync of the directory. On failure the file is aborted. */
int outfile_commit(struct outfile *f, struct err *err);

/* Removes the temporary file. Fine after commit and after a failed open. */
void outfile_abort(struct outfile *f);

#endif
