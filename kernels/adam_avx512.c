/* Adam's kernels: avx512. */
#include "kernels/vec_avx512.h"

#include "kernels/adam_body.h"
#include "kernels/adam_move_body.h"

const struct adam_kernels adam_avx512 = {
	.step =
		{
			[DTYPE_F32] = {[DTYPE_F32] = range_f32_f32, [DTYPE_BF16] = range_f32_bf16},
			[DTYPE_BF16] =
				{[DTYPE_F32] = range_bf16_f32, [DTYPE_BF16] = range_bf16_bf16},
		},
	.move = range_move,
};
