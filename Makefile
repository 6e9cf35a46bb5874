# dsrun: one Makefile. A room is a directory with a module.mk; nothing here recurses.
#
#   make quickstart     set up this machine, build, train on real text, show a sample
#   make check          the same set-up, then every test; check-long: the tests that take longer;
#                       check-thread: the tests with threads, under ThreadSanitizer
#   make check-gpu | bench-gpu   on a machine with a GPU; `make gpu` makes a folder to carry to one
#   make bench | bench-NAME (adam, nvme, swap, ...) | peers (PyTorch, DeepSpeed: to measure beside)
#   make all | lint | install | uninstall | clean | format | deps
#   make V=1 SAN=address,undefined | SAN=thread, B=dir, CC=clang, NVCC= (leave CUDA out)

DSRUN_VERSION := 0.1.0
PREFIX     ?= /usr/local
bindir     ?= $(PREFIX)/bin
sbindir    ?= $(PREFIX)/sbin
libexecdir ?= $(PREFIX)/libexec/dsrun
mandir     ?= $(PREFIX)/share/man
docdir     ?= $(PREFIX)/share/doc/dsrun
sysconfdir ?= /etc
unitdir    ?= $(PREFIX)/lib/systemd/system
DESTDIR    ?=
CFLAGS     ?= -O2 -g
SAN        ?=
empty      :=
comma      := ,
space      := $(empty) $(empty)
B          ?= build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
Q          := $(if $(filter 1,$(V)),,@)
PKG_CONFIG ?= pkg-config
PYTHON     ?= python3

# Optional parts, found by themselves; `make config` prints what was found.
CUDA_HOME  ?= /usr/local/cuda
NVCC       ?= $(wildcard $(CUDA_HOME)/bin/nvcc)
NCCL_H     ?= $(if $(NVCC),$(firstword $(wildcard $(CUDA_HOME)/include/nccl.h /usr/include/nccl.h)))
SYSTEMD    ?= $(shell $(PKG_CONFIG) --exists libsystemd 2>/dev/null && echo yes)
MPICC      ?= $(shell command -v mpicc.mpich 2>/dev/null)

# Sanitizers do not reach into CUDA objects, so all builds below build/ share them.
CUDA_B   := $(if $(filter build build/%,$(B)),build,$(B))/cuda
san      := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
warn     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith \
            -Wwrite-strings -Werror
# -ffp-contract=off: a fused multiply-add happens where the source says fmaf() and nowhere else.
c_flags   = -std=gnu11 -D_GNU_SOURCE -I. $(warn) -fPIC -ffp-contract=off -fno-math-errno $(san) \
            $(ROOM_CFLAGS) $(CFLAGS) $(ISA_CFLAGS)
# CUDA's headers, for sources in C; the test shim has its own, for where there are none.
cuda_include := -isystem $(if $(NVCC),$(CUDA_HOME)/include,tests/cuda_host/include)
# A fifth of the size, where nvcc knows it.
nvcc_small := $(if $(NVCC),$(shell $(NVCC) --help | grep -q -- '(-compress-mode)' && echo -compress-mode=size))
# SASS for A100 and H100, PTX for what comes later. -fmad=false: as -ffp-contract=off above.
# -fno-threadsafe-statics: what nvcc makes of a launch needs no C++ library then.
nvcc_flags = -std=c++17 -O3 -I. -fmad=false -gencode arch=compute_80,code=sm_80 \
            -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90 \
            -lineinfo $(nvcc_small) -Werror all-warnings --threads 2 \
            -Xcompiler -fPIC,-Wall,-Wextra,-Werror,-fno-exceptions,-fno-rtti,-ffp-contract=off \
            -Xcompiler -fno-threadsafe-statics

.DELETE_ON_ERROR:
.SUFFIXES:
all:

# $(call remember,NAME,VALUE): a file that is newer than what was built with another value.
remember = $(B)/remember/$(1)-$(2)
$(B)/remember/%:
	$(Q)mkdir -p $(@D); rm -f $(@D)/$(firstword $(subst -, ,$*))-*; touch $@

MODULES :=
PROGS   :=
TESTS   :=
TESTS_LONG :=
BENCHES :=
include $(wildcard */module.mk)

objs     = $(patsubst %.c,$(B)/%.o,$(filter %.c,$($(1)_SRCS))) \
           $(patsubst %.cu,$(CUDA_B)/%.o,$(filter %.cu,$($(1)_SRCS)))
lib      = $(B)/lib/lib$(1).a
libs     = $(foreach m,$($(1)_USES),$(call lib,$m))
ldlibs   = $(foreach m,$(1) $($(1)_USES),$($m_LIBS)) -lm -lpthread
all_objs = $(sort $(foreach m,$(MODULES) $(PROGS),$(call objs,$m)))

$(B)/%.o: %.c Makefile
	$(if $(Q),@echo "  CC    $<")
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(c_flags) -MMD -MP -c -o $@ $<

$(CUDA_B)/%.o: %.cu Makefile
	$(if $(Q),@echo "  NVCC  $<")
	$(Q)mkdir -p $(@D)
	$(Q)$(NVCC) $(nvcc_flags) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

# Per room: an archive, and a link of that archive alone against what module.mk says it uses.
define module_rules
$(B)/$(1)/%.o: ROOM_CFLAGS := $($(1)_CFLAGS)
$(call lib,$(1)): $(call objs,$(1))
	$(if $(Q),@echo "  AR    $$@")
	$(Q)mkdir -p $$(@D); rm -f $$@; $(AR) rcs $$@ $$^
$(B)/layer/$(1).so: $(call lib,$(1)) $(call libs,$(1))
	$(Q)mkdir -p $$(@D)
	$(Q)$(CC) -shared $(san) $(if $(SAN),,-Wl$(comma)-z$(comma)defs) -o $$@ -Wl,--whole-archive $(call lib,$(1)) \
	    -Wl,--no-whole-archive $(call libs,$(1)) $(call ldlibs,$(1))
check-layers: $(B)/layer/$(1).so
endef
# A program is PROG_SRCS (its main file, in a room, in no archive) and the rooms it uses.
define prog_rules
$(B)/bin/$(1): $(call objs,$(1)) $(call libs,$(1))
	$(if $(Q),@echo "  LD    $$@")
	$(Q)mkdir -p $$(@D)
	$(Q)$(CC) $(c_flags) -o $$@ $$^ $(call ldlibs,$(1))
all: $(B)/bin/$(1)
endef
define test_rules
$(B)/tests/$(1): $(B)/tests/$(1).o $(patsubst %,$(B)/%.o,$(basename $($(1)_SRCS))) $(call libs,$(1))
	$(if $(Q),@echo "  LD    $$@")
	$(Q)$(CC) $(c_flags) -o $$@ $$^ $(foreach w,$($(1)_WRAP),-Wl,--wrap=$w) \
	    $(if $($(1)_NOCHECK),,-lcheck -lsubunit -lrt) $(call ldlibs,$(1))
tests: $(B)/tests/$(1)
endef
define bench_rules
$(B)/bench/$(1): $(B)/bench/$(1).o $(call libs,$(1))
	$(if $(Q),@echo "  LD    $$@")
	$(Q)$(CC) $(c_flags) -o $$@ $$^ $(foreach w,$($(1)_WRAP),-Wl,--wrap=$w) $(call ldlibs,$(1))
benches: $(B)/bench/$(1)
endef
$(foreach m,$(MODULES),$(eval $(call module_rules,$m)))
$(foreach p,$(PROGS),$(eval $(call prog_rules,$p)))
$(foreach t,$(TESTS) $(TESTS_LONG) $(TEST_TOOLS),$(eval $(call test_rules,$t)))
$(foreach b,$(BENCHES),$(eval $(call bench_rules,$b)))
$(gpu_all)

all: config
config: $(PROGS:%=$(B)/bin/%)
	@etc/config-table.sh "$(NVCC)" "$(SYSTEMD)" "$(MPICC)" "$(wildcard kernels/*.cu)" "$(wildcard comm/mpi*.c)" "$(NCCL_H)"

deps:
	@etc/deps.sh all
deps-build deps-check: deps-%:
	@etc/deps.sh $*

# What follows `deps` runs in a second make, since variables like SYSTEMD are found at parsing; on
# all processors, unless the user said how many.
submake = $(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

quickstart: deps-build
	$(Q)$(submake) all
	$(Q)examples/quickstart.sh $(B)

check: deps-check
	$(Q)$(submake) check-run
check-run: all tests lint
	$(Q)B=$(B) SAN=$(SAN) tests/run.sh $(TESTS:%=$(B)/tests/%) $(TEST_SCRIPTS)
check-long: deps-check
	$(Q)$(submake) check-long-run
check-long-run: all tests
	$(Q)B=$(B) SAN=$(SAN) TEST_TIMEOUT=$${TEST_TIMEOUT:-1800} \
	    tests/run.sh $(TESTS_LONG:%=$(B)/tests/%) $(TEST_SCRIPTS_LONG)
# The tests with something for ThreadSanitizer to see: a room adds its own to TESTS_THREAD.
check-thread: deps-check
	$(Q)$(submake) SAN=thread B=$(B)/san-thread check-thread-run
check-thread-run: all tests
	$(Q)B=$(B) SAN=$(SAN) tests/run.sh $(TESTS_THREAD:%=$(B)/tests/%) $(TEST_SCRIPTS_THREAD)

lint: check-layers check-headers check-isa check-owners check-includes check-man check-shell check-text
check-headers: $(patsubst %.h,$(B)/hdr/%.ok,$(wildcard */*.h))
$(B)/hdr/%.ok: %.h
	$(Q)mkdir -p $(@D); $(CC) $(c_flags) $(if $(findstring _avx512.h,$<),-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma) \
	    $(if $(findstring _avx2.h,$<),-mavx2 -mfma) $(if $(findstring cuda,$<)$(findstring nccl,$<),$(cuda_include)) -fsyntax-only -x c $< && touch $@
check-isa: $(all_objs)
	$(Q)tests/lint/isa.sh $^
check-includes:
	$(Q)tests/lint/includes.sh
check-owners: $(all_objs)
	$(Q)tests/lint/owners.sh $^
check-man:
	$(Q)tests/lint/man.sh $(PROGS)
check-shell:
	$(Q)tests/lint/shell.sh
check-text:
	$(Q)tests/lint/text.sh

# PyTorch and DeepSpeed, which the benchmarks measure beside, in a Python environment of their own.
peers: deps
	$(Q)bench/peers/install.sh $${DSRUN_PEERS:-$(B)/peers}
bench: deps
	$(Q)$(submake) bench-run
bench-run: all benches
	$(Q)B=$(B) bench/run.sh
# One table: bench-adam runs bench/adam.sh.
bench_names := $(filter-out gpu run,$(patsubst bench/%.sh,%,$(wildcard bench/*.sh)))
$(bench_names:%=bench-%): bench-%: deps
	$(Q)$(submake) bench-run-$*
$(bench_names:%=bench-run-%): bench-run-%: all benches
	$(Q)B=$(B) bench/run.sh $*

include etc/install.mk

format:
	clang-format -i $(shell git ls-files '*.c' '*.h' '*.cu' '*.cuh')
clean:
	rm -rf $(B)
.PHONY: all config deps deps-build deps-check check-thread check-thread-run quickstart check check-run check-long check-long-run tests benches lint check-layers \
	check-headers check-isa check-owners check-includes check-man check-shell check-text peers bench bench-run $(bench_names:%=bench-%) $(bench_names:%=bench-run-%) format clean
.SECONDARY:
-include $(shell find $(B) -path '$(B)/san-*' -prune -o -name '*.d' -print 2>/dev/null)
