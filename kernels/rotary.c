/* The table of rotary positions, in host memory: see rotary.h. Called once, before a model runs. */
#include "kernels/rotary.h"

#include <assert.h>
#include <math.h>

void rotary_host_table(float *table, size_t seq, size_t head_dim, double theta)
{
	size_t half = head_dim / 2;

	assert(head_dim % 2 == 0 && theta > 0);
	for (size_t j = 0; j < half; j++) {
		double frequency = pow(theta, -2 * (double)j / (double)head_dim);

		for (size_t p = 0; p < seq; p++) {
			float *pair = table + 2 * (p * half + j);

			pair[0] = (float)cos((double)p * frequency);
			pair[1] = (float)sin((double)p * frequency);
		}
	}
}
