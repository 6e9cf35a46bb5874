/*
 * The plan for people and for programs. Called by `dsrun --plan` and for summaries; pure but for
 * the stream it writes.
 *
 * 1. Every table's lines add up to its total: parts of no bytes are left out, none is rounded away,
 *    since exact bytes stand beside the readable figure.
 * 2. A split of parameters or optimizer state is shown as asked and as placed, side by side.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/units.h"
#include "offload/plan_internal.h"

/* bf16 parameter and gradient and fp32 master; or parameter and gradient in fp32. */
#define PARAM_BYTES 8

static void line(FILE *out, const char *name, uint64_t bytes)
{
	char text[UNITS_TEXT_BYTES];

	if (bytes)
		fprintf(out, "  %-34s%14s%16" PRIu64 "%12s\n", name, "", bytes,
			units_format_bytes(text, bytes));
}

static void line_of(FILE *out, const char *name, uint64_t count, uint64_t each)
{
	char each_text[UNITS_TEXT_BYTES], text[UNITS_TEXT_BYTES], product[UNITS_TEXT_BYTES + 24];

	if (!count || !each)
		return;
	snprintf(product, sizeof(product), "%" PRIu64 " x %s", count,
		 units_format_bytes(each_text, each));
	fprintf(out, "  %-34s%14s%16" PRIu64 "%12s\n", name, product, count * each,
		units_format_bytes(text, count * each));
}

/* budget 0: there is none. */
static void line_total(FILE *out, const char *name, uint64_t bytes, uint64_t budget)
{
	char text[UNITS_TEXT_BYTES], budget_text[UNITS_TEXT_BYTES];

	fprintf(out, "  %-34s%14s%16" PRIu64 "%12s", name, "", bytes,
		units_format_bytes(text, bytes));
	if (budget)
		fprintf(out, "  of %s", units_format_bytes(budget_text, budget));
	fputc('\n', out);
}

/* Units by tier, as the plan has them of parameters or of optimizer state. */
struct split {
	const char *name;
	const struct plan_share *shares; /* PLACE_COUNT of them */
	uint64_t bytes[PLACE_COUNT];     /* of this rank */
	double largest;                  /* share of the largest unit */
};

static struct split split_of(const struct plan *p, bool param)
{
	struct split s = {
		param ? "parameters" : "optimizer state", param ? p->param : p->optimizer, {0}, 0};
	uint64_t elems = 0, largest = 0;

	for (int place = 0; place < PLACE_COUNT; place++) {
		uint64_t n = s.shares[place].elems;

		elems += n;
		s.bytes[place] = param ? n * dtype_bytes(p->param_type) : plan_state_bytes(p, n);
	}
	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];
		uint64_t n = param ? u->param_elems : u->opt_elems;

		largest = n > largest ? n : largest;
	}
	s.largest = (double)largest / (double)elems;
	return s;
}

/* The one tier that was asked to hold all units and does; PLACE_COUNT: they are split. */
static int whole_place(const struct plan *p, const struct plan_share shares[PLACE_COUNT])
{
	int place = 0;

	while (place < PLACE_COUNT &&
	       (shares[place].asked < 1 || shares[place].units < p->unit_count))
		place++;
	return place;
}

static const char *whole_name(const struct plan *p, const struct plan_share shares[PLACE_COUNT])
{
	int place = whole_place(p, shares);

	return place < PLACE_COUNT ? placement_name(place) : "split";
}

/* Of whole blocks of the optimizer's: moments and their scales. */
static uint64_t block_moments_bytes(const struct plan *p)
{
	return optimizer_state_bytes(p->kind, p->moments, DTYPE_F32, OPTIMIZER_BLOCK);
}

static uint64_t model_state(const struct plan *p)
{
	return p->params * PARAM_BYTES + p->params * block_moments_bytes(p) / OPTIMIZER_BLOCK;
}

static uint64_t budgets(const struct plan *p)
{
	return p->device.budget_bytes * p->ranks_per_host + p->host_budget_bytes;
}

static void print_job(const struct plan *p, const struct train_config *c, FILE *out)
{
	char state[UNITS_TEXT_BYTES], budget[UNITS_TEXT_BYTES];

	fprintf(out,
		"model       %" PRIu64 " parameters in %zu units; state at %.4g bytes each: %s\n",
		p->params, p->unit_count,
		PARAM_BYTES + (double)block_moments_bytes(p) / OPTIMIZER_BLOCK,
		units_format_bytes(state, model_state(p)));
	fprintf(out, "budgets     device and host memory together: %s, %.2f of the model's state\n",
		units_format_bytes(budget, budgets(p)),
		(double)budgets(p) / (double)model_state(p));
	fprintf(out, "ranks       %u on this host, ZeRO stage %u, %s\n", p->world, p->stage,
		p->param_type == DTYPE_BF16 ? "bf16" : "fp32");
	fprintf(out,
		"step        %" PRIu64 " sequence%s of %" PRIu64 " tokens: %" PRIu64
		" micro-batch%s of %" PRIu64 " a rank%s\n",
		c->batch.global, c->batch.global == 1 ? "" : "s", c->data.sequence, p->accumulation,
		p->accumulation == 1 ? "" : "es", c->batch.micro,
		p->micros > 1 ? ", layer by layer" : "");
	fprintf(out, "optimizer   %s, moments in %s: %.4g bytes of moments a parameter\n",
		optimizer_kind_names[p->kind], optimizer_moments_names[p->moments],
		(double)block_moments_bytes(p) / OPTIMIZER_BLOCK);
	fprintf(out, "placement   parameters %s, optimizer %s, activations %s\n",
		whole_name(p, p->param), whole_name(p, p->optimizer),
		placement_name(p->place_activations));
	if (p->cached_param_bytes || p->cached_state_bytes)
		fprintf(out,
			"cached      in host memory instead of NVMe: parameters %s, state %s\n",
			units_format_bytes(state, p->cached_param_bytes),
			units_format_bytes(budget, p->cached_state_bytes));
	fprintf(out, "prefetch    %" PRIu64 " unit%s ahead, of %" PRIu64 " allowed\n", p->prefetch,
		p->prefetch == 1 ? "" : "s", c->zero.prefetch);
}

/* What it takes that a unit's parameters are brought once for all micro-batches. */
static void print_order(const struct plan *p, FILE *out)
{
	const struct plan_order cost = plan_order_cost(p);
	char device[UNITS_TEXT_BYTES], host[UNITS_TEXT_BYTES], swap[UNITS_TEXT_BYTES];

	fprintf(out,
		"order       %" PRIu64
		" micro-batches side by side take, beyond one: %s device, %s host, %s NVMe\n",
		p->micros, units_format_bytes(device, cost.device_bytes),
		units_format_bytes(host, cost.host_bytes),
		units_format_bytes(swap, cost.swap_bytes));
}

/* What was asked of each tier, and what whole units make of it; nothing when one has them all. */
static void print_split(const struct plan *p, const struct split *split, FILE *out)
{
	static const char *const names[] = {"device", "host memory", "NVMe"};

	_Static_assert(sizeof(names) / sizeof(names[0]) == PLACE_COUNT, "a name for each tier");
	if (whole_place(p, split->shares) < PLACE_COUNT)
		return;
	fprintf(out, "\n%s, each rank%*s%10s%8s%16s\n", split->name,
		(int)(27 - strlen(split->name)), "asked", "placed", "units", "bytes");
	for (int place = 0; place < PLACE_COUNT; place++) {
		const struct plan_share *s = &split->shares[place];
		char text[UNITS_TEXT_BYTES];

		if (s->asked > 0 || s->units)
			fprintf(out, "  %-24s%12.4f%10.4f%8zu%16" PRIu64 "%12s\n", names[place],
				s->asked, s->placed, s->units, split->bytes[place],
				units_format_bytes(text, split->bytes[place]));
	}
	fprintf(out, "  %-24s%22.4f\n", "the largest unit", split->largest);
}

static void print_device(const struct plan *p, FILE *out)
{
	const struct plan_device *d = &p->device;

	fprintf(out, "\ndevice memory, each rank\n");
	line(out, "parameters", d->param_bytes);
	line(out, "optimizer state", d->state_bytes);
	line(out, "gradients", d->grad_bytes);
	line(out, "sums for the gradient norm", d->norm_bytes);
	line_of(out, "gathered units", d->gather_slots, d->gather_slot_bytes);
	line_of(out, "gradients in work", d->grad_buffers, d->grad_buffer_bytes);
	line_of(out, "gradients of several phases", p->micros, d->grad_shared_bytes / p->micros);
	line_of(out, "reduced gradients", d->part_buffers, d->part_bytes);
	line_of(out, "reduced gradients in bf16", d->part_buffers, d->part_cast_bytes);
	line_of(out, "activations", d->act_buffers, d->act_bytes);
	line_of(out, "carried from phase to phase", p->micros, d->carry_bytes);
	line(out, "workspace", d->workspace_bytes);
	line_of(out, "blocks that are not recomputed", d->kept_blocks, d->kept_bytes);
	line(out, "token ids, losses, exchanges", d->small_bytes);
	line(out, "the device's own, for products", d->own_bytes);
	line_total(out, "total", d->total_bytes, d->budget_bytes);
}

static void print_host(const struct plan *p, FILE *out)
{
	const struct plan_host *h = &p->host;

	fprintf(out, "\nhost memory, each rank\n");
	line(out, "header and rings", h->arena_bytes - h->data_bytes);
	line(out, "parameters", h->param_bytes);
	line(out, "activations", h->act_region_bytes);
	line_of(out, "parameters on their way", h->fetch_slots, h->fetch_slot_bytes);
	line_of(out, "gradients on their way", h->grad_slots, h->grad_slot_bytes);
	line_of(out, "activations on their way", h->act_slots,
		h->act_slots ? h->act_slot_bytes : 0);
	line_of(out, "state on its way", h->transfer_slots, h->transfer_slot_bytes);
	line(out, "optimizer state", h->state_bytes);
	line(out, "gradients", h->grad_bytes);
	line_of(out, "chunks of the optimizer", h->chunk_buffers, h->chunk_buffer_bytes);
	line_total(out, "total", h->total_bytes, h->budget_bytes);
}

static void print_swap(const struct plan *p, const struct train_config *c, FILE *out)
{
	const struct plan_swap *s = &p->swap;
	char extent[UNITS_TEXT_BYTES];

	fprintf(out, "\nNVMe, each rank, extents of up to %s, %" PRIu64 " in flight a directory\n",
		units_format_bytes(extent, c->nvme.extent), c->nvme.queue_depth);
	line(out, "parameters", s->param_bytes);
	line(out, "optimizer state", s->state_bytes);
	line(out, "gradients", s->grad_bytes);
	line(out, "activations", s->act_bytes);
	line_total(out, "total", s->total_bytes, 0);
	line(out, "read in a step", s->step_read_bytes);
	line(out, "written in a step", s->step_write_bytes);
}

static void print_totals(const struct plan *p, FILE *out)
{
	const uint64_t ranks = p->ranks_per_host;

	fprintf(out, "\nthis host, all ranks\n");
	line_of(out, "device memory", ranks, p->device.total_bytes);
	line_of(out, "host memory", ranks, p->host.total_bytes);
	line(out, "shared by collectives", p->comm_bytes);
	line_of(out, "dsworker", ranks, p->base_worker_bytes);
	line(out, "dsoffloadd", p->base_daemon_bytes);
	line(out, "dsrun and its agent", p->base_launcher_bytes);
	line_total(out, "peak resident memory per host", p->host_peak_bytes, 0);
	line_of(out, "NVMe", ranks, p->swap.total_bytes);
	line_of(out, "read from NVMe in a step", ranks, p->swap.step_read_bytes);
	line_of(out, "written to NVMe in a step", ranks, p->swap.step_write_bytes);
}

int plan_print(const struct plan *plan, const struct train_config *config, FILE *out)
{
	const struct split param = split_of(plan, true), optimizer = split_of(plan, false);

	errno = 0;
	print_job(plan, config, out);
	if (plan->micros > 1)
		print_order(plan, out);
	print_split(plan, &param, out);
	print_split(plan, &optimizer, out);
	print_device(plan, out);
	if (plan->needs_daemon)
		print_host(plan, out);
	if (plan->needs_swap)
		print_swap(plan, config, out);
	print_totals(plan, out);
	if (fflush(out) == EOF || ferror(out))
		return errno ? -errno : -EIO;
	return 0;
}

static void json_split(const struct plan *p, const char *name, bool param, struct json *j)
{
	const struct split split = split_of(p, param);

	json_object_begin(j, name);
	for (int place = 0; place < PLACE_COUNT; place++) {
		json_object_begin(j, placement_name(place));
		json_double(j, "asked", split.shares[place].asked);
		json_double(j, "placed", split.shares[place].placed);
		json_u64(j, "units", split.shares[place].units);
		json_u64(j, "bytes", split.bytes[place]);
		json_object_end(j);
	}
	json_object_end(j);
}

static void json_device(const struct plan_device *d, struct json *j)
{
	json_object_begin(j, "device");
	json_u64(j, "budget_bytes", d->budget_bytes);
	json_u64(j, "total_bytes", d->total_bytes);
	json_u64(j, "least_bytes", d->least_bytes);
	json_u64(j, "param_bytes", d->param_bytes);
	json_u64(j, "state_bytes", d->state_bytes);
	json_u64(j, "grad_bytes", d->grad_bytes);
	json_u64(j, "norm_bytes", d->norm_bytes);
	json_u64(j, "gather_slots", d->gather_slots);
	json_u64(j, "gather_slot_bytes", d->gather_slot_bytes);
	json_u64(j, "grad_buffers", d->grad_buffers);
	json_u64(j, "grad_buffer_bytes", d->grad_buffer_bytes);
	json_u64(j, "grad_shared_bytes", d->grad_shared_bytes);
	json_u64(j, "part_buffers", d->part_buffers);
	json_u64(j, "part_bytes", d->part_bytes);
	json_u64(j, "part_cast_bytes", d->part_cast_bytes);
	json_u64(j, "act_buffers", d->act_buffers);
	json_u64(j, "act_bytes", d->act_bytes);
	json_u64(j, "carry_bytes", d->carry_bytes);
	json_u64(j, "workspace_bytes", d->workspace_bytes);
	json_u64(j, "kept_blocks", d->kept_blocks);
	json_u64(j, "kept_bytes", d->kept_bytes);
	json_u64(j, "small_bytes", d->small_bytes);
	json_u64(j, "own_bytes", d->own_bytes);
	json_object_end(j);
}

static void json_host(const struct plan_host *h, struct json *j)
{
	json_object_begin(j, "host");
	json_u64(j, "budget_bytes", h->budget_bytes);
	json_u64(j, "total_bytes", h->total_bytes);
	json_u64(j, "least_bytes", h->least_bytes);
	json_u64(j, "arena_bytes", h->arena_bytes);
	json_u64(j, "param_bytes", h->param_bytes);
	json_u64(j, "act_region_bytes", h->act_region_bytes);
	json_u64(j, "fetch_slots", h->fetch_slots);
	json_u64(j, "fetch_slot_bytes", h->fetch_slot_bytes);
	json_u64(j, "grad_slots", h->grad_slots);
	json_u64(j, "grad_slot_bytes", h->grad_slot_bytes);
	json_u64(j, "act_slots", h->act_slots);
	json_u64(j, "act_slot_bytes", h->act_slot_bytes);
	json_u64(j, "transfer_slots", h->transfer_slots);
	json_u64(j, "transfer_slot_bytes", h->transfer_slot_bytes);
	json_u64(j, "state_bytes", h->state_bytes);
	json_u64(j, "grad_bytes", h->grad_bytes);
	json_u64(j, "chunk_buffers", h->chunk_buffers);
	json_u64(j, "chunk_buffer_bytes", h->chunk_buffer_bytes);
	json_object_end(j);
}

static void json_swap(const struct plan_swap *s, struct json *j)
{
	json_object_begin(j, "swap");
	json_u64(j, "total_bytes", s->total_bytes);
	json_u64(j, "param_bytes", s->param_bytes);
	json_u64(j, "state_bytes", s->state_bytes);
	json_u64(j, "grad_bytes", s->grad_bytes);
	json_u64(j, "act_bytes", s->act_bytes);
	json_u64(j, "step_read_bytes", s->step_read_bytes);
	json_u64(j, "step_write_bytes", s->step_write_bytes);
	json_object_end(j);
}

void plan_json(const struct plan *plan, struct json *json)
{
	json_u64(json, "world", plan->world);
	json_u64(json, "ranks_per_host", plan->ranks_per_host);
	json_u64(json, "stage", plan->stage);
	json_u64(json, "params", plan->params);
	json_u64(json, "units", plan->unit_count);
	json_u64(json, "model_state_bytes", model_state(plan));
	json_string(json, "optimizer", optimizer_kind_names[plan->kind]);
	json_string(json, "moments", optimizer_moments_names[plan->moments]);
	json_u64(json, "accumulation", plan->accumulation);
	json_u64(json, "micro_batches_at_once", plan->micros);
	json_u64(json, "prefetch", plan->prefetch);
	json_string(json, "offload_param", whole_name(plan, plan->param));
	json_string(json, "offload_optimizer", whole_name(plan, plan->optimizer));
	json_split(plan, "parameters", true, json);
	json_split(plan, "optimizer_state", false, json);
	json_u64(json, "cached_param_bytes", plan->cached_param_bytes);
	json_u64(json, "cached_state_bytes", plan->cached_state_bytes);
	json_string(json, "offload_activations", placement_name(plan->place_activations));
	json_device(&plan->device, json);
	json_host(&plan->host, json);
	json_swap(&plan->swap, json);
	json_u64(json, "comm_bytes", plan->comm_bytes);
	json_u64(json, "base_worker_bytes", plan->base_worker_bytes);
	json_u64(json, "base_daemon_bytes", plan->base_daemon_bytes);
	json_u64(json, "base_launcher_bytes", plan->base_launcher_bytes);
	json_u64(json, "host_budget_bytes", plan->host_budget_bytes);
	json_u64(json, "host_peak_bytes", plan->host_peak_bytes);
}
