/* Token plus learned position embedding. Backward adds rows in batch order: deterministic. */
#ifndef KERNELS_EMBEDDING_H
#define KERNELS_EMBEDDING_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

struct embedding {
	size_t batch, seq, width;
	const uint32_t *tokens; /* [batch][seq], device memory; each below the table's rows */
	enum dtype type;
	const void *token_table, *position_table; /* [vocab][width], [context][width]: forward */
	float *out;                               /* [batch][seq][width]: forward */
	const float *dout;                        /* [batch][seq][width]: backward */
	float *dtoken, *dposition;                /* fp32 tables: backward, added to */
};

void embedding_forward(struct device_stream *stream, const struct embedding *e);
void embedding_backward(struct device_stream *stream, const struct embedding *e);

#endif
