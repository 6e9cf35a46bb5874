# The nccl backend, on the CUDA shim and over the host's own NCCL, which is loaded as the real one is.
cuda_host_NCCL := $(B)/cuda_host/lib/libnccl.so.2
$(cuda_host_NCCL): $(B)/cuda_host/tests/cuda_host/nccl.o
	$(if $(Q),@echo "  LD    $@")
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -shared $(san) -Wl,-soname,$(@F) -o $@ $^ -lpthread
$(B)/cuda_host/comm/%.o: ROOM_CFLAGS := $(cuda_host_INCLUDE) -DCOMM_HAVE_NCCL
tests: $(cuda_host_NCCL)
TESTS            += t_comm_nccl
TESTS_THREAD     += t_comm_nccl
TEST_SCRIPTS     += tests/cuda_host/ranks.sh
t_comm_nccl_SRCS := tests/comm_bed.c $(cuda_host_BACKEND) $(addprefix cuda_host/comm/,comm.c nccl.c nccl_lib.c nccl_watch.c)
t_comm_nccl_USES := comm kernels common
t_comm_nccl_WRAP := calloc mmap eventfd pthread_create
t_comm_nccl_LIBS  = $(call cuda_host_LIBS,../cuda_host/)
$(B)/tests/t_comm_nccl: | $(cuda_host_CUBLASLT) $(cuda_host_NCCL)
