/* What the planner's files share: plan.c, plan_place.c, plan_swap.c, plan_refuse.c. */
#ifndef OFFLOAD_PLAN_INTERNAL_H
#define OFFLOAD_PLAN_INTERNAL_H

#include "offload/plan.h"

/* On which tier each unit's optimizer state is, and where its parameters are between uses. */
void plan_place(struct plan *p, const struct train_config *c);

/* Sizes on disk and the traffic of a step; everything else of the plan is done. */
int plan_swap_fill(struct plan *p, const struct train_config *c, const struct arch *arch,
		   struct err *err);

/* Do the swap directories exist, and have they room for all ranks of the host? */
int plan_swap_check(const struct plan *p, const struct train_config *c, const struct conf_doc *doc,
		    struct err *err);

/* Would the job have a plan with this config? */
bool plan_fits(const struct train_config *config, const struct conf_doc *doc,
	       const struct arch *arch, unsigned world);

/*
 * ERR_CONFIG: the least_bytes of a tier of `p` are more than its budget_bytes. With figures, and
 * what would help.
 */
int plan_refuse(const struct plan *p, const struct train_config *c, const struct conf_doc *doc,
		const struct arch *arch, struct err *err);

#endif
