TESTS                += t_train_config t_train_optimizer t_plan t_plan_order t_plan_split t_plan_cache t_predict t_plan_forms t_job
t_train_config_USES  := offload comm nvme kernels common
t_train_optimizer_USES := offload comm nvme kernels common
t_plan_USES          := offload comm nvme kernels common
t_plan_SRCS          := tests/plan_bed.c
t_plan_WRAP          := calloc
t_plan_order_USES    := offload comm nvme kernels common
t_plan_order_SRCS    := tests/plan_bed.c
t_plan_forms_USES    := offload comm nvme kernels common
t_plan_forms_SRCS    := tests/plan_bed.c
t_plan_split_USES    := offload comm nvme kernels common
t_plan_split_SRCS    := tests/plan_bed.c
t_plan_cache_USES    := offload comm nvme kernels common
t_plan_cache_SRCS    := tests/plan_bed.c
t_predict_USES       := offload comm nvme kernels common
t_predict_SRCS       := tests/plan_bed.c
t_job_USES           := offload comm nvme kernels common
t_job_WRAP           := malloc calloc realloc strdup
# What a recording device has to see that passes by the device: tests/record_calls.c.
RECORD_SRCS := tests/record_device.c tests/record_log.c tests/record_ops.c tests/record_calls.c \
    tests/record_names.c tests/record_proof.c
RECORD_WRAP := device_alloc device_event_record device_stream_wait device_stream_sync \
    device_event_sync device_event_query comm_open comm_all_gather comm_reduce_scatter \
    comm_all_reduce client_open client_prepare client_push client_submit client_wait client_poll \
    engine_exchange engine_export engine_import_end engine_phase_begin engine_phase_end \
    engine_step_end free
TESTS                += t_record t_engine_order
TESTS_THREAD         += t_record
t_record_SRCS        := $(RECORD_SRCS)
t_record_WRAP        := $(RECORD_WRAP)
t_record_USES        := offload comm nvme kernels common
t_engine_order_SRCS  := $(RECORD_SRCS) tests/order_bed.c tests/order_edges.c tests/daemon_bed.c
t_engine_order_WRAP  := $(RECORD_WRAP)
t_engine_order_USES  := worker offload comm nvme kernels common
TEST_SCRIPTS_LONG    += tests/engine_order_long.sh
