# CUDA sources compiled as C++ for the host, against tests/cuda_host/ in place of a CUDA toolkit. A
# test that runs kernels has $(cuda_host_SRCS) and cuda_host/kernels/NAME_cuda.cu among its _SRCS,
# and $(B)/tests/t_x.o: ROOM_CFLAGS := $(cuda_host_INCLUDE) when it includes CUDA's header itself.
cuda_host_INCLUDE := -Itests/cuda_host/include
cuda_host_SRCS    := $(addprefix cuda_host/tests/cuda_host/,block.c cudart.c cudart_error.c \
    cudart_memory.c fiber.c launch.c)

# Not for C++: what only C has, and complaints of a function named as its struct.
cuda_host_warn  = $(filter-out -Wshadow -Wstrict-prototypes -Wmissing-prototypes,$(warn))
cuda_host_flags = -std=gnu++17 -D_GNU_SOURCE -I. $(cuda_host_INCLUDE) -fno-exceptions -fno-rtti \
    -fno-threadsafe-statics $(cuda_host_warn) -Wno-unknown-pragmas -fPIC -ffp-contract=off \
    -fno-math-errno $(san) $(CFLAGS)

$(B)/cuda_host/%.o: %.cu Makefile tests/cuda_host.mk
	$(if $(Q),@echo "  C++   $<")
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -x c++ $(cuda_host_flags) -MMD -MP -c -o $@ $<
$(B)/cuda_host/%.o: ROOM_CFLAGS := $(cuda_host_INCLUDE)
$(B)/cuda_host/%.o: %.c Makefile tests/cuda_host.mk
	$(if $(Q),@echo "  CC    $<")
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(c_flags) -MMD -MP -c -o $@ $<

# The whole backend on the shim, with the host's own cuBLASLt, which is loaded as the real one is:
# by its soname. An old-style path, since with AddressSanitizer it is its library that loads.
cuda_host_BACKEND := $(cuda_host_SRCS) $(addprefix cuda_host/,$(kernels_cuda_SRCS))
cuda_host_CUBLASLT := $(B)/cuda_host/lib/libcublasLt.so.13
cuda_host_LIBS    = -rdynamic -Wl,--disable-new-dtags,-rpath,'$$$$ORIGIN/$(1)lib' -ldl

$(cuda_host_CUBLASLT): $(B)/cuda_host/tests/cuda_host/cublaslt.o
	$(if $(Q),@echo "  LD    $@")
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -shared $(san) -Wl,-soname,$(@F) -o $@ $^ -lm

# A worker whose cuda device stands on the shim, otherwise the same objects as dsworker's.
cuda_host_WORKER  := $(B)/cuda_host/dsworker
cuda_host_rooms   := worker offload comm nvme kernels common
cuda_host_objects := $(patsubst %,$(B)/%.o,$(basename $(cuda_host_BACKEND)))
$(cuda_host_WORKER): $(B)/worker/dsworker.o $(cuda_host_objects) \
    $(patsubst %,$(B)/lib/lib%.a,$(cuda_host_rooms)) | $(cuda_host_CUBLASLT) \
    $(B)/cuda_host/lib/libnccl.so.2
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(c_flags) -o $@ $(filter %.o,$^) $(filter %.a,$^) \
	    $(subst $$$$,$$,$(call cuda_host_LIBS)) $(foreach r,$(cuda_host_rooms),$($r_LIBS)) -lm -lpthread
tests: $(cuda_host_WORKER)
TEST_SCRIPTS += tests/cuda_host/train.sh

TESTS += t_cuda_shim t_device_cuda
t_device_cuda_SRCS := $(cuda_host_BACKEND)
t_device_cuda_USES := kernels common
t_device_cuda_LIBS  = $(call cuda_host_LIBS,../cuda_host/)
t_device_cuda_WRAP := calloc
$(B)/tests/t_device_cuda.o: ROOM_CFLAGS := $(cuda_host_INCLUDE)
$(B)/tests/t_device_cuda: | $(cuda_host_CUBLASLT)
TESTS += t_linear_cuda
t_linear_cuda_SRCS := $(cuda_host_BACKEND)
t_linear_cuda_USES := kernels common
t_linear_cuda_LIBS  = $(call cuda_host_LIBS,../cuda_host/)
$(B)/tests/t_linear_cuda.o: ROOM_CFLAGS := $(cuda_host_INCLUDE)
$(B)/tests/t_linear_cuda: | $(cuda_host_CUBLASLT)

TESTS += t_cuda_trace
t_cuda_trace_SRCS := $(cuda_host_BACKEND)
t_cuda_trace_USES := kernels common
t_cuda_trace_LIBS  = $(call cuda_host_LIBS,../cuda_host/)
$(B)/tests/t_cuda_trace.o: ROOM_CFLAGS := $(cuda_host_INCLUDE)
$(B)/tests/t_cuda_trace: | $(cuda_host_CUBLASLT)

t_cuda_shim_SRCS := $(cuda_host_SRCS) cuda_host/tests/cuda_host/shim_kernels.cu
$(B)/tests/t_cuda_shim.o: ROOM_CFLAGS := $(cuda_host_INCLUDE)

TESTS += t_cuda_mma
t_cuda_mma_USES := common
t_cuda_mma_SRCS := $(cuda_host_SRCS) cuda_host/tests/cuda_host/mma_kernels.cu
$(B)/tests/t_cuda_mma.o: ROOM_CFLAGS := $(cuda_host_INCLUDE)

TESTS += t_cuda_attention
t_cuda_attention_USES := common
t_cuda_attention_SRCS := $(cuda_host_SRCS) kernels/reference.c \
    $(addprefix cuda_host/kernels/,attention_cuda.cu attention_bf16_cuda.cu attention_f32_cuda.cu)
$(B)/tests/t_cuda_attention.o: ROOM_CFLAGS := $(cuda_host_INCLUDE)

cuda_host_KERNELS := $(addprefix cuda_host/kernels/,activation_cuda.cu adam_cuda.cu \
    embedding_cuda.cu loss_cuda.cu norm_cuda.cu rotary_cuda.cu vector_cuda.cu)

TESTS += t_cuda_ops t_cuda_vector
t_cuda_ops_USES := kernels common
t_cuda_ops_SRCS := tests/cuda_kit.c $(cuda_host_SRCS) $(cuda_host_KERNELS)
t_cuda_vector_USES := kernels common
t_cuda_vector_SRCS := $(t_cuda_ops_SRCS)
$(addprefix $(B)/tests/,cuda_kit.o t_cuda_ops.o t_cuda_vector.o): ROOM_CFLAGS := $(cuda_host_INCLUDE)

# The scripts that prove dsrun on a GPU (tests/gpu/), tried out on the shim.
TEST_TOOLS += gpu_probe
gpu_probe_NOCHECK := 1
gpu_probe_SRCS := $(cuda_host_BACKEND)
gpu_probe_USES := kernels common
gpu_probe_LIBS  = $(call cuda_host_LIBS,../cuda_host/)
$(B)/tests/gpu_probe.o: ROOM_CFLAGS := $(cuda_host_INCLUDE)
$(B)/tests/gpu_probe: | $(cuda_host_CUBLASLT)
TEST_SCRIPTS += tests/cuda_host/gpu_scripts.sh
