/* The row kernels of simd.h: avx2. */
#include "kernels/vec_avx2.h"

#include "kernels/simd_body.h"

#include "kernels/attention_body.h"

const struct simd simd_avx2 = {
	.add = add,
	.add_params = add_params,
	.widen = widen,
	.narrow = narrow,
	.accumulate = accumulate,
	.sum = sum,
	.sumsq = sumsq,
	.column_sum = column_sum,
	.gelu_forward = gelu_forward_count,
	.gelu_backward = gelu_backward_count,
	.layernorm_forward = layernorm_forward_rows,
	.layernorm_backward_rows = layernorm_backward_rows,
	.layernorm_backward_columns = layernorm_backward_columns,
	.rmsnorm_forward = rmsnorm_forward_rows,
	.rmsnorm_backward_rows = rmsnorm_backward_rows,
	.rmsnorm_backward_columns = rmsnorm_backward_columns,
	.swiglu_forward = swiglu_forward_rows,
	.swiglu_backward = swiglu_backward_rows,
	.rotary = rotary_tokens,
	.cross_entropy = cross_entropy_row,
	.attention_forward = attention_forward_head,
	.attention_backward = attention_backward_head,
};
