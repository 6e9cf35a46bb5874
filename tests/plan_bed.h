/* What the planner's tests share: a small job, and plans of it. */
#ifndef TESTS_PLAN_BED_H
#define TESTS_PLAN_BED_H

#include "offload/arch.h"
#include "offload/plan.h"
#include "offload/train_config.h"

#define MiB (UINT64_C(1) << 20)
#define GiB (UINT64_C(1) << 30)

/* The job's directory for swap; main() makes it with mkdtemp() before any test. */
extern char swap_dir[];

struct bed {
	struct train_config config;
	struct conf_doc *doc;
	struct arch *arch;
};

/* Three layers, so that there are more units than slots; sizes that no alignment divides. */
void bed_open(struct bed *bed);
void bed_close(struct bed *bed);

/* The optimizer's state by shares; and parameters. */
void split(struct bed *bed, double none, double cpu, double nvme);
void split_param(struct bed *bed, double none, double cpu, double nvme);
void place(struct bed *bed, unsigned stage, int param, int optimizer, int activations);

/* A plan that must be had; plan_free() it. */
struct plan *plan_of(const struct bed *bed, unsigned world);

/* There must be none, with a message that begins and says so. */
void refused(const struct bed *bed, unsigned world, const char *begin, const char *says);

#endif
