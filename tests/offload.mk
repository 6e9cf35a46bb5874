TESTS                += t_train_config t_plan t_job
t_train_config_USES  := offload comm nvme kernels common
t_plan_USES          := offload comm nvme kernels common
t_plan_WRAP          := calloc
t_job_USES           := offload comm nvme kernels common
t_job_WRAP           := malloc calloc realloc strdup
