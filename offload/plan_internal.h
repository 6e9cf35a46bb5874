/* What the planner's files share: plan.c, plan_swap.c, plan_refuse.c. */
#ifndef OFFLOAD_PLAN_INTERNAL_H
#define OFFLOAD_PLAN_INTERNAL_H

#include "offload/plan.h"

/* Sizes on disk and the traffic of a step; everything else of the plan is done. */
int plan_swap_fill(struct plan *p, const struct train_config *c, const struct arch *arch,
		   struct err *err);

/* Do the swap directories exist, and have they room for all ranks of the host? */
int plan_swap_check(const struct plan *p, const struct train_config *c, const struct conf_doc *doc,
		    struct err *err);

/* ERR_CONFIG: least_bytes is more than budget_bytes. With figures, and what would help. */
int plan_refuse_device(const struct plan *p, const struct train_config *c,
		       const struct conf_doc *doc, struct err *err);
int plan_refuse_host(const struct plan *p, const struct train_config *c, const struct conf_doc *doc,
		     struct err *err);

#endif
