MODULES       += kernels
kernels_SRCS  := $(sort $(wildcard kernels/*.c))
kernels_USES  := common
kernels_CFLAGS := -DDSRUN_CUDA=0
# OpenBLAS is loaded at run time: see kernels/blas.c.
kernels_LIBS  := -ldl
$(B)/kernels/%_avx2.o: ISA_CFLAGS := -mavx2 -mfma -mf16c
$(B)/kernels/%_avx512.o: ISA_CFLAGS := -mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma
