/* What the planner's files share: plan.c, plan_place.c, plan_cache.c, plan_swap.c, ... */
#ifndef OFFLOAD_PLAN_INTERNAL_H
#define OFFLOAD_PLAN_INTERNAL_H

#include "offload/plan.h"

/* What of a unit has a tier of its own. */
enum plan_kind { PLAN_PARAM, PLAN_STATE };

/* On which tier each unit's optimizer state is, and where its parameters are between uses. */
void plan_place(struct plan *p, const struct train_config *c);

/* The largest size, in elements of `kind`, of a unit that is below `below`; 0: there is none. */
uint64_t plan_size_below(const struct plan *p, enum plan_kind kind, uint64_t below);

/* Gives given[place] of the units of one size to each tier, which has to be all of them. */
void plan_size_place(struct plan *p, enum plan_kind kind, uint64_t size,
		     const size_t given[PLACE_COUNT]);

/* Puts what `kind` says of all units where the configuration asks for it. */
void plan_place_kind(struct plan *p, const struct train_config *c, enum plan_kind kind);

/* What follows from units' tiers: homes, blobs, shares as placed, whether a daemon is needed. */
void plan_place_homes(struct plan *p, const struct train_config *c);

/* Sizes and counts in host memory, anew from where units are. -ENOSPC: its least does not fit. */
int plan_host(struct plan *p, const struct train_config *c);

/* Is there room for two of each buffer, and four chunks: does everything overlap? */
bool plan_host_flows(const struct plan *p);

/* Keeps units that are on NVMe in host memory, as far as it goes. After plan_host(). -ENOMEM. */
int plan_cache(struct plan *p, const struct train_config *c, const struct arch *arch,
	       struct err *err);

/* The bytes of p->swap that a step moves, by where units are and counts of buffers. -ENOMEM. */
int plan_swap_traffic(struct plan *p, const struct arch *arch, struct err *err);

/* Sizes on disk and the traffic of a step; everything else of the plan is done. */
int plan_swap_fill(struct plan *p, const struct train_config *c, const struct arch *arch,
		   struct err *err);

/* What plan->micros micro-batches side by side take beyond what one takes, bytes of one rank. */
struct plan_order {
	uint64_t device_bytes, host_bytes, swap_bytes;
};

struct plan_order plan_order_cost(const struct plan *p);

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
