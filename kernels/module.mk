MODULES       += kernels
kernels_SRCS  := $(filter-out %_cuda.c,$(sort $(wildcard kernels/*.c)))
kernels_USES  := common
kernels_CFLAGS := -DDSRUN_CUDA=$(if $(NVCC),1,0)
# OpenBLAS is loaded at run time: see kernels/blas.c.
kernels_LIBS  := -ldl
# Every vector of the scalar form is a local array: to watch when each of them ends takes gcc minutes.
$(B)/kernels/simd_scalar.o: ISA_CFLAGS := \
    $(if $(findstring address,$(SAN)),-fno-sanitize-address-use-after-scope)
$(B)/kernels/%_avx2.o: ISA_CFLAGS := -mavx2 -mfma -mf16c
$(B)/kernels/%_avx512.o: ISA_CFLAGS := -mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma
# The answer to NVCC= may differ from the build before.
$(B)/kernels/device.o: $(call remember,nvcc,$(if $(NVCC),yes,no))

# The cuda backend: an archive of its own, for programs that open devices. cudart is linked in, so
# that they start where CUDA is not; cuBLASLt is loaded at run time: see kernels/linear_cuda.c.
# -u: device.c refers to the backend weakly, which alone takes nothing out of an archive.
cuda_module   := $(if $(NVCC),kernels_cuda)
MODULES       += $(cuda_module)
kernels_cuda_SRCS := $(sort $(wildcard kernels/*_cuda.c kernels/*_cuda.cu))
kernels_cuda_USES := kernels common
kernels_cuda_LIBS  = $(if $(NVCC),-Wl$(comma)-u$(comma)device_backend_cuda -L$(CUDA_HOME)/lib64 -lcudart_static -lrt -ldl)
$(B)/kernels/%_cuda.o: ROOM_CFLAGS := $(cuda_include)
