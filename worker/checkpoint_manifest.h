/* The manifest of a checkpoint as a struct; private to checkpoint*.c. */
#ifndef WORKER_CHECKPOINT_MANIFEST_H
#define WORKER_CHECKPOINT_MANIFEST_H

#include <stdint.h>

#include "common/conf.h"
#include "common/err.h"
#include "offload/train_config.h"
#include "worker/checkpoint.h"

#define MANIFEST_BYTES_MAX ((size_t)1 << 20) /* COMM_WORLD_MAX files of 100 bytes, and change */
#define STATE_NAME_BYTES   32

struct manifest_file {
	const char *name;
	uint64_t bytes;
	uint64_t crc; /* of the head and the pieces' heads, which hold those of the data */
};

struct manifest {
	uint64_t version;
	uint64_t step, sequences, world, params;
	uint64_t layers, hidden, heads, vocab, context, sequence, global, seed;
	const char *arch, *precision;
	const char *optimizer, *moments; /* version 1 had none: filled in on loading */
	struct conf_items files;         /* struct manifest_file */
};

/* "rank-0000.state" */
void manifest_state_name(char ret[STATE_NAME_BYTES], unsigned rank);

/* The text, which the caller frees; NULL when memory ran out. `files` are in rank order. */
char *manifest_format(const struct checkpoint_job *job, const struct checkpoint_state *state,
		      const struct manifest_file *files);

/* Reads and checks `path`; strings live as long as *ret_doc. ERR_DATA. */
int manifest_load(const char *path, uint64_t step, struct manifest *ret, struct conf_doc **ret_doc,
		  struct err *err);

/* ERR_CONFIG when a run with `config` cannot go on from it. */
int manifest_fits(const struct manifest *m, const char *path, const struct train_config *config,
		  struct err *err);

/* What a user should know of going on from it with `config`; "" when there is nothing. */
void manifest_note(const struct manifest *m, const struct train_config *config,
		   char ret[CHECKPOINT_NOTE_BYTES]);

#endif
