/*
 * Rotary positions (Su et al., 2021): at position p, pair j of a head is turned by the angle
 * p * theta^(-2j / head_dim), so that the product of a query and a key depends on how far they are
 * apart. Turning is orthogonal: the gradient is turned back (`inverse`).
 *
 * Pair j is elements j and j + head_dim / 2: the halves of a head, not neighbours. So Hugging
 * Face's Llama has it, and with it the published weights (Meta's own files pair neighbours; their
 * conversion permutes the rows of q's and k's projections); and both members of neighbouring pairs
 * lie side by side, which vectors and warps read whole.
 */
#ifndef KERNELS_ROTARY_H
#define KERNELS_ROTARY_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/device.h"
#include "kernels/dtype.h"

struct rotary {
	size_t batch, seq, heads;
	size_t head_dim; /* even */
	size_t row;      /* elements from token to token, at least heads * head_dim */
	enum dtype act;  /* of x; DTYPE_F32 on the cpu device */
	void *x;         /* [batch][seq][row], in place: the heads at the start of each row */
	const float
		*table; /* [seq][head_dim / 2][2]: cosine and sine, as rotary_host_table has it */
	bool inverse;   /* turn back */
};

/*
 * Turns `heads` heads of every token, computed in fp32; elements of a row behind them stay as they
 * are. Queries and keys that lie side by side are turned by one call with the heads of both.
 */
void rotary(struct device_stream *stream, const struct rotary *r);

/*
 * Fills a table of seq * head_dim floats in host memory, in the calling thread. Every entry is
 * computed in double and rounded once: no product of a position and a rounded frequency, whose
 * error grows with the position, is in it.
 */
void rotary_host_table(float *table, size_t seq, size_t head_dim, double theta);

#endif
