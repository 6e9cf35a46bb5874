MODULES       += offload
offload_SRCS  := $(sort $(wildcard offload/*.c))
offload_USES  := comm nvme kernels common
