/* The optimizers' kernels: avx2. */
#include "kernels/vec_avx2.h"

#include "kernels/adagrad_body.h"
#include "kernels/adamw_bf16_body.h"
#include "kernels/adamw_int8_body.h"
#include "kernels/lion_body.h"
#include "kernels/optimizer_move_body.h"
#include "kernels/sgd_body.h"

const struct optimizer_kernels optimizer_avx2 = {
	.step =
		{
			[OPTIMIZER_ADAMW] = {[MOMENTS_BF16] = adamw_bf16_step,
					     [MOMENTS_INT8] = adamw_int8_step},
			[OPTIMIZER_LION] = {[MOMENTS_F32] = lion_step},
			[OPTIMIZER_ADAGRAD] = {[MOMENTS_F32] = adagrad_step},
			[OPTIMIZER_SGD] = {[MOMENTS_F32] = sgd_step},
		},
	.move = move_step,
	.decode = int8_decode,
	.encode = int8_encode,
};
