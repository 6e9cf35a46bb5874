TESTS += t_device t_ops t_grad t_rotary t_adam t_optimizer
t_device_USES := kernels common
t_device_SRCS := $(cuda_host_BACKEND)
t_device_LIBS  = $(call cuda_host_LIBS,../cuda_host/)
$(B)/tests/t_device: | $(cuda_host_CUBLASLT)
t_device_WRAP := calloc mmap pthread_create
t_ops_USES    := kernels common
t_ops_SRCS    := tests/kernels_kit.c $(wildcard tests/ops_*.c)
t_grad_USES   := kernels common
t_grad_SRCS   := tests/kernels_kit.c
t_rotary_USES := kernels common
t_rotary_SRCS := tests/kernels_kit.c
t_adam_USES   := kernels common
t_adam_SRCS   := tests/kernels_kit.c
t_optimizer_USES := kernels common
t_optimizer_SRCS := tests/kernels_kit.c
