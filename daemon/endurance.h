/*
 * What training writes to drives, which wear by it: bytes a step, and what that is a day. Pure
 * arithmetic, for `dsctl bench`.
 */
#ifndef DAEMON_ENDURANCE_H
#define DAEMON_ENDURANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "nvme/figures.h"

#define ENDURANCE_TEXT_BYTES 512

/* What a drive's maker allows; both 0: not known. */
struct endurance_rating {
	double drive_writes; /* a day, of its capacity */
	uint64_t bytes;      /* in its life */
};

struct endurance {
	uint64_t params;           /* 0: no model is known */
	uint64_t step_write_bytes; /* to all directories, all ranks of a host */
	uint64_t step_read_bytes;
	double step_seconds;  /* given, or endurance_work_out's */
	bool step_given;      /* by the user */
	double day_bytes;     /* to all directories; without a model, without pause */
	double day_of_rating; /* part of what a day of the rating allows; 0: not known */
	double days;          /* until `bytes` of the rating are written; 0: not known */
	struct endurance_rating rating;
};

/* "0.6": drive writes a day; "1200TB": bytes. -EINVAL for anything else. */
int endurance_rating_parse(const char *text, struct endurance_rating *ret);

/*
 * What bf16 training with AdamW moves in a step of `params` parameters when parameters and
 * optimizer state are on disk, and gradients are not.
 */
void endurance_of_params(uint64_t params, struct endurance *ret);

/*
 * From the model's members, rating and step time in *e to a day's figures. Without a step time a
 * step takes what its bytes take at the mixed speed of all directories together: no step is faster,
 * so no day's figure is higher. Load is divided by shares, and the drive that wears fastest counts;
 * directories with equal filesystem ids are one drive, of capacities[i] bytes.
 */
void endurance_work_out(struct endurance *e, const struct nvme_figures *figures,
			const uint64_t *capacities);

/* The line that warns, without a newline. Returns buf. */
const char *endurance_text(char buf[ENDURANCE_TEXT_BYTES], const struct endurance *e,
			   const struct nvme_figures *figures);

#endif
