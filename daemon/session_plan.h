/*
 * What a session was asked to be, checked, and what it takes: made from an OPEN packet by the main
 * thread, before anything is allocated for it, and read-only from then on.
 */
#ifndef DAEMON_SESSION_PLAN_H
#define DAEMON_SESSION_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "kernels/dtype.h"
#include "kernels/optimizer.h"
#include "nvme/nvme.h"
#include "offload/protocol.h"

/* The arrays of a unit, as bits of a set too: 1 << PART_*. */
enum part { PART_PARAM, PART_STATE, PART_GRAD, PART_COUNT };

#define SESSION_NO_OBJECT UINT32_MAX

struct unit_plan {
	struct protocol_unit wire;
	uint64_t chunk_count;
	enum protocol_home home[PART_COUNT];
	uint32_t object[PART_COUNT]; /* in the swap store; SESSION_NO_OBJECT where not in swap */
	uint64_t state_offset, grad_offset; /* in private memory, where home is MEMORY */
	uint64_t sums_first;                /* of its norm range, in the table of block sums */
};

struct session_plan {
	struct protocol_open open;
	struct unit_plan *units;
	uint64_t *blobs;
	uint32_t blob_object; /* of blob 0; the others follow */

	enum dtype param_type, grad_type, kept_type; /* kept: of gradients between GRAD and STEP */
	struct optimizer_hyper hyper; /* but for the rate, which comes with each step */
	/*
	 * A chunk buffer: where each part begins, and its bytes. Parts no unit has in swap take
	 * none.
	 */
	uint64_t buffer_offset[PART_COUNT], buffer_bytes;

	struct nvme_object *objects;
	uint32_t object_count;
	uint64_t sums_count;

	uint64_t arena_bytes, data_offset;
	uint64_t own_bytes; /* private memory: state and gradients, then the chunk buffers */
	uint64_t buffers_offset;
	uint64_t memory_bytes; /* arena and own: what the quota counts */
	uint64_t swap_bytes;
};

/*
 * Checks a packet that is an OPEN by its head. ERR_PROTOCOL names the field that is wrong, and what
 * it may be; -ENOMEM.
 */
int session_plan_make(const void *packet, size_t bytes, struct session_plan **ret, struct err *err);

/* NULL is fine. Returns NULL. */
struct session_plan *session_plan_free(struct session_plan *plan);

/*
 * Bytes of a part's first `elems` elements, or of those of a chunk, a multiple of
 * PROTOCOL_ALIGN_ELEMS: a multiple of PROTOCOL_ALIGN_BYTES. State is what optimizer_state_at()
 * says, of all those elements.
 */
uint64_t session_part_bytes(const struct session_plan *plan, enum part part, uint64_t elems);

/* Elements of a unit's chunk. */
uint64_t unit_chunk_elems(const struct session_plan *plan, const struct unit_plan *unit,
			  uint64_t chunk);

#endif
