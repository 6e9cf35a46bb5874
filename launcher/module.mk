# dsrun and its agent: one binary. Everything but main() is in the archive, so that tests reach it.
MODULES         += launcher
launcher_SRCS   := $(filter-out launcher/dsrun.c,$(sort $(wildcard launcher/*.c)))
launcher_USES   := offload comm nvme kernels common
launcher_CFLAGS := -DDSRUN_VERSION='"$(DSRUN_VERSION)"' -DDSRUN_LIBEXECDIR='"$(libexecdir)"' \
                   -DDSRUN_SBINDIR='"$(sbindir)"'
PROGS           += dsrun
dsrun_SRCS      := launcher/dsrun.c
dsrun_USES      := launcher offload comm nvme kernels common
# A library that nothing here calls must not be loaded: OpenBLAS starts threads when it is.
dsrun_LIBS      := -Wl,--as-needed
