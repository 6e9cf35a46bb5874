/* The row kernels of simd.h: scalar. */
#include "kernels/vec_scalar.h"

#include "kernels/simd_body.h"

#include "kernels/attention_body.h"

const struct simd simd_scalar = {
	.add = add,
	.add_params = add_params,
	.widen = widen,
	.narrow = narrow,
	.accumulate = accumulate,
	.sum = sum,
	.sumsq = sumsq,
	.column_sum = column_sum,
	.gelu_forward = gelu_forward,
	.gelu_backward = gelu_backward,
	.layernorm_forward = layernorm_forward_rows,
	.layernorm_backward_rows = layernorm_backward_rows,
	.layernorm_backward_columns = layernorm_backward_columns,
	.cross_entropy = cross_entropy_row,
	.attention_forward = attention_forward_head,
	.attention_backward = attention_backward_head,
};
