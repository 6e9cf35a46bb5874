/*
 * Causal multi-head attention, softmax(q k^T / sqrt(head_dim)) v, summed in fp32. q, k and v lie
 * side by side in each row of qkv, each of heads * head_dim, as the fused projection leaves them.
 */
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

#include <stddef.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

#define ATTENTION_HEAD_DIM_MAX_CUDA 256u

struct attention {
	size_t batch, seq, heads, head_dim; /* on cuda, batch * seq * heads is below 2^31 */
	enum dtype act;   /* of qkv, out, dout and dqkv; DTYPE_F32 on the cpu device */
	const void *qkv;  /* [batch][seq][3 * heads * head_dim] */
	void *out;        /* [batch][seq][heads * head_dim]: forward writes, backward reads */
	float *lse;       /* [batch][heads][seq], log of the softmax's sum: likewise */
	const void *dout; /* as out: backward */
	void *dqkv;       /* as qkv: backward, overwritten */
	float *scratch;
	size_t scratch_count; /* floats, at least attention_scratch_count() */
};

/* Floats of scratch that forward or backward needs. `threads`: of a cpu device. */
size_t attention_scratch_count(enum device_type type, size_t batch, size_t seq, size_t heads,
			       size_t head_dim, unsigned threads);

void attention_forward(struct device_stream *stream, const struct attention *a);
void attention_backward(struct device_stream *stream, const struct attention *a);

#endif
