/*
 * The planner's refusal: what a tier needs at the least, of what, and which keys would make it
 * less. Called by plan.c when a tier's least does not fit its budget.
 *
 * 1. The parts of a list add up to the least that is refused: what is not named is summed as
 *    "other".
 * 2. What is said to fit has been planned whole, and does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/units.h"
#include "offload/plan_internal.h"

#define PARTS_SHOWN 4
#define HELPS_SHOWN 2
#define LIST_BYTES  512
#define SHARE_STEPS 20 /* a twentieth: below that, units are hardly ever small enough to tell */

struct part {
	const char *name;
	uint64_t bytes;
};

static int part_compare(const void *a, const void *b)
{
	const struct part *x = a, *y = b;

	return x->bytes < y->bytes ? 1 : x->bytes > y->bytes ? -1 : 0;
}

/* Appends to a text that may be cut: every list here fits LIST_BYTES many times over. */
static size_t append(char *buf, size_t len, const char *separator, const char *name, uint64_t bytes)
{
	char text[UNITS_TEXT_BYTES];
	int n = snprintf(buf + len, LIST_BYTES - len, "%s%s %s", len ? separator : "", name,
			 units_format_bytes(text, bytes));

	return n < 0 || (size_t)n >= LIST_BYTES - len ? LIST_BYTES - 1 : len + (size_t)n;
}

/* "optimizer state 40MiB, workspace 20MiB, ..., other 1MiB", the largest first. */
static const char *parts_list(char buf[LIST_BYTES], struct part *parts, size_t count,
			      uint64_t total)
{
	size_t len = 0;

	buf[0] = '\0';
	qsort(parts, count, sizeof(*parts), part_compare);
	for (size_t i = 0; i < count && i < PARTS_SHOWN && parts[i].bytes; i++) {
		len = append(buf, len, ", ", parts[i].name, parts[i].bytes);
		total -= parts[i].bytes;
	}
	if (total)
		append(buf, len, ", ", "other", total);
	return buf;
}

/* "; to save: zero.offload_optimizer 40MiB, ...", or "". */
static const char *helps_list(char buf[LIST_BYTES], struct part *helps, size_t count)
{
	size_t len;

	buf[0] = '\0';
	qsort(helps, count, sizeof(*helps), part_compare);
	if (!helps[0].bytes)
		return buf;
	len = (size_t)snprintf(buf, LIST_BYTES, "; what would save");
	for (size_t i = 0; i < count && i < HELPS_SHOWN && helps[i].bytes; i++)
		len = append(buf, len, i ? ", " : " ", helps[i].name, helps[i].bytes);
	return buf;
}

/* "{cpu: 0.6, nvme: 0.3}", or the one word that says as much. */
static void shares_format(char *buf, size_t room, const double shares[PLACE_COUNT])
{
	size_t len = 0;

	for (int place = 0; place < PLACE_COUNT; place++) {
		if (shares[place] >= 1) {
			snprintf(buf, room, "%s", placement_name(place));
			return;
		}
	}
	for (int place = PLACE_NONE + 1; place < PLACE_COUNT && len < room; place++)
		if (shares[place] > 0)
			len += (size_t)snprintf(buf + len, room - len, "%s%s: %.4g",
						len ? ", " : "{", placement_name(place),
						shares[place]);
	if (len < room)
		snprintf(buf + len, room - len, "}");
}

/*
 * Moves optimizer state from one tier to another, in steps of 1/SHARE_STEPS of it, until the job
 * fits. Then `shares` is so divided.
 */
static bool shares_move(const struct plan *p, const struct train_config *c,
			const struct conf_doc *doc, const struct arch *arch, int from, int to,
			double shares[PLACE_COUNT])
{
	const double *now = c->zero.offload_optimizer;
	const double both = now[from] + now[to];
	struct train_config moved = *c;

	for (int n = (int)(now[to] * SHARE_STEPS) + 1; now[from] > 0 && n <= SHARE_STEPS; n++) {
		double share = (double)n / SHARE_STEPS;
		bool last = share >= both;

		moved.zero.offload_optimizer[to] = last ? both : share;
		moved.zero.offload_optimizer[from] = last ? 0 : both - share;
		if (plan_fits(&moved, doc, arch, p->world)) {
			memcpy(shares, moved.zero.offload_optimizer,
			       sizeof(moved.zero.offload_optimizer));
			return true;
		}
		if (last)
			break;
	}
	return false;
}

/* Is it only that several micro-batches go side by side? */
static bool order_fits(const struct plan *p, const struct train_config *c,
		       const struct conf_doc *doc, const struct arch *arch)
{
	struct train_config other = *c;

	other.schedule.order = ORDER_MICRO_BATCH;
	return p->micros > 1 && plan_fits(&other, doc, arch, p->world);
}

/*
 * "; zero.offload_optimizer: {cpu: 0.6} would fit": the tier that is short, `from`, gives up the
 * least it has to, to the fastest of the others that makes the job fit. Before that, another order
 * of micro-batches, if it fits. Or "".
 */
static const char *fit_text(char buf[LIST_BYTES], const struct plan *p,
			    const struct train_config *c, const struct conf_doc *doc,
			    const struct arch *arch, int from)
{
	double shares[PLACE_COUNT];
	char text[LIST_BYTES / 2];

	buf[0] = '\0';
	if (order_fits(p, c, doc, arch)) {
		snprintf(buf, LIST_BYTES, "; schedule.order: micro-batch would fit");
		return buf;
	}
	for (int to = 0; to < PLACE_COUNT; to++) {
		if (to == from || (to != PLACE_NONE && !c->host.memory) ||
		    (to == PLACE_NVME && !c->nvme.paths.count))
			continue;
		if (!shares_move(p, c, doc, arch, from, to, shares))
			continue;
		shares_format(text, sizeof(text), shares);
		snprintf(buf, LIST_BYTES, "; zero.offload_optimizer: %s would fit", text);
		break;
	}
	return buf;
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int refuse_device(const struct plan *p, const struct train_config *c,
			 const struct conf_doc *doc, const struct arch *arch, struct err *err)
{
	const struct plan_device *d = &p->device;
	const uint64_t carried = p->micros * d->carry_bytes;
	const uint64_t passing = d->workspace_bytes + carried + d->act_buffers * d->act_bytes;
	const bool acts_stay = p->place_activations == PLACE_NONE && p->act_count > 2;
	struct part parts[] = {
		{"parameters", d->param_bytes},
		{"optimizer state", d->state_bytes},
		{"gradients", d->grad_bytes + d->norm_bytes},
		{"the largest unit's parameters", d->gather_slots * d->gather_slot_bytes},
		{"gradients in work",
		 d->grad_buffers * d->grad_buffer_bytes + d->grad_shared_bytes +
			 d->part_buffers * (d->part_bytes + d->part_cast_bytes)},
		{"activations", d->act_buffers * d->act_bytes},
		{"carried from phase to phase", carried},
		{"workspace", d->workspace_bytes},
	};
	const uint64_t slot = d->gather_slot_bytes ? 0 : d->part_bytes;
	struct part helps[] = {
		{"zero.offload_optimizer (cpu or nvme)",
		 d->state_bytes + d->grad_bytes + d->norm_bytes},
		{"zero.offload_param (cpu or nvme)",
		 d->param_bytes > slot ? d->param_bytes - slot : 0},
		{"zero.offload_activations (cpu or nvme)",
		 acts_stay ? (p->act_count - 2) * d->act_bytes : 0},
		{"batch.micro: 1", passing - passing / c->batch.micro},
		{"schedule.order: micro-batch", plan_order_cost(p).device_bytes},
	};
	char what[LIST_BYTES], help[LIST_BYTES], fit[LIST_BYTES], budget[UNITS_TEXT_BYTES],
		need[UNITS_TEXT_BYTES];

	return conf_error(doc, "device.memory", err,
			  "%s is too small: each device needs at least %s (%ju bytes): %s%s%s",
			  units_format_bytes(budget, d->budget_bytes),
			  units_format_bytes(need, d->least_bytes), (uintmax_t)d->least_bytes,
			  parts_list(what, parts, COUNT(parts), d->least_bytes),
			  helps_list(help, helps, COUNT(helps)),
			  fit_text(fit, p, c, doc, arch, PLACE_NONE));
}

static int refuse_host(const struct plan *p, const struct train_config *c,
		       const struct conf_doc *doc, const struct arch *arch, struct err *err)
{
	const struct plan_host *h = &p->host;
	const uint64_t least = h->least_bytes * p->ranks_per_host;
	const uint64_t chunks = h->chunk_buffers * h->chunk_buffer_bytes +
				h->transfer_slots * h->transfer_slot_bytes;
	struct part parts[] = {
		{"parameters", h->param_bytes},
		{"optimizer state", h->state_bytes},
		{"gradients", h->grad_bytes},
		{"activations", h->act_region_bytes + h->act_slots * h->act_slot_bytes},
		{"fetched parameters", h->fetch_slots * h->fetch_slot_bytes},
		{"gradients on their way", h->grad_slots * h->grad_slot_bytes},
		{"chunks of the optimizer", chunks},
	};
	struct part helps[] = {
		{"zero.offload_param: nvme", h->param_bytes},
		{"zero.offload_optimizer: nvme", h->state_bytes},
		{"nvme.paths, where gradients can wait,", c->nvme.paths.count ? 0 : h->grad_bytes},
		{"zero.offload_activations: nvme", h->act_region_bytes},
		{"schedule.order: micro-batch", plan_order_cost(p).host_bytes},
		{"nvme.extent: 64KiB, about",
		 c->nvme.extent > 65536 ? chunks - chunks / (c->nvme.extent / 65536) : 0},
	};
	char what[LIST_BYTES], help[LIST_BYTES], fit[LIST_BYTES], budget[UNITS_TEXT_BYTES],
		need[UNITS_TEXT_BYTES], each[UNITS_TEXT_BYTES];

	return conf_error(
		doc, "host.memory", err,
		"%s is too small: %u rank%s need%s at least %s (%ju bytes), %s each: %s%s%s",
		units_format_bytes(budget, p->host_budget_bytes), p->ranks_per_host,
		p->ranks_per_host == 1 ? "" : "s", p->ranks_per_host == 1 ? "s" : "",
		units_format_bytes(need, least), (uintmax_t)least,
		units_format_bytes(each, h->least_bytes),
		parts_list(what, parts, COUNT(parts), h->least_bytes),
		helps_list(help, helps, COUNT(helps)), fit_text(fit, p, c, doc, arch, PLACE_CPU));
}

int plan_refuse(const struct plan *p, const struct train_config *c, const struct conf_doc *doc,
		const struct arch *arch, struct err *err)
{
	if (p->device.least_bytes > p->device.budget_bytes)
		return refuse_device(p, c, doc, arch, err);
	return refuse_host(p, c, doc, arch, err);
}
