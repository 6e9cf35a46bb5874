/*
 * The eight bits of MOMENTS_INT8: the dynamic tree of Dettmers et al. 2022 ("8-bit Optimizers via
 * Block-wise Quantization"), a number between -1 and 1 times the scale of its block.
 *
 * The highest bit set in a code's magnitude says which decade it is of, the bits below it where in
 * the decade: code k, the highest bit of which is b, stands for
 *	10^(b - B) * (0.1 + 0.9 * (k + 1/2 - 2^b) / 2^b)
 * which is the middle of one of the 2^b equal cells of the decade that ends at 10^(b - B).
 *	first moment:   bit 7 is the sign, k the other seven, b = 0..6, B = 6; 0 is 0, 0x80 is +1
 *	second moment:  k is all eight, b = 1..7, B = 7; 0 is 0, 1 is +1
 * These are the numbers of the published tables; only the order of the codes is ours.
 *
 * 1. The scale of a block is its element of the greatest magnitude, with its sign, so that this
 *    element is +1 and comes back exactly. A block of nothing but zeros has scale 0 and codes 0.
 * 2. A value has the nearest code. But of the second moment nothing except 0 gets code 0: a moment
 *    that vanished would leave the step divided by eps alone.
 * 3. What the second moment has codes of is sqrt(v), which the step has at hand: that doubles the
 *    decades, to 14, that the v of one block may lie apart.
 * 4. A block whose greatest magnitude is below CODES_TINY is one of zeros. Above, every number and
 *    every square of one that a code stands for is a normal fp32, which codes find their way back
 *    from: a difference of 2^-22 is far below the half cell, 2^-9, that changes a code.
 */
#ifndef KERNELS_OPTIMIZER_CODES_H
#define KERNELS_OPTIMIZER_CODES_H

/* Smallest numbers times these: 2^-21 * 2^-100, and (2^-22 * 2^-40)^2, are above 2^-126. */
#define CODES_TINY_FIRST  0x1p-100f
#define CODES_TINY_SECOND 0x1p-40f

/*
 * Code to number: with h = k + 1/2 and b the exponent of h as a float, the number is
 * fma(unit[b], h, offset[b]); tables are indexed by the low three bits of the exponent field,
 * 127 + b.
 * Number x to code: the decade's rank is how many of `reached` are not above x; the code is
 * fma(per_unit[rank], x, shift[rank]), at most last[rank], rounded; from `top` on it is +1.
 */
struct optimizer_code {
	float unit[8], offset[8];
	float reached[7], top;
	float per_unit[8], shift[8], last[8];
};

extern const struct optimizer_code optimizer_codes[2];

#endif
