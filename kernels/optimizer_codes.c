/* The tables of optimizer_codes.h, from its formula. */
#include "kernels/optimizer_codes.h"

/* Of a decade up to `ten` in `n` cells: width of a cell, and where code 0 would begin. */
#define UNIT(ten, n)     (0.9f * (ten) / (n))
#define OFFSET(ten)      (-0.8f * (ten))
#define PER_UNIT(ten, n) ((n) / (0.9f * (ten)))
/* Cells begin at whole numbers, so that half of one less rounds to the cell. */
#define SHIFT(n) (0.8f / 0.9f * (n)-0.5f)
/*
 * Half way from the last code of the decade below, whose cells are five times as narrow, to the
 * first of this one: 0.1 + (0.45 - 0.09) / 2 / n.
 */
#define REACHED(ten, n) ((ten) * (0.1f + 0.18f / (n)))

const struct optimizer_code optimizer_codes[2] = {
	{
		/* Exponents 0..5, -1 (of h = 1/2: zero), 6 in the order of 127 + b modulo 8. */
		.unit = {UNIT(1e-5f, 2), UNIT(1e-4f, 4), UNIT(1e-3f, 8), UNIT(1e-2f, 16),
			 UNIT(1e-1f, 32), UNIT(1.0f, 64), 0, UNIT(1e-6f, 1)},
		.offset = {OFFSET(1e-5f), OFFSET(1e-4f), OFFSET(1e-3f), OFFSET(1e-2f),
			   OFFSET(1e-1f), OFFSET(1.0f), 0, OFFSET(1e-6f)},
		/* Zero ends half way to the one code of the lowest decade. */
		.reached = {0.275e-6f, REACHED(1e-5f, 2), REACHED(1e-4f, 4), REACHED(1e-3f, 8),
			    REACHED(1e-2f, 16), REACHED(1e-1f, 32), REACHED(1.0f, 64)},
		.top = 1 - 0.225f / 64,
		.per_unit = {0, PER_UNIT(1e-6f, 1), PER_UNIT(1e-5f, 2), PER_UNIT(1e-4f, 4),
			     PER_UNIT(1e-3f, 8), PER_UNIT(1e-2f, 16), PER_UNIT(1e-1f, 32),
			     PER_UNIT(1.0f, 64)},
		.shift = {0, SHIFT(1), SHIFT(2), SHIFT(4), SHIFT(8), SHIFT(16), SHIFT(32),
			  SHIFT(64)},
		.last = {0, 1, 3, 7, 15, 31, 63, 127},
	},
	{
		/* Exponents 1..7, 0 (of h = 3/2: one); what h = 1/2 finds is not looked at. */
		.unit = {UNIT(1e-6f, 2), UNIT(1e-5f, 4), UNIT(1e-4f, 8), UNIT(1e-3f, 16),
			 UNIT(1e-2f, 32), UNIT(1e-1f, 64), UNIT(1.0f, 128), 0},
		.offset = {OFFSET(1e-6f), OFFSET(1e-5f), OFFSET(1e-4f), OFFSET(1e-3f),
			   OFFSET(1e-2f), OFFSET(1e-1f), OFFSET(1.0f), 1},
		/* What is below the lowest decade has its first code, 2. */
		.reached = {1e-7f, REACHED(1e-5f, 4), REACHED(1e-4f, 8), REACHED(1e-3f, 16),
			    REACHED(1e-2f, 32), REACHED(1e-1f, 64), REACHED(1.0f, 128)},
		.top = 1 - 0.225f / 128,
		.per_unit = {0, PER_UNIT(1e-6f, 2), PER_UNIT(1e-5f, 4), PER_UNIT(1e-4f, 8),
			     PER_UNIT(1e-3f, 16), PER_UNIT(1e-2f, 32), PER_UNIT(1e-1f, 64),
			     PER_UNIT(1.0f, 128)},
		.shift = {2, SHIFT(2), SHIFT(4), SHIFT(8), SHIFT(16), SHIFT(32), SHIFT(64),
			  SHIFT(128)},
		.last = {2, 3, 7, 15, 31, 63, 127, 255},
	},
};
