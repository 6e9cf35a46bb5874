/*
 * Marks on the streams of a cuda device: see trace_cuda.h for who calls.
 *
 * A mark is two timing events around a piece of work. Marks are collected when the GPU is past
 * them; their times are distances (cudaEventElapsedTime) from an anchor: an event on a stream of
 * the clock's own, which is idle but for anchors, and the host's time when it was seen to happen.
 * Between two anchors time is interpolated, so that the drift of one clock against the other does
 * not add up.
 *
 * Invariants
 *  1. Marks of a stream are numbered by their begins and collected in that order. One that is not
 *     ended holds back those behind it, which lie within it.
 *  2. So whatever is collected later began after the end of all that was collected before; where
 *     two anchors would say otherwise, by their error, the later one's begin gives way.
 *  3. Nothing here waits for work: a ring that is full of marks that the GPU has not passed drops
 *     the next, which is counted.
 */
#include "kernels/trace_cuda.h"

#include <errno.h>
#include <stdlib.h>

#include "kernels/cuda_internal.h"

/* Between two collections: some forty blocks, forward and backward. */
#define MARKS_MAX 4096u
/* Spans, and one piece of work within. */
#define OPEN_MAX (DEVICE_SPANS_MAX + 1)
#define NO_MARK  UINT64_MAX

/* An anchor is good when the host saw it happen within this; else it is tried again, so often. */
#define ANCHOR_NS    UINT64_C(20000)
#define ANCHOR_TRIES 4
/* The GPU does not answer: the anchor before must do. */
#define ANCHOR_PATIENCE_NS UINT64_C(1000000000)
/* Anchors nearer than this tell nothing of the clocks' rates. */
#define RATE_MS 100.0f

struct mark {
	cudaEvent_t begin, end;
	struct device_label label;
	enum trace_state state;
	bool ended;
};

struct cuda_marks {
	struct device_stream *stream;
	struct cuda_marks *next; /* of the clock's */
	cudaStream_t native;
	uint64_t begun, collected;
	uint64_t open[OPEN_MAX]; /* marks that are not ended, outermost first; NO_MARK: none made */
	unsigned open_count;
	uint64_t latest_ns; /* end of what was collected */
	struct mark marks[MARKS_MAX];
};

/* A device's `tracer`. */
struct cuda_clock {
	cudaStream_t stream;
	cudaEvent_t anchors[2]; /* the one before and the latest, by `latest` */
	uint64_t ns[2];
	unsigned latest, count;
	double rate; /* of the host's time to the GPU's */
	struct cuda_marks *marks;
};

/* True for success; else it is the device's error. */
static bool check(struct device *device, cudaError_t rc, const char *call)
{
	struct err err;

	if (cuda_check(rc, call, __FILE__, &err) == 0)
		return true;
	err_add(&err, "cuda device %u, tracing", device->config.index);
	device_fail(device, &err);
	return false;
}
#define CHECK(device, call) check((device), (call), #call)

/* ---- the clock ---- */

/* Records the anchor and waits for it. Its time is `*ret_ns`, to half of what is returned. */
static uint64_t anchor_try(struct cuda_clock *c, cudaEvent_t anchor, uint64_t *ret_ns,
			   cudaError_t *ret)
{
	uint64_t before = trace_now_ns(), after = before;
	cudaError_t rc = cudaEventRecord(anchor, c->stream);

	/* Not by cudaEventSynchronize, which sleeps, and wakes too late to tell the time. */
	while (rc == cudaSuccess || rc == cudaErrorNotReady) {
		rc = cudaEventQuery(anchor);
		after = trace_now_ns();
		if (rc != cudaErrorNotReady || after - before > ANCHOR_PATIENCE_NS)
			break;
		(void)cudaGetLastError(); /* it is no failure */
	}
	*ret = rc;
	*ret_ns = before + (after - before) / 2;
	return after - before;
}

/* The latest anchor becomes the one before. */
static void anchor_take(struct device *device, struct cuda_clock *c)
{
	unsigned next = c->count > 0 ? 1 - c->latest : 0;
	cudaError_t rc = cudaErrorNotReady;
	uint64_t ns = 0;
	float ms = 0;

	for (int i = 0; i < ANCHOR_TRIES; i++)
		if (anchor_try(c, c->anchors[next], &ns, &rc) < ANCHOR_NS || rc != cudaSuccess)
			break;
	if (rc == cudaErrorNotReady) {
		(void)cudaGetLastError();
		c->count = 0; /* the event is not to be asked; the next anchor begins anew */
		return;
	}
	if (!check(device, rc, "cudaEventQuery"))
		return;
	c->ns[next] = ns;
	c->rate = 1;
	if (c->count > 0 &&
	    CHECK(device, cudaEventElapsedTime(&ms, c->anchors[c->latest], c->anchors[next])) &&
	    ms > RATE_MS)
		c->rate = (double)(ns - c->ns[c->latest]) / (1e6 * (double)ms);
	c->latest = next;
	c->count += c->count < 2;
}

/* An event's time by the host's clock, counted from the older of the anchors. */
static bool time_of(struct device *device, const struct cuda_clock *c, cudaEvent_t event,
		    uint64_t *ret_ns)
{
	unsigned from = c->count > 1 ? 1 - c->latest : c->latest;
	float ms = 0;

	if (!CHECK(device, cudaEventElapsedTime(&ms, c->anchors[from], event)))
		return false;
	*ret_ns = c->ns[from] + (uint64_t)(int64_t)((double)ms * 1e6 * c->rate);
	return true;
}

static int clock_open(struct device *device, struct err *err)
{
	struct cuda_clock *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_sys(err, -ENOMEM, "tracing's clock");
	device->tracer = c;
	rc = CUDA_CHECK(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), err);
	for (int i = 0; !rc && i < 2; i++)
		rc = CUDA_CHECK(cudaEventCreate(&c->anchors[i]), err);
	return rc;
}

void cuda_clock_free(struct device *device)
{
	struct cuda_clock *c = device->tracer;

	if (!c)
		return;
	for (int i = 0; i < 2; i++)
		if (c->anchors[i])
			(void)cudaEventDestroy(c->anchors[i]);
	if (c->stream)
		(void)cudaStreamDestroy(c->stream);
	free(c);
	device->tracer = NULL;
}

/* ---- marks ---- */

int cuda_marks_open(struct device_stream *stream, cudaStream_t native, struct err *err)
{
	struct cuda_marks *m;
	struct cuda_clock *c;
	int rc = stream->device->tracer ? 0 : clock_open(stream->device, err);

	if (rc < 0)
		return rc;
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_sys(err, -ENOMEM, "tracing stream %s", stream->name);
	c = stream->device->tracer;
	m->stream = stream;
	m->native = native;
	m->next = c->marks;
	c->marks = m;
	stream->tracer = m;
	for (size_t i = 0; !rc && i < MARKS_MAX; i++) {
		rc = CUDA_CHECK(cudaEventCreate(&m->marks[i].begin), err);
		if (!rc)
			rc = CUDA_CHECK(cudaEventCreate(&m->marks[i].end), err);
	}
	return rc < 0 ? err_add(err, "tracing stream %s", stream->name) : 0;
}

void cuda_marks_free(struct device_stream *stream)
{
	struct cuda_marks *m = stream->tracer, **at;
	struct cuda_clock *c = stream->device->tracer;

	if (!m)
		return;
	for (at = &c->marks; *at != m; at = &(*at)->next)
		;
	*at = m->next;
	for (size_t i = 0; i < MARKS_MAX; i++) {
		if (m->marks[i].begin)
			(void)cudaEventDestroy(m->marks[i].begin);
		if (m->marks[i].end)
			(void)cudaEventDestroy(m->marks[i].end);
	}
	free(m);
	stream->tracer = NULL;
}

/* The GPU is past the mark: it becomes an event of the lane. False when it is not, or failed. */
static bool mark_collect(struct cuda_marks *m, const struct cuda_clock *c, uint64_t floor_ns)
{
	const struct mark *mark = &m->marks[m->collected % MARKS_MAX];
	struct device *device = m->stream->device;
	struct trace_event event = {.name = mark->label.name,
				    .bytes = mark->label.bytes,
				    .unit = mark->label.unit,
				    .state = mark->state};
	cudaError_t rc;

	if (!mark->ended)
		return false;
	rc = cudaEventQuery(mark->end);
	if (rc == cudaErrorNotReady) {
		(void)cudaGetLastError(); /* it is no failure */
		return false;
	}
	if (!check(device, rc, "cudaEventQuery") ||
	    !time_of(device, c, mark->begin, &event.begin_ns) ||
	    !time_of(device, c, mark->end, &event.end_ns))
		return false;
	/* Invariant 2. */
	event.begin_ns = event.begin_ns > floor_ns ? event.begin_ns : floor_ns;
	event.end_ns = event.end_ns > event.begin_ns ? event.end_ns : event.begin_ns;
	m->latest_ns = event.end_ns > m->latest_ns ? event.end_ns : m->latest_ns;
	m->collected++;
	trace_add(m->stream->lane, &event);
	return true;
}

static void collect(struct cuda_marks *m)
{
	const struct cuda_clock *c = m->stream->device->tracer;
	uint64_t floor_ns = m->latest_ns;

	while (c->count > 0 && m->collected < m->begun && mark_collect(m, c, floor_ns))
		continue;
}

void cuda_marks_begin(struct device_stream *stream, enum trace_state state,
		      const struct device_label *label)
{
	struct cuda_marks *m = stream->tracer;
	uint64_t *open = &m->open[m->open_count++];
	struct mark *mark;

	*open = NO_MARK;
	if (!device_running(stream->device) || !trace_recording(stream->lane))
		return;
	if (m->begun - m->collected == MARKS_MAX)
		collect(m);
	if (m->begun - m->collected == MARKS_MAX) {
		trace_drop(stream->lane);
		return;
	}
	mark = &m->marks[m->begun % MARKS_MAX];
	mark->label = *label;
	mark->state = state;
	mark->ended = false;
	if (CHECK(stream->device, cudaEventRecord(mark->begin, m->native)))
		*open = m->begun++;
}

void cuda_marks_end(struct device_stream *stream)
{
	struct cuda_marks *m = stream->tracer;
	uint64_t open = m->open[--m->open_count];
	struct mark *mark = &m->marks[open % MARKS_MAX];

	if (open == NO_MARK || !device_running(stream->device))
		return;
	if (CHECK(stream->device, cudaEventRecord(mark->end, m->native)))
		mark->ended = true;
}

void cuda_marks_collect(struct device *device)
{
	struct cuda_clock *c = device->tracer;

	if (!c || !device_running(device))
		return;
	anchor_take(device, c);
	for (struct cuda_marks *m = c->marks; m && device_running(device); m = m->next)
		collect(m);
}
