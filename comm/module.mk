MODULES      += comm
comm_SRCS    := $(filter-out $(if $(NCCL_H),,comm/nccl%.c),$(sort $(wildcard comm/*.c)))
comm_USES    := kernels common
comm_CFLAGS  := $(if $(NCCL_H),-DCOMM_HAVE_NCCL)
# NCCL itself is loaded at run time: see comm/nccl_lib.c.
comm_LIBS    := -ldl
$(B)/comm/nccl%.o: ROOM_CFLAGS := $(cuda_include) $(if $(NCCL_H),-isystem $(dir $(NCCL_H)))
$(B)/comm/comm.o: $(call remember,nccl,$(if $(NCCL_H),yes,no))
