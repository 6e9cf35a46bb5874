MODULES       += worker
worker_SRCS   := $(filter-out worker/dsworker.c worker/dsprep.c,$(sort $(wildcard worker/*.c)))
worker_USES   := offload comm nvme kernels common
PROGS         += dsworker dsprep
dsworker_SRCS := worker/dsworker.c
dsworker_USES := worker offload comm nvme $(cuda_module) kernels common
dsprep_SRCS   := worker/dsprep.c
dsprep_USES   := worker common
