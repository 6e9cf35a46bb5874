/*
 * The engine in a trace: a lane for each stream, a span for each phase, the driving thread's waits.
 * Called by the driving thread only.
 *
 * Invariants
 *  1. A name that is recorded lives as long as the engine: names of phases are made when it opens.
 *  2. Without a recorder nothing here does anything but count the seconds waited.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "offload/internal.h"

/* Of a stream, between two takings: a phase enqueues some hundred operations at most. */
#define STREAM_EVENTS 32768u

/*
 * What phase i of a pass is called, after the unit it is about. Where forward turns into backward,
 * and at the end of an evaluation, the loss is computed: that is the head.
 */
static void phase_name(const struct arch *arch, const struct arch_phase *phases, size_t i,
		       size_t count, struct phase_name *ret)
{
	const struct arch_phase *p = &phases[i];
	int unit = p->unit >= 0 ? p->unit : p->grad_unit;
	bool backward = p->grad_unit >= 0;
	bool turns = backward ? i == 0 || phases[i - 1].grad_unit < 0 : i + 1 == count;

	if (turns || unit < 0)
		snprintf(ret->text, sizeof(ret->text), "head");
	else
		snprintf(ret->text, sizeof(ret->text), "%s %s", arch->units[unit].name,
			 backward ? "backward" : "forward");
}

/* Of several micro-batches side by side each is named, counted from 1. */
static int names_make(struct engine *e, struct err *err)
{
	const struct arch *a = e->arch;
	const size_t micros = e->plan->micros, train = a->train_count * micros;

	e->phase_names = calloc(train + a->eval_count, sizeof(*e->phase_names));
	if (!e->phase_names)
		return err_sys(err, -ENOMEM, "allocating the trace's names");
	for (size_t i = 0; i < train; i++) {
		struct phase_name *name = &e->phase_names[i];
		size_t len;

		phase_name(a, a->train, i / micros, a->train_count, name);
		len = strlen(name->text);
		if (micros > 1)
			snprintf(name->text + len, sizeof(name->text) - len, ", micro-batch %zu",
				 i % micros + 1);
	}
	for (size_t i = 0; i < a->eval_count; i++)
		phase_name(a, a->eval, i, a->eval_count, &e->phase_names[train + i]);
	return 0;
}

/* The turn in work: its place in phase_names. */
static size_t turn(const struct engine *e)
{
	if (e->pass == ENGINE_TRAIN)
		return e->phase * e->width + e->column;
	return e->arch->train_count * e->plan->micros + e->phase;
}

int engine_trace_open(struct engine *e, const struct engine_config *config, struct err *err)
{
	const struct {
		struct device_stream *stream;
		const char *name;
		enum trace_kind kind;
	} streams[] = {{e->compute, "compute", TRACE_COMPUTE},
		       {e->comm_stream, "comm", TRACE_TRANSFER},
		       {e->copy_in, "copy-in", TRACE_TRANSFER},
		       {e->copy_out, "copy-out", TRACE_TRANSFER}};
	int rc = 0;

	if (!config->trace)
		return 0;
	e->trace_lane = config->trace_lane;
	for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]) && rc == 0; i++) {
		struct trace_lane *lane;

		rc = trace_lane_open(config->trace, streams[i].kind, streams[i].name, STREAM_EVENTS,
				     &lane, err);
		if (rc == 0)
			rc = device_stream_trace(streams[i].stream, lane, e->trace_lane, err);
	}
	return rc < 0 ? rc : names_make(e, err);
}

void engine_trace_phase_begin(struct engine *e)
{
	const struct arch_phase *phase = &e->phases[e->phase];
	int unit = phase->unit >= 0 ? phase->unit : phase->grad_unit;

	if (!e->phase_names)
		return;
	device_stream_unit(e->compute, unit >= 0 ? (uint32_t)unit : TRACE_NO_UNIT);
	device_span_begin(e->compute, TRACE_SPAN, e->phase_names[turn(e)].text, 0);
}

void engine_trace_phase_end(struct engine *e)
{
	if (!e->phase_names)
		return;
	device_span_end(e->compute);
	device_stream_unit(e->compute, TRACE_NO_UNIT);
}

void engine_waited(struct engine *e, double *seconds, const char *what, int unit, uint64_t began_ns)
{
	uint64_t now = trace_now_ns();
	struct trace_event event = {.name = what,
				    .begin_ns = began_ns,
				    .end_ns = now,
				    .unit = unit >= 0 ? (uint32_t)unit : TRACE_NO_UNIT,
				    .state = TRACE_WAIT};

	if (seconds)
		*seconds += 1e-9 * (double)(now - began_ns);
	if (e->trace_lane && trace_recording(e->trace_lane))
		trace_add(e->trace_lane, &event);
}

int engine_trace_take(struct engine *e, bool record, client_trace_fn *fn, void *ctx,
		      struct err *err)
{
	device_trace_collect(e->device);
	return e->client ? client_trace(e->client, record, fn, ctx, err) : 0;
}
