/* What the planner's tests share: a small job, and plans of it. See plan_bed.h. */
#include "tests/plan_bed.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

char swap_dir[] = "/tmp/t_plan.XXXXXX";

void bed_open(struct bed *bed)
{
	char text[2048];
	struct err err = {0};
	int len = snprintf(text, sizeof(text),
			   "model: {layers: 3, hidden: 96, heads: 3, vocab: 257, context: 48}\n"
			   "data: {train: [a.bin]}\n"
			   "batch: {global: 24}\n"
			   "optimizer: {lr: 1e-3}\n"
			   "schedule: {steps: 10}\n"
			   "nvme: {paths: [%s], extent: 64KiB}\n"
			   "host: {memory: 1GiB}\n"
			   "device: {memory: 1GiB}\n",
			   swap_dir);
	int rc = train_config_parse("t.yaml", text, (size_t)len, &bed->config, &bed->doc, &err);

	ck_assert_msg(rc == 0, "%s", err.text);
	rc = arch_make(&bed->config, &bed->arch, &err);
	ck_assert_msg(rc == 0, "%s", err.text);
}

void bed_close(struct bed *bed)
{
	arch_free(bed->arch);
	conf_free(bed->doc);
}

void split(struct bed *bed, double none, double cpu, double nvme)
{
	bed->config.zero.offload_optimizer[PLACE_NONE] = none;
	bed->config.zero.offload_optimizer[PLACE_CPU] = cpu;
	bed->config.zero.offload_optimizer[PLACE_NVME] = nvme;
}

void split_param(struct bed *bed, double none, double cpu, double nvme)
{
	bed->config.zero.offload_param[PLACE_NONE] = none;
	bed->config.zero.offload_param[PLACE_CPU] = cpu;
	bed->config.zero.offload_param[PLACE_NVME] = nvme;
}

void place(struct bed *bed, unsigned stage, int param, int optimizer, int activations)
{
	bed->config.zero.stage = stage;
	split_param(bed, param == PLACE_NONE, param == PLACE_CPU, param == PLACE_NVME);
	bed->config.zero.offload_activations = activations;
	split(bed, optimizer == PLACE_NONE, optimizer == PLACE_CPU, optimizer == PLACE_NVME);
}

struct plan *plan_of(const struct bed *bed, unsigned world)
{
	struct plan *plan = NULL;
	struct err err = {0};
	int rc = plan_make(&bed->config, bed->doc, bed->arch, world, &plan, &err);

	ck_assert_msg(rc == 0, "%s", err.text);
	return plan;
}

void refused(const struct bed *bed, unsigned world, const char *begin, const char *says)
{
	struct plan *plan = NULL;
	struct err err = {0};

	ck_assert_int_eq(plan_make(&bed->config, bed->doc, bed->arch, world, &plan, &err),
			 ERR_CONFIG);
	ck_assert_ptr_null(plan);
	ck_assert_msg(!strncmp(err.text, begin, strlen(begin)), "%s", err.text);
	ck_assert_msg(strstr(err.text, says), "%s\nexpected \"%s\"", err.text, says);
}
