# What needs a GPU: `make gpu` makes $(B)/gpu, a folder that runs by itself on a machine that has one
# (tests/gpu/bundle.sh); `make check-gpu` and `make bench-gpu` make it and run it here. The tests of
# kernels and products are those that also run on the host (tests/cuda_host.mk), linked with CUDA itself.
gpu_tests = gpu_probe t_linear_cuda $(filter-out t_cuda_shim t_cuda_trace,$(filter t_cuda_%,$(TESTS)))
gpu_srcs  = tests/$(1).c $(filter tests/%.c,$($(1)_SRCS)) \
    $(patsubst cuda_host/%,%,$(filter cuda_host/tests/%.cu,$($(1)_SRCS)))
gpu_objs  = $(patsubst %,$(B)/gpu_obj/%.o,$(basename $(call gpu_srcs,$(1))))
gpu_uses := kernels_cuda kernels common

$(B)/gpu_obj/%.o: ROOM_CFLAGS := $(cuda_include)
$(B)/gpu_obj/%.o: %.c Makefile tests/gpu.mk
	$(if $(Q),@echo "  CC    $<")
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(c_flags) -MMD -MP -c -o $@ $<

$(B)/gpu_obj/%.o: %.cu Makefile tests/gpu.mk
	$(if $(Q),@echo "  NVCC  $<")
	$(Q)mkdir -p $(@D)
	$(Q)$(NVCC) $(nvcc_flags) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

define gpu_rules
$(B)/gpu_obj/$(1): $(call gpu_objs,$(1)) $(foreach m,$(gpu_uses),$(call lib,$m))
	$(if $(Q),@echo "  LD    $$@")
	$(Q)$(CC) $(c_flags) -o $$@ $$^ -lcheck -lsubunit $(foreach m,$(gpu_uses),$($m_LIBS)) -lm -lpthread
gpu-programs: $(B)/gpu_obj/$(1)
endef

.PHONY: gpu gpu-programs check-gpu bench-gpu
ifneq ($(NVCC),)
# Expanded when all rooms have named their tests.
gpu_all = $(foreach t,$(gpu_tests),$(eval $(call gpu_rules,$t)))
gpu: all $(B)/tests/peak_memory gpu-programs
	$(Q)B=$(B) tests/gpu/bundle.sh $(B)/gpu $(gpu_tests:%=$(B)/gpu_obj/%) $(B)/tests/peak_memory
check-gpu: gpu
	$(Q)$(B)/gpu/gpu/check.sh $(B)/gpu-check.json
bench-gpu: gpu
	$(Q)$(B)/gpu/gpu/bench.sh $(B)/gpu-bench.json
else
gpu check-gpu bench-gpu:
	@echo "$@ needs nvcc, which is not below CUDA_HOME ($(CUDA_HOME))" >&2; exit 1
endif
