/*
 * What the tests of nvme/ share: a store over fresh directories, a buffer for every extent of it in
 * one piece of shared memory, and contents that are a function of (version, object, extent).
 */
#ifndef TESTS_NVME_BED_H
#define TESTS_NVME_BED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "nvme/nvme.h"

#define BED_OBJECTS      8u
#define BED_EXTENTS_MAX  64u
#define BED_BUFFER_BYTES (1u << 20)
#define BED_DIR_BYTES    512u

struct bed_io {
	struct nvme_io io;
	int rc;
	unsigned calls; /* of done */
};

struct bed {
	struct nvme_store *store;
	struct nvme_info info;
	struct err err;
	uint8_t *mem;
	size_t mem_bytes;
	unsigned extent_count;
	struct bed_io ios[BED_EXTENTS_MAX];
	unsigned done_count, failed_count;
};

extern const struct nvme_object bed_objects[BED_OBJECTS];
/* How many of them stores get; a test that opens hundreds of stores lowers it. */
extern size_t bed_object_count;

/* The engines that this host has: libaio, and io_uring where the kernel lets us. */
extern enum nvme_engine bed_engines[2];
extern int bed_engine_count;

/* Finds the engines and makes two directories below $TMPDIR or /tmp, removed at exit. */
void bed_setup(void);
const char *bed_dir(unsigned i);

/* nvme_store_open; 0, or the code with b->err. Prepares the transfers, too. */
int bed_open(struct bed *b, enum nvme_engine engine, unsigned depth, const char *const *paths,
	     size_t path_count);
void bed_close(struct bed *b);

/* Submits all transfers, in an order that depends on `seed`, and waits for them. */
void bed_write(struct bed *b, uint64_t version, uint64_t seed);
void bed_read(struct bed *b, uint64_t seed);
void bed_submit(struct bed *b, unsigned i, bool write);
void bed_finish(struct bed *b, unsigned count);

void bed_fill(struct bed *b, unsigned i, uint64_t version);
/* Does buffer i hold what bed_fill would put there? */
bool bed_holds(struct bed *b, unsigned i, uint64_t version);
void bed_clear(struct bed *b);

/* A descriptor of the store's unnamed file in `dir`, found in /proc: the disk behind its back. */
int bed_backdoor(const char *dir);

/* Entries in a directory: the swap files must not be among them. */
unsigned bed_dir_entries(const char *dir);
void bed_dir_empty(const char *dir);

#endif
