/*
 * What streams of a cuda device did when, for a trace: a pair of timing events around each piece of
 * work, and a clock that turns the GPU's time into the host's. Private to the cuda backend; all of
 * it is called by the one thread that enqueues on a traced device (device.h), on which the device
 * is current.
 */
#ifndef KERNELS_TRACE_CUDA_H
#define KERNELS_TRACE_CUDA_H

#include <cuda_runtime_api.h>

#include "common/err.h"
#include "common/trace.h"
#include "kernels/internal.h"

/* From now on `stream`, whose lane the front has set, is traced. */
int cuda_marks_open(struct device_stream *stream, cudaStream_t native, struct err *err);

/* Of streams that run nothing any more. Fine where nothing was opened. */
void cuda_marks_free(struct device_stream *stream);
void cuda_clock_free(struct device *device);

/* Around one piece of work, or what lies between two calls; they nest. */
void cuda_marks_begin(struct device_stream *stream, enum trace_state state,
		      const struct device_label *label);
void cuda_marks_end(struct device_stream *stream);

/* Those two for a backend's table, and the third. */
void cuda_marks_collect(struct device *device);

/* Around a piece of work that calls itself `name`. */
static inline void cuda_mark_begin(struct device_stream *stream, enum trace_state state,
				   const char *name, uint64_t bytes)
{
	struct device_label label;

	if (!stream->tracer)
		return;
	label = device_stream_label(stream, name, bytes);
	cuda_marks_begin(stream, state, &label);
}

static inline void cuda_mark_end(struct device_stream *stream)
{
	if (stream->tracer)
		cuda_marks_end(stream);
}

#endif
