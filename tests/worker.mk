TESTS            += t_arch t_data t_safetensors t_checkpoint t_gpt2_grad
t_arch_USES      := offload comm nvme kernels common
t_data_USES      := worker common
t_safetensors_USES := worker common
t_checkpoint_USES := worker offload comm nvme kernels common
t_checkpoint_WRAP := write pwrite fsync rename mkdir open
t_gpt2_grad_USES := worker offload comm nvme kernels common
TEST_SCRIPTS     += tests/dsprep.sh tests/worker_run.sh
