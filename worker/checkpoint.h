/*
 * Checkpoints: the whole training state, to go on from as if nothing had happened.
 *
 *	DIR/step-00000500/rank-0000.state ...	master weights and moments, fp32
 *			  manifest.json		what belongs together
 *	DIR/.step-00000500.tmp/			in the making, or on its way out: never read
 *
 * A state file is a struct checkpoint_head and pieces, each a struct checkpoint_piece and vectors
 * of `count` floats: master, m and, where the optimizer has two moments, v; in fp32 whatever form
 * they have in memory, so that a run may go on with another one. Pieces are addressed by unit and
 * element, without the padding of a particular world size, so that any number of ranks, at any ZeRO
 * stage, can go on.
 * Integers are of the host's byte order, little-endian, which the magic numbers tell.
 *
 * The manifest is one JSON object; its last member is the CRC-32C of the text before it. Version 1
 * had no members `optimizer` and `moments`: its states are of AdamW with moments in fp32.
 */
#ifndef WORKER_CHECKPOINT_H
#define WORKER_CHECKPOINT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "offload/arch.h"
#include "offload/engine.h"
#include "offload/train_config.h"

#define CHECKPOINT_HEAD_MAGIC  0x4b435344u /* "DSCK" */
#define CHECKPOINT_PIECE_MAGIC 0x43504344u /* "DCPC" */
#define CHECKPOINT_VERSION     2u
#define CHECKPOINT_MANIFEST    "manifest.json"
#define CHECKPOINT_NOTE_BYTES  256u

struct checkpoint_head {
	uint32_t magic, version;
	uint32_t rank, world;
	uint64_t step;
	uint64_t piece_count;
	uint64_t pad[3];
	uint32_t reserved;
	uint32_t crc; /* of the bytes before */
};

struct checkpoint_piece {
	uint32_t magic;
	uint32_t unit;
	uint64_t first, count; /* elements of the unit */
	uint32_t crc;          /* of the vectors */
	uint32_t head_crc;     /* of the bytes before */
};

_Static_assert(sizeof(struct checkpoint_head) == 64, "checkpoint head changed size");
_Static_assert(sizeof(struct checkpoint_piece) == 32, "checkpoint piece changed size");

/* What all calls need; borrowed. */
struct checkpoint_job {
	struct engine *engine;
	const struct arch *arch;
	const struct train_config *config;
	unsigned rank, world;
};

/* Where the run stands. */
struct checkpoint_state {
	uint64_t step;      /* done */
	uint64_t sequences; /* training sequences drawn: data.h's next g */
};

/* Vectors of a piece: master and moments. */
static inline size_t checkpoint_vectors(const struct train_config *config)
{
	return 1 + optimizer_moment_count((enum optimizer_kind)config->optimizer.type);
}

/*
 * Rank 0, before the engine is there: makes checkpoint.dir, takes its lock (*ret_lock, a descriptor
 * that the caller holds as long as the run lasts), removes leftovers of killed runs, sees that one
 * checkpoint has room, and finds the newest (*ret_step, 0 when there is none). ERR_CONFIG when
 * there are checkpoints and `resume` is false, or another run holds the lock.
 */
int checkpoint_prepare(const struct checkpoint_job *job, bool resume, uint64_t *ret_step,
		       int *ret_lock, struct err *err);

/* All ranks. What rank 0 found is what everybody reads: *step is rank 0's on return. */
int checkpoint_agree(const struct checkpoint_job *job, uint64_t *step, struct err *err);

/* All ranks: writes DIR/step-..., then removes all but the newest checkpoint.keep. */
int checkpoint_write(const struct checkpoint_job *job, const struct checkpoint_state *state,
		     struct err *err);

/*
 * All ranks: reads checkpoint `step` into the engine. ERR_DATA names what is wrong with it, and an
 * older one that is whole when there is one; ERR_CONFIG when it is of another model, seed,
 * precision, optimizer or sequence length. *ret_note is a line for the user, "" when there is
 * nothing to say: that moments were converted.
 */
int checkpoint_read(const struct checkpoint_job *job, uint64_t step, struct checkpoint_state *ret,
		    char ret_note[CHECKPOINT_NOTE_BYTES], struct err *err);

/* Is checkpoint `step` whole, down to the last byte? 0, or what is wrong. */
int checkpoint_verify(const struct checkpoint_job *job, uint64_t step, struct err *err);

/* The newest checkpoint older than `step`, if any, at *ret. */
bool checkpoint_older(const struct checkpoint_job *job, uint64_t step, uint64_t *ret);

/* "DIR/step-00000500", which the caller frees; NULL when memory ran out. */
char *checkpoint_path(const struct train_config *config, uint64_t step);

#endif
