/*
 * What the checkpoints' tests share: a small model, and the engine that each rank, a thread, writes
 * and reads with. Every element of every vector is a function of its place and the step, so a piece
 * that lands in the wrong place shows. Its padding is garbage, which must not come back.
 */
#ifndef TESTS_CHECKPOINT_BED_H
#define TESTS_CHECKPOINT_BED_H

#include <stdbool.h>
#include <stdint.h>

#include "offload/arch.h"
#include "worker/checkpoint.h"

#define WORLD_MAX 4

extern char base[];  /* a directory of the test's own */
extern char dir[64]; /* base/run: checkpoint.dir */
extern struct train_config config;
extern struct arch *arch;
extern struct err err;
extern char note[CHECKPOINT_NOTE_BYTES]; /* of the last checkpoint that was read */

struct how {
	unsigned world;
	uint64_t chunk, step;
	bool reads;
	bool skip, twice; /* an element of the first unit but one is left out, is there twice */
};

/* All ranks write or read; the first rank's result, whose text is left in err. */
int ranks_run(const struct how *how);
int save(unsigned world, uint64_t chunk, uint64_t step);
int load(unsigned world, uint64_t chunk, uint64_t step);

void ok(int rc);
struct checkpoint_job rank0(void);

/* Makes base, config and arch; false when it cannot. bed_done removes what is left. */
bool bed_make(void);
void bed_done(void);

/* A fixture: an empty directory before a test, none behind it. */
void clean(void);
void prepare(void);

#endif
