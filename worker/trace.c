/*
 * A worker's part of `dsrun --trace`: its recorder, the driving thread's lane, and reports of what
 * was recorded here and in the daemon. Called by the driving thread only.
 *
 * Recording begins with the first step that is wanted and ends behind the last one. What was
 * recorded is reported behind every step, and sooner when a lane is half full; so a rank that dies
 * takes one step of its trace with it at most.
 *
 * A report's first line says whose events follow: TRACE_OF_WORKER, or TRACE_OF_DAEMON for what the
 * daemon recorded of this rank's session. The rest is common/trace_text.h's, which dsrun checks.
 *
 * Invariant: nothing here decides about anything but when to report. No number of the training
 * depends on it, and no rank waits for another.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/trace_text.h"
#include "worker/internal.h"

#define MAIN_EVENTS 32768u

int run_trace_open(struct run *run, struct err *err)
{
	struct run_trace *t = &run->trace;
	int rc;

	if (!run->job.trace_last)
		return 0;
	t->text = malloc(REPORT_BYTES_MAX + 1);
	if (!t->text)
		return err_sys(err, -ENOMEM, "reports of the trace");
	rc = trace_open(&t->recorder, err);
	if (!rc)
		rc = trace_lane_open(t->recorder, TRACE_THREAD, "main", MAIN_EVENTS, &t->lane, err);
	return rc;
}

void run_trace_close(struct run *run)
{
	run->trace.recorder = trace_free(run->trace.recorder);
	run->trace.lane = NULL;
	free(run->trace.text);
}

static int report(struct run *run, const char *whose, const char *lines, struct err *err)
{
	char *text = run->trace.text;
	size_t head = strlen(whose), len = strlen(lines);

	if (len > REPORT_BYTES_MAX - head)
		return err_set(err, ERR_PROTOCOL, "the daemon's trace comes in pieces of %zu bytes",
			       len);
	memcpy(text, whose, head);
	memmove(text + head, lines, len + 1);
	return report_write(run->report_fd, REPORT_TRACE, text, err);
}

static int report_daemon(void *ctx, const char *lines, struct err *err)
{
	return lines[0] ? report(ctx, TRACE_OF_DAEMON, lines, err) : 0;
}

/* Reports what there is. What is recorded meanwhile is for the next time. */
static int tell(struct run *run, bool record, struct err *err)
{
	struct run_trace *t = &run->trace;
	const size_t head = strlen(TRACE_OF_WORKER), room = REPORT_BYTES_MAX + 1 - head;
	uint64_t began = trace_begin(t->lane);
	size_t len;
	int rc;

	rc = run->engine ? engine_trace_take(run->engine, record, report_daemon, run, err) : 0;
	do {
		len = trace_take(t->recorder, t->text + head, room);
		if (!rc && len)
			rc = report(run, TRACE_OF_WORKER, t->text + head, err);
	} while (!rc && len > room / 2);
	trace_end(t->lane, TRACE_BUSY, "trace", began, TRACE_NO_UNIT, 0);
	return rc < 0 ? err_add(err, "trace") : 0;
}

int run_trace_step_begin(struct run *run, struct err *err)
{
	struct run_trace *t = &run->trace;
	int rc = 0;

	if (!t->recorder)
		return 0;
	if (++t->steps == run->job.trace_first) {
		trace_record(t->recorder, true);
		rc = tell(run, true, err);
	}
	t->step_began_ns = trace_begin(t->lane);
	return rc;
}

int run_trace_step_end(struct run *run, uint64_t step, struct err *err)
{
	struct run_trace *t = &run->trace;
	bool last = t->steps == run->job.trace_last;

	if (!t->step_began_ns)
		return 0;
	trace_end(t->lane, TRACE_BUSY, TRACE_STEP, t->step_began_ns, (uint32_t)step, 0);
	t->step_began_ns = 0;
	if (last)
		trace_record(t->recorder, false);
	return tell(run, !last, err);
}

int run_trace_relieve(struct run *run, struct err *err)
{
	struct run_trace *t = &run->trace;

	if (!t->recorder || !trace_recording(t->lane) || !trace_pressing(t->recorder))
		return 0;
	return tell(run, true, err);
}

int run_trace_finish(struct run *run, struct err *err)
{
	struct run_trace *t = &run->trace;

	if (!t->recorder || !trace_recording(t->lane))
		return 0;
	trace_end(t->lane, TRACE_BUSY, "unfinished step", t->step_began_ns, TRACE_NO_UNIT, 0);
	trace_record(t->recorder, false);
	return tell(run, false, err);
}
