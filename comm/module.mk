MODULES      += comm
comm_SRCS    := $(sort $(wildcard comm/*.c))
comm_USES    := kernels common
