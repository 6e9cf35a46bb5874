/*
 * Causal multi-head attention, softmax(q k^T / sqrt(head_dim)) v, in fp32. q, k and v lie side by
 * side in each row of qkv, each of heads * head_dim, as the fused projection leaves them.
 */
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

#include <stddef.h>

#include "kernels/device.h"

struct attention {
	size_t batch, seq, heads, head_dim;
	const float *qkv;  /* [batch][seq][3 * heads * head_dim] */
	float *out;        /* [batch][seq][heads * head_dim]: forward writes, backward reads */
	float *lse;        /* [batch][heads][seq], log of the softmax's sum: likewise */
	const float *dout; /* as out: backward */
	float *dqkv;       /* as qkv: backward, overwritten */
	float *scratch;
	size_t scratch_count; /* floats, at least attention_scratch_count() */
};

/* Floats of scratch that forward or backward needs on a device with `threads` threads. */
size_t attention_scratch_count(size_t seq, size_t head_dim, unsigned threads);

void attention_forward(struct device_stream *stream, const struct attention *a);
void attention_backward(struct device_stream *stream, const struct attention *a);

#endif
