/*
 * The model of a step: what the resources of a host have to do in it, what cannot overlap, and what
 * follows for its length. Called by the launcher for placements that are auto, and by tests; pure.
 *
 * A step of A micro-batches has two parts. In the first the daemon steps units, in unit order, and
 * the first forward goes on behind it, unit by unit. In the second, all that remains of the passes,
 * no optimizer runs: with a norm to wait for or gradients to add up there is nothing to step before
 * the end. (Where there is neither, units are stepped as their gradients come, and all is one
 * part.) Each part takes as long as its busiest resource:
 *
 *	the device	its compute
 *	the cores	for a cpu device the compute of all ranks; and Adam, copies and checksums
 *			of the daemon, divided by their number
 *	the threads	Adam and checksums, divided by host.threads
 *	the disk	bytes read and written, at the rate of a mix as far as both are there
 *
 * The step of units on the device stands by itself: it is behind the norm, and before the next
 * forward, on the same stream.
 *
 * 1. Bytes are the plan's own: nothing here counts traffic anew that plan_swap.c counts.
 */
#include "offload/predict.h"

#include "offload/protocol.h"

/* Work of one part, all ranks together but for `device`. */
struct work {
	double device;               /* seconds of a rank's compute */
	double adam, checksum, copy; /* seconds of one core */
	double read, written;        /* bytes of swap */
};

static double larger(double a, double b)
{
	return a > b ? a : b;
}

static double seconds(double amount, double rate)
{
	return rate > 0 ? amount / rate : 0;
}

static double line_at(const struct predict_line *line, double blocks)
{
	return line->rest + line->block * blocks;
}

/* A disk that reads and writes at once does so at its mixed rate; what is left over alone. */
static double disk_seconds(const struct work *w, const struct predict_rates *r)
{
	const double both = w->read < w->written ? w->read : w->written;

	return seconds(2 * both, r->mixed) + seconds(w->read - both, r->read) +
	       seconds(w->written - both, r->write);
}

static double cpu_seconds(const struct work *w, const struct predict_rates *r)
{
	/* The cores are divided among ranks: while all compute, all cores do. */
	const double beside = (w->adam + w->checksum + w->copy) / r->cores;

	return beside + (r->shared ? w->device : 0);
}

static double part_seconds(const struct work *w, const struct train_config *c,
			   const struct predict_rates *r)
{
	const double threads = (w->adam + w->checksum) / (double)c->host.threads;

	return larger(larger(w->device, cpu_seconds(w, r)), larger(threads, disk_seconds(w, r)));
}

/* Bytes that come to a rank's device in one direction of a pass, each unit once. */
static double bytes_in(const struct plan *p)
{
	double bytes = 0;

	for (size_t i = 0; i < p->unit_count; i++)
		if (p->units[i].place_param != PLACE_NONE)
			bytes += (double)p->units[i].param_elems * dtype_bytes(p->param_type);
	return bytes;
}

/* Elements whose optimizer is the daemon's; and those of them whose parameters are elsewhere. */
static double elems_stepped(const struct plan *p, double *ret_stale)
{
	double elems = 0;

	*ret_stale = 0;
	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];

		if (!plan_unit_offloaded(u))
			continue;
		elems += (double)u->opt_elems;
		if (u->param_blob || u->place_param == PLACE_NONE)
			*ret_stale += (double)u->opt_elems;
	}
	return elems;
}

/* Swap of the optimizer of one rank, each way. */
static double optimizer_swap(const struct plan *p)
{
	double bytes = 0;

	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];

		if (u->state_home == PROTOCOL_HOME_SWAP)
			bytes += (double)plan_state_bytes(p, u->opt_elems);
		if (u->param_home == PROTOCOL_HOME_SWAP)
			bytes += (double)u->opt_elems * dtype_bytes(p->param_type);
	}
	return bytes;
}

static double act_bytes(const struct plan *p)
{
	return p->place_activations == PLACE_NONE ? 0 : (double)p->act_count * p->device.act_bytes;
}

/* The first forward, and the optimizer before it. */
static struct work work_first(const struct plan *p, const struct arch *arch,
			      const struct predict_rates *r)
{
	const double ranks = p->ranks_per_host, param = dtype_bytes(p->param_type);
	const double swap = optimizer_swap(p);
	/* A unit serves all micro-batches that are side by side: so often it comes in a step. */
	const double passes = 2.0 * (double)(p->accumulation / p->micros);
	double stale, elems = elems_stepped(p, &stale);
	/* What phases read, in both directions of each micro-batch: this is one of them. */
	const double fetched = ((double)p->swap.step_read_bytes - swap) / passes;
	struct work w = {
		.device = (double)p->micros * line_at(&r->forward, (double)arch->kept_max),
		.adam = ranks * seconds(elems, r->adam),
		.read = ranks * (swap + fetched),
		.written = ranks * swap,
	};

	w.copy = ranks *
		 seconds(bytes_in(p) + stale * param + (double)p->micros * act_bytes(p), r->copy);
	w.checksum = seconds(w.read + w.written, r->checksum);
	return w;
}

/* All the rest of the passes. */
static struct work work_rest(const struct plan *p, const struct arch *arch,
			     const struct predict_rates *r)
{
	const double ranks = p->ranks_per_host, blocks = (double)arch->kept_max;
	const double micro = (double)p->accumulation, recomputed = blocks - p->device.kept_blocks;
	const struct work first = work_first(p, arch, r);
	const double grad = dtype_bytes(p->grad_type), passes = micro / (double)p->micros;
	const double in = bytes_in(p), acts = act_bytes(p);
	double stale, elems = elems_stepped(p, &stale);
	struct work w = {
		.device = micro * (line_at(&r->pass, blocks) + r->forward.block * recomputed) -
			  first.device,
		.read = ranks * (double)p->swap.step_read_bytes - first.read,
		.written = ranks * (double)p->swap.step_write_bytes - first.written,
	};

	/* Gradients go out once a micro-batch; those that wait are moved, or added, once more. */
	w.copy = ranks * seconds((2 * passes - 1) * (in + (double)p->micros * acts) +
					 passes * elems * grad * (p->grad_kept ? 2 : 1),
				 r->copy);
	w.checksum = seconds(w.read + w.written, r->checksum);
	return w;
}

static struct work work_sum(const struct work *a, const struct work *b)
{
	return (struct work){
		.device = a->device + b->device,
		.adam = a->adam + b->adam,
		.checksum = a->checksum + b->checksum,
		.copy = a->copy + b->copy,
		.read = a->read + b->read,
		.written = a->written + b->written,
	};
}

/*
 * The device's own optimizer, for the share of elements that it steps. Parameters of its units that
 * are elsewhere come and go unit by unit meanwhile, with nothing to overlap but that.
 */
static double device_step(const struct plan *p, const struct arch *arch,
			  const struct predict_rates *r)
{
	double copied = 0;
	struct work w = {.device = 0};

	for (size_t i = 0; i < p->unit_count; i++) {
		const struct plan_unit *u = &p->units[i];
		const double bytes = (double)u->param_elems * dtype_bytes(p->param_type);

		if (plan_unit_offloaded(u) || !u->param_blob)
			continue;
		copied += 2 * bytes;
		if (u->place_param == PLACE_NVME)
			w.read += bytes * p->ranks_per_host;
	}
	w.written = w.read;
	return p->optimizer[PLACE_NONE].placed * line_at(&r->step, (double)arch->kept_max) +
	       seconds(copied, r->copy) + disk_seconds(&w, r);
}

/* The daemon's time for the first unit that it steps, before which no forward begins. */
static double fill_seconds(const struct plan *p, double optimizer)
{
	double all = 0, first = 0;

	for (size_t i = p->unit_count; i-- > 0;) {
		if (!plan_unit_offloaded(&p->units[i]))
			continue;
		first = (double)p->units[i].opt_elems;
		all += first;
	}
	return all > 0 ? optimizer * first / all : 0;
}

static const char *bound_of(const struct predict *s, const struct predict_rates *r)
{
	if (s->disk >= s->cpu && s->disk >= s->compute)
		return "disk";
	if (s->cpu > s->compute * (1 + PREDICT_EQUAL))
		return "the host's cores";
	return r->shared ? "compute, on the host's cores" : "compute";
}

void predict_step(const struct plan *plan, const struct train_config *config,
		  const struct arch *arch, const struct predict_rates *rates, struct predict *ret)
{
	const struct work first = work_first(plan, arch, rates);
	const struct work rest = work_rest(plan, arch, rates);
	const struct work all = work_sum(&first, &rest);
	const double step = device_step(plan, arch, rates);
	struct predict s = {
		.compute = all.device + step,
		.cpu = cpu_seconds(&all, rates) + (rates->shared ? step : 0),
		.disk = disk_seconds(&all, rates),
		.read_bytes = plan->swap.step_read_bytes * plan->ranks_per_host,
		.written_bytes = plan->swap.step_write_bytes * plan->ranks_per_host,
	};

	s.optimizer = larger(disk_seconds(&first, rates),
			     (first.adam + first.checksum) / (double)config->host.threads);
	/* Where nothing waits, the optimizer has all of the step to run beside. */
	s.seconds = step + (plan->grad_kept ? fill_seconds(plan, s.optimizer) +
						      part_seconds(&first, config, rates) +
						      part_seconds(&rest, config, rates)
					    : part_seconds(&all, config, rates));
	s.bound = bound_of(&s, rates);
	*ret = s;
}

static bool may_be(const struct train_config *c, int place)
{
	return place == PLACE_NONE ||
	       (c->host.memory && (place != PLACE_NVME || c->nvme.paths.count));
}

/* Plans the choice, and predicts it when it fits. 0, or why there is no plan. */
static int choice_try(const struct train_config *config, const struct conf_doc *doc,
		      const struct arch *arch, unsigned world, const struct predict_rates *rates,
		      struct predict_choice *choice, struct err *err)
{
	struct train_config c = *config;
	struct plan *p;
	int rc;

	train_config_settle(
		&c, &(struct train_settled){
			    .param = (1 + (uint64_t)choice->param) % (PLACE_COUNT + 1),
			    .optimizer = (1 + (uint64_t)choice->optimizer) % (PLACE_COUNT + 1)});
	rc = plan_make(&c, doc, arch, world, &p, err);
	if (rc < 0)
		return rc;
	choice->fits = true;
	predict_step(p, &c, arch, rates, &choice->step);
	plan_free(p);
	return 0;
}

/* The choices that are open for one of the two: all places there are, or what was asked. */
static size_t open_places(const struct train_config *c, const double shares[PLACE_COUNT],
			  int ret[PLACE_COUNT])
{
	size_t count = 0;

	if (!placement_is_auto(shares)) {
		ret[0] = PLACE_COUNT;
		return 1;
	}
	for (int place = 0; place < PLACE_COUNT; place++) {
		const bool steps = shares != c->zero.offload_optimizer || place != PLACE_NONE ||
				   train_config_device_steps(c);

		if (steps && may_be(c, place))
			ret[count++] = place;
	}
	return count;
}

static size_t best_of(const struct predict_table *t)
{
	double fastest = 0;

	for (size_t i = 0; i < t->count; i++)
		if (t->choices[i].fits && (fastest == 0 || t->choices[i].step.seconds < fastest))
			fastest = t->choices[i].step.seconds;
	for (size_t i = 0; i < t->count; i++)
		if (t->choices[i].fits &&
		    t->choices[i].step.seconds <= fastest * (1 + PREDICT_EQUAL))
			return i;
	return t->count;
}

int predict_choose(const struct train_config *config, const struct conf_doc *doc,
		   const struct arch *arch, unsigned world, const struct predict_rates *rates,
		   struct predict_table *ret, struct err *err)
{
	int params[PLACE_COUNT], optimizers[PLACE_COUNT], rc = 0;
	size_t param_count = open_places(config, config->zero.offload_param, params);
	size_t optimizer_count = open_places(config, config->zero.offload_optimizer, optimizers);
	struct predict_table table = {.count = 0};
	struct err why = {0};

	for (size_t i = 0; i < param_count; i++) {
		for (size_t k = 0; k < optimizer_count; k++) {
			struct predict_choice *c = &table.choices[table.count++];

			*c = (struct predict_choice){.param = params[i],
						     .optimizer = optimizers[k]};
			why = (struct err){0};
			rc = choice_try(config, doc, arch, world, rates, c, &why);
			if (rc < 0 && rc != ERR_CONFIG)
				return err_set(err, rc, "%s", why.text);
		}
	}
	table.best = best_of(&table);
	if (table.best == table.count)
		return err_set(err, rc, "%s", why.text);
	*ret = table;
	return 0;
}
