/*
 * What a job's trace comes down to: for each lane the time it was busy, waiting and idle, and how
 * much of the transfers' time was hidden behind compute.
 *
 * All of it is about one window of time, the same for all lanes: from the begin of a step to the
 * end of the last one that was recorded whole, on any rank. The first TRACE_WARM_STEPS recorded are
 * left out where there are more, since they meet cold memory and an empty pipeline.
 *
 *	waiting  within a wait
 *	busy     within something busy, and not waiting
 *	idle     the rest of the window
 *	hidden   of a transfer lane: busy while its rank's compute lane was busy
 */
#ifndef LAUNCHER_TRACE_TABLE_H
#define LAUNCHER_TRACE_TABLE_H

#include "common/err.h"
#include "common/json.h"
#include "launcher/trace_job.h"

#define TRACE_WARM_STEPS 2u

struct trace_row {
	const struct trace_set *set; /* borrowed of the job, like the lane */
	const struct trace_set_lane *lane;
	bool transfer;
	uint64_t busy_ns, waiting_ns, idle_ns, hidden_ns; /* hidden: of transfers */
};

struct trace_table {
	uint64_t first_step, last_step; /* of the window; 0: no step was recorded whole */
	uint64_t begin_ns, end_ns;
	uint64_t transfer_ns, hidden_ns; /* over all transfer lanes */
	uint64_t event_count, dropped;
	struct trace_row *rows;
	size_t row_count;
};

/* Of a job that was finished, which must outlive the table. -ENOMEM. */
int trace_table_make(const struct trace_job *job, struct trace_table **ret, struct err *err);

/* NULL is fine. Returns NULL. */
struct trace_table *trace_table_free(struct trace_table *table);

/* Hidden time over transfer time, 0..1; 1 when nothing was transferred. */
double trace_table_hidden(const struct trace_table *table);

/* For people, several lines, which the caller frees; NULL: memory ran out. */
char *trace_table_text(const struct trace_table *table, const char *file);

/* As members of an object that is open in `json`. */
void trace_table_json(const struct trace_table *table, struct json *json);

#endif
