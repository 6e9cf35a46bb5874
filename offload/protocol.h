/*
 * What a worker and dsoffloadd say to each other. A change of any layout bumps PROTOCOL_VERSION.
 *
 * Control goes over a Unix SOCK_SEQPACKET socket, one message a packet, each beginning with struct
 * protocol_message. Data goes through a sealed memfd, the arena, which the daemon makes for the
 * session: header, submission ring, completion ring, then `data_bytes` that both sides address by
 * offset from the start of the arena. The daemon trusts nothing in it: descriptors are copied out,
 * then checked against the session's own table.
 *
 *   worker                              daemon
 *     HELLO  (version, job, rank)   ->
 *                                   <-  WELCOME (version, limits) | ERROR
 *     OPEN   (geometry, units)      ->
 *                                   <-  OPENED (fds: arena, both rings' eventfds) | ERROR
 *     ... descriptors through the rings ...
 *     STATS                         ->
 *                                   <-  STATS_REPLY
 *     TRACE  (record or not)        ->    in a session that was opened with PROTOCOL_OPEN_TRACE
 *                                   <-  TEXT (common/trace_text.h, several packets of whole
 *                                       lines, the last one empty): what was recorded
 *     close: the session is freed whole, however the worker ended
 *
 *   dsctl:  QUERY (what) -> TEXT (JSON, several packets, the last one empty)
 */
#ifndef OFFLOAD_PROTOCOL_H
#define OFFLOAD_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

#include "common/ring.h"

#define PROTOCOL_MAGIC   0x66667364u /* "dsff" */
#define PROTOCOL_VERSION 5u

#define PROTOCOL_PACKET_MAX 131072u
#define PROTOCOL_UNITS_MAX  1024u
#define PROTOCOL_BLOBS_MAX  4096u
#define PROTOCOL_RING_MAX   4096u
#define PROTOCOL_TEXT_BYTES 2048u
#define PROTOCOL_PATHS_MAX  16u
#define PROTOCOL_PATH_BYTES 256u
#define PROTOCOL_JOB_BYTES  64u
/* Offsets and element counts that reach a disk are multiples of these. */
#define PROTOCOL_ALIGN_BYTES 4096u
#define PROTOCOL_ALIGN_ELEMS 2048u /* VECTOR_BLOCK; as bf16, PROTOCOL_ALIGN_BYTES */

enum protocol_type {
	PROTOCOL_HELLO = 1,
	PROTOCOL_WELCOME,
	PROTOCOL_OPEN,
	PROTOCOL_OPENED,
	PROTOCOL_STATS,
	PROTOCOL_STATS_REPLY,
	PROTOCOL_QUERY,
	PROTOCOL_TEXT,
	PROTOCOL_ERROR,
	PROTOCOL_TRACE,
};

struct protocol_message {
	uint32_t magic, version;
	uint32_t type;
	uint32_t bytes; /* of the packet, this included */
};

struct protocol_hello {
	struct protocol_message head;
	uint32_t rank, world;
	char job[PROTOCOL_JOB_BYTES]; /* NUL-terminated, printable */
};

struct protocol_welcome {
	struct protocol_message head;
	uint64_t memory_free_bytes, swap_free_bytes; /* what the session could still be given */
	uint32_t threads;
	uint32_t pid;
};

enum protocol_home { PROTOCOL_HOME_NONE, PROTOCOL_HOME_MEMORY, PROTOCOL_HOME_SWAP };

/*
 * A unit's share of this rank: what the optimizer steps. Its parameters in memory lie in the arena
 * at param_offset, where the worker reads them; state and gradients in memory are the daemon's own.
 */
struct protocol_unit {
	uint64_t elems;                  /* a multiple of PROTOCOL_ALIGN_ELEMS */
	uint64_t decay_elems;            /* the first so many are decayed */
	uint64_t norm_first, norm_elems; /* the range whose squares this rank sums; aligned */
	/* Its first element's number in the model, whatever the ranks hold; aligned. What is
	 * rounded at random depends on it. */
	uint64_t position;
	uint64_t param_offset; /* from the arena's start; PROTOCOL_HOME_MEMORY only; aligned */
	uint8_t param_home, state_home, grad_home; /* enum protocol_home; grad_home NONE: gradients
						    * come with STEP */
	uint8_t pad[5];
};

/* The session's thread, the optimizer threads' work for it and its swap queues are recorded. */
#define PROTOCOL_OPEN_TRACE 1u

struct protocol_open {
	struct protocol_message head;
	uint64_t data_bytes;           /* of the arena, behind header and rings */
	uint64_t chunk_elems;          /* of the pipeline; a multiple of PROTOCOL_ALIGN_ELEMS */
	uint32_t chunk_buffers;        /* >= 3 when anything of a unit is in swap, else 0 */
	uint32_t ring_slots;           /* a power of two; also the most operations in flight */
	uint8_t param_type, grad_type; /* enum dtype; grad_type as it arrives */
	uint8_t accumulate;            /* several GRADs a step: gradients are kept in fp32 */
	uint8_t engine;                /* enum nvme_engine */
	uint32_t queue_depth;
	uint32_t blob_extent_bytes;
	uint32_t unit_count, blob_count, path_count;
	uint32_t flags;             /* PROTOCOL_OPEN_* */
	uint8_t optimizer, moments; /* enum optimizer_kind, enum optimizer_moments */
	uint8_t pad[2];
	double beta1, beta2, eps, momentum, weight_decay;
	uint64_t seed; /* of what is rounded at random */
	char paths[PROTOCOL_PATHS_MAX][PROTOCOL_PATH_BYTES];
	/* struct protocol_unit[unit_count], then uint64_t blob_bytes[blob_count] follow */
};

struct protocol_opened {
	struct protocol_message head;
	uint64_t arena_bytes, submit_offset, complete_offset, data_offset;
	uint64_t memory_bytes, swap_bytes; /* what the session was given */
	char engine[16];                   /* the swap engine in use, "" without swap */
	char note[512];                    /* what the user should know: a fall-back; "" */
};

struct protocol_stats {
	struct protocol_message head;
	uint64_t memory_bytes, swap_bytes;
	uint64_t swap_read_bytes, swap_written_bytes;
	/* FETCHed from memory, just stepped, and so not read; and read ahead of STEPs in vain */
	uint64_t swap_handed_bytes, swap_dropped_bytes;
	uint64_t operations;
	uint64_t stepped_elems;
	double adam_seconds;    /* summed over threads */
	double io_wait_seconds; /* an operation was pending and only the disk was busy */
};

struct protocol_trace {
	struct protocol_message head;
	uint32_t record, pad; /* from now on; 0: no more. What is recorded already is told. */
};

struct protocol_error {
	struct protocol_message head;
	int32_t code; /* enum err_code or -errno */
	uint32_t pad;
	char text[PROTOCOL_TEXT_BYTES];
};

enum protocol_query_what { PROTOCOL_QUERY_STATUS, PROTOCOL_QUERY_JOBS };

struct protocol_query {
	struct protocol_message head;
	uint32_t what, pad;
};

/* At the start of the arena. `failed` is set, after the text, when the session is beyond repair. */
struct protocol_arena {
	uint32_t magic, version;
	_Atomic uint32_t failed;
	int32_t code;
	char text[PROTOCOL_TEXT_BYTES];
};

#define PROTOCOL_ARENA_HEADER_BYTES 4096u
_Static_assert(sizeof(struct protocol_arena) <= PROTOCOL_ARENA_HEADER_BYTES, "arena header grew");

/* Where the parts of an arena lie, for a given number of ring slots: both sides compute it. */
static inline uint64_t protocol_submit_offset(void)
{
	return PROTOCOL_ARENA_HEADER_BYTES;
}

static inline uint64_t protocol_complete_offset(uint32_t ring_slots)
{
	uint64_t end = protocol_submit_offset() + ring_bytes(64, ring_slots);

	return (end + PROTOCOL_ALIGN_BYTES - 1) / PROTOCOL_ALIGN_BYTES * PROTOCOL_ALIGN_BYTES;
}

static inline uint64_t protocol_data_offset(uint32_t ring_slots)
{
	uint64_t end = protocol_complete_offset(ring_slots) + ring_bytes(32, ring_slots);

	return (end + PROTOCOL_ALIGN_BYTES - 1) / PROTOCOL_ALIGN_BYTES * PROTOCOL_ALIGN_BYTES;
}

/*
 * Operations. Those on one unit, or one blob, take effect in the order submitted; those on
 * different ones in any order: what buffers come free go to the smallest `order`, among equals to
 * the oldest. Each completes once.
 *
 * FETCH   the unit's parameters, as of all STEPs submitted before, are in the arena: at `offset`
 *	   when they live in swap, else at the unit's param_offset; completion.offset says which.
 *	   From its submission on it may write to `offset`: a STEP hands over what it has made.
 * GRAD    adds the gradient at `offset` (elems of grad_type) to the unit's: stores it when FIRST.
 *	   With LAST, completion.value is the sum of squares over the unit's norm range, in the
 *	   order of vector_host_sumsq, blocks added in turn. The buffer is free again on completion.
 * STEP    the optimizer with the kept gradient, or with FROM_ARENA the one at `offset`; `step` from
 *	   1.
 * IMPORT  sets chunk `chunk` of the unit from `offset`: master weights and each moment, in fp32,
 *	   each of the chunk's elements, one behind the other.
 * EXPORT  the same, out.
 * STORE   blob `unit` from `offset`; LOAD: blob `unit` to `offset`. In swap only.
 * PREPARE a STEP of the unit will come: what it reads of parameters and state may be read ahead,
 *	   from the first chunk on, while disk and buffers are not wanted otherwise. Completes at
 *	   once, and changes nothing but time. The unit must have been imported.
 */
enum protocol_op {
	PROTOCOL_OP_FETCH = 1,
	PROTOCOL_OP_GRAD,
	PROTOCOL_OP_STEP,
	PROTOCOL_OP_IMPORT,
	PROTOCOL_OP_EXPORT,
	PROTOCOL_OP_STORE,
	PROTOCOL_OP_LOAD,
	PROTOCOL_OP_PREPARE,
};

#define PROTOCOL_FLAG_FIRST      1u
#define PROTOCOL_FLAG_LAST       2u
#define PROTOCOL_FLAG_FROM_ARENA 4u

struct protocol_submission {
	uint32_t op, flags;
	uint32_t id; /* the worker's, returned in the completion */
	uint32_t unit;
	uint64_t offset; /* from the start of the arena */
	uint64_t step;
	uint32_t chunk;
	uint32_t order; /* among operations that can go on, the smallest goes first */
	double lr, grad_scale;
	uint64_t reserved;
};

struct protocol_completion {
	uint32_t id;
	int32_t code; /* 0, or the session failed: see the arena's text */
	uint64_t offset;
	double value;
	uint64_t reserved;
};

_Static_assert(sizeof(struct protocol_submission) == 64, "submission changed size");
_Static_assert(sizeof(struct protocol_completion) == 32, "completion changed size");
_Static_assert(sizeof(struct protocol_unit) == 56, "unit changed size");

#endif
