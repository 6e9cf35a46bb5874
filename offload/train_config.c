/*
 * The schema of train.yaml, its defaults, the checks of keys against each other, and the learning
 * rate. Called by the launcher, which parses what the user wrote, and by every worker, which parses
 * the same text again; any thread, nothing shared.
 *
 * 1. What the table cannot say about one key (`keys`), check_*() says; each check names the key
 *    that the user would change, so that its message stands at that key's place.
 * 2. `host` and `nvme` say what a job may use, zero.prefetch how far it may run ahead: they are no
 *    error where nothing needs them. A key that orders something that would not happen is one.
 * 3. A default never depends on the machine: the same text is the same job everywhere, but for what
 *    it says is auto.
 */
#include "offload/train_config.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "common/units.h"
#include "kernels/attention.h"
#include "kernels/device.h"
#include "nvme/figures.h"
#include "nvme/nvme.h"
#include "offload/protocol.h"

#define LAYERS_MAX   (PROTOCOL_UNITS_MAX - 24) /* the units besides blocks */
#define SEQUENCE_MAX (1u << 20)
#define STEPS_MAX    1e12 /* with any number of micro-batches, counts stay far from 2^64 */
#define BYTES_MAX    0x1p60

static const char *const arch_names[] = {"gpt2", NULL};
static const char *const precision_names[] = {"fp32", "bf16", NULL};
static const char *const schedule_names[] = {"constant", "linear", "cosine", NULL};
static const char *const order_names[] = {"micro-batch", "layer", NULL};
static const char *const placement_names[] = {"none", "cpu", "nvme", NULL};
static const char *const engine_names[] = {"auto", "io_uring", "libaio", NULL};
static const char *const device_names[] = {"cpu", "cuda", NULL};

_Static_assert(NVME_AUTO == 0 && NVME_URING == 1 && NVME_LIBAIO == 2, "engine_names is by index");
_Static_assert(DEVICE_CPU == 0 && DEVICE_CUDA == 1, "device_names is by index");

#define AT(field) .offset = offsetof(struct train_config, field)

static const struct conf_key model_keys[] = {
	{"arch", CONF_ENUM, AT(model.arch), .names = arch_names},
	{"layers", CONF_U64, AT(model.layers), .required = true, .min = 1, .max = LAYERS_MAX},
	{"hidden", CONF_U64, AT(model.hidden), .required = true, .min = 1, .max = 65536},
	{"heads", CONF_U64, AT(model.heads), .required = true, .min = 1, .max = 65536},
	{"vocab", CONF_U64, AT(model.vocab), .required = true, .min = 2, .max = 1 << 20},
	{"context", CONF_U64, AT(model.context), .required = true, .min = 1, .max = SEQUENCE_MAX},
	{.type = CONF_END},
};

static const struct conf_key data_keys[] = {
	{"train", CONF_STRINGS, AT(data.train), .required = true},
	{"validation", CONF_STRINGS, AT(data.validation)},
	{"sequence", CONF_U64, AT(data.sequence), .min = 1, .max = SEQUENCE_MAX},
	{.type = CONF_END},
};

static const struct conf_key batch_keys[] = {
	{"global", CONF_U64, AT(batch.global), .required = true, .min = 1, .max = 1 << 24},
	{"micro", CONF_U64, AT(batch.micro), .min = 1, .max = 65536},
	{.type = CONF_END},
};

/* What is finite in double may not be in fp32, where the arithmetic is done in the end. */
static const struct conf_key optimizer_keys[] = {
	{"type", CONF_ENUM, AT(optimizer.type), .names = optimizer_kind_names},
	{"moments", CONF_ENUM, AT(optimizer.moments), .names = optimizer_moments_names},
	{"lr", CONF_DOUBLE, AT(optimizer.lr), .required = true, .max = 1e30},
	{"betas", CONF_DOUBLES, AT(optimizer.betas), .count = 2},
	{"eps", CONF_DOUBLE, AT(optimizer.eps), .max = 1e30},
	{"momentum", CONF_DOUBLE, AT(optimizer.momentum), .max = 1},
	{"weight_decay", CONF_DOUBLE, AT(optimizer.weight_decay), .max = 1e30},
	{"clip", CONF_DOUBLE, AT(optimizer.clip), .max = 1e30},
	{.type = CONF_END},
};

static const struct conf_key schedule_keys[] = {
	{"type", CONF_ENUM, AT(schedule.type), .names = schedule_names},
	{"warmup", CONF_U64, AT(schedule.warmup), .max = STEPS_MAX},
	{"steps", CONF_U64, AT(schedule.steps), .required = true, .min = 1, .max = STEPS_MAX},
	{"min_lr", CONF_DOUBLE, AT(schedule.min_lr), .max = 1e30},
	{"order", CONF_ENUM, AT(schedule.order), .names = order_names},
	{.type = CONF_END},
};

static const struct conf_key zero_keys[] = {
	{"stage", CONF_U64, AT(zero.stage), .max = 3},
	{"offload_param", CONF_SHARES, AT(zero.offload_param), .automatic = true,
	 .names = placement_names},
	{"offload_optimizer", CONF_SHARES, AT(zero.offload_optimizer), .automatic = true,
	 .names = placement_names},
	{"offload_activations", CONF_ENUM, AT(zero.offload_activations), .names = placement_names},
	{"prefetch", CONF_U64, AT(zero.prefetch), .min = 1, .max = 64},
	{.type = CONF_END},
};

static const struct conf_key nvme_keys[] = {
	{"paths", CONF_STRINGS, AT(nvme.paths), .required = true},
	{"engine", CONF_ENUM, AT(nvme.engine), .names = engine_names},
	{"extent", CONF_BYTES, AT(nvme.extent), .automatic = true, .min = NVME_EXTENT_MIN,
	 .max = NVME_EXTENT_MAX},
	{"queue_depth", CONF_U64, AT(nvme.queue_depth), .automatic = true, .min = 1,
	 .max = NVME_QUEUE_DEPTH_MAX},
	{"tuned", CONF_STRING, AT(nvme.tuned)},
	{.type = CONF_END},
};

static const struct conf_key host_keys[] = {
	{"memory", CONF_BYTES, AT(host.memory), .automatic = true, .min = 1 << 20,
	 .max = BYTES_MAX},
	{"threads", CONF_U64, AT(host.threads), .min = 1, .max = 1024},
	{.type = CONF_END},
};

static const struct conf_key device_keys[] = {
	{"type", CONF_ENUM, AT(device.type), .names = device_names},
	{"count", CONF_U64, AT(device.count), .min = 1, .max = COMM_WORLD_MAX},
	{"memory", CONF_BYTES, AT(device.memory), .required = true, .min = 1 << 20,
	 .max = BYTES_MAX},
	{.type = CONF_END},
};

static const struct conf_key checkpoint_keys[] = {
	{"dir", CONF_STRING, AT(checkpoint.dir)},
	{"every", CONF_U64, AT(checkpoint.every), .max = STEPS_MAX},
	{"keep", CONF_U64, AT(checkpoint.keep), .min = 1, .max = 1000000},
	{.type = CONF_END},
};

static const struct conf_key evaluate_keys[] = {
	{"every", CONF_U64, AT(evaluate.every), .max = STEPS_MAX},
	{"batches", CONF_U64, AT(evaluate.batches), .min = 1, .max = STEPS_MAX},
	{.type = CONF_END},
};

static const struct conf_key log_keys[] = {
	{"every", CONF_U64, AT(log.every), .min = 1, .max = STEPS_MAX},
	{"file", CONF_STRING, AT(log.file)},
	{.type = CONF_END},
};

static const struct conf_key keys[] = {
	{"model", CONF_SECTION, .required = true, .keys = model_keys},
	{"data", CONF_SECTION, .required = true, .keys = data_keys},
	{"batch", CONF_SECTION, .required = true, .keys = batch_keys},
	{"optimizer", CONF_SECTION, .required = true, .keys = optimizer_keys},
	{"schedule", CONF_SECTION, .required = true, .keys = schedule_keys},
	{"precision", CONF_ENUM, AT(precision), .names = precision_names},
	{"zero", CONF_SECTION, .keys = zero_keys},
	{"nvme", CONF_SECTION, .keys = nvme_keys},
	{"host", CONF_SECTION, .keys = host_keys},
	{"device", CONF_SECTION, .required = true, .keys = device_keys},
	{"checkpoint", CONF_SECTION, .keys = checkpoint_keys},
	{"evaluate", CONF_SECTION, .keys = evaluate_keys},
	{"log", CONF_SECTION, .keys = log_keys},
	{"seed", CONF_U64, AT(seed)},
	{.type = CONF_END},
};

/* What `auto` is where nobody has measured: see offload/tuned.h. */
#define EXTENT_DEFAULT      (4u << 20)
#define QUEUE_DEPTH_DEFAULT 32u

static const struct train_config defaults = {
	.model.arch = ARCH_GPT2,
	.batch.micro = 1,
	.optimizer = {.type = OPTIMIZER_ADAMW, .clip = 1.0},
	.schedule.type = SCHEDULE_COSINE,
	.precision = PRECISION_BF16,
	.zero = {.stage = 3,
		 .offload_param = {[PLACE_NONE] = 1},
		 .offload_optimizer = {[PLACE_NONE] = 1},
		 .prefetch = 2},
	.nvme = {.engine = NVME_AUTO, .extent = CONF_AUTO, .queue_depth = CONF_AUTO},
	.host.threads = 1,
	.device = {.type = DEVICE_CPU, .count = 1},
	.checkpoint.keep = 2,
	.evaluate.batches = 10,
	.log.every = 10,
	.seed = 1,
};

/* Which of the keys that not all have a type of optimizer has, and its defaults. */
static const struct optimizer_keys {
	bool betas, eps, momentum, moments;
	double beta[2], eps_value, momentum_value, weight_decay;
} optimizers[] = {
	[OPTIMIZER_ADAMW] = {.betas = true,
			     .eps = true,
			     .moments = true,
			     .beta = {0.9, 0.95},
			     .eps_value = 1e-8,
			     .weight_decay = 0.1},
	[OPTIMIZER_LION] = {.betas = true, .beta = {0.9, 0.99}, .weight_decay = 0.1},
	[OPTIMIZER_ADAGRAD] = {.eps = true, .eps_value = 1e-10},
	[OPTIMIZER_SGD] = {.momentum = true, .momentum_value = 0.9},
};

/* What the user left out of the optimizer becomes its type's default. */
static void optimizer_defaults(struct train_config *c, const struct conf_doc *doc)
{
	const struct optimizer_keys *o = &optimizers[c->optimizer.type];

	if (!conf_has(doc, "optimizer.betas"))
		c->optimizer.betas =
			(struct conf_doubles){.at = {o->beta[0], o->beta[1]}, .count = 2};
	if (!conf_has(doc, "optimizer.eps"))
		c->optimizer.eps = o->eps_value;
	if (!conf_has(doc, "optimizer.momentum"))
		c->optimizer.momentum = o->momentum_value;
	if (!conf_has(doc, "optimizer.weight_decay"))
		c->optimizer.weight_decay = o->weight_decay;
}

static int check_strings(const struct conf_doc *doc, const char *key,
			 const struct conf_strings *list, struct err *err)
{
	if (conf_has(doc, key) && !list->count)
		return conf_error(doc, key, err, "[] is empty, expected at least one path");
	for (size_t i = 0; i < list->count; i++)
		if (!list->at[i][0])
			return conf_error(doc, key, err, "\"\" is no path");
	return 0;
}

static int check_model(const struct train_config *c, const struct conf_doc *doc, struct err *err)
{
	if (c->model.hidden % c->model.heads)
		return conf_error(doc, "model.heads", err,
				  "%ju heads do not divide model.hidden, %ju, into equal parts",
				  (uintmax_t)c->model.heads, (uintmax_t)c->model.hidden);
	if (c->data.sequence > c->model.context)
		return conf_error(doc, "data.sequence", err,
				  "%ju is more than model.context, %ju, has positions for",
				  (uintmax_t)c->data.sequence, (uintmax_t)c->model.context);
	return 0;
}

static int check_data(const struct train_config *c, const struct conf_doc *doc, struct err *err)
{
	int rc = check_strings(doc, "data.train", &c->data.train, err);

	if (!rc)
		rc = check_strings(doc, "data.validation", &c->data.validation, err);
	return rc;
}

/* Keys of other types of optimizer than the job's. */
static int check_optimizer_keys(const struct train_config *c, const struct conf_doc *doc,
				struct err *err)
{
	const struct optimizer_keys *o = &optimizers[c->optimizer.type];
	const struct {
		const char *key;
		bool has;
	} list[] = {
		{"optimizer.betas", o->betas},
		{"optimizer.eps", o->eps},
		{"optimizer.momentum", o->momentum},
		{"optimizer.moments", o->moments},
	};

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		if (!list[i].has && conf_has(doc, list[i].key))
			return conf_error(doc, list[i].key, err, "does not apply to %s",
					  optimizer_kind_names[c->optimizer.type]);
	return 0;
}

static int check_optimizer(const struct train_config *c, const struct conf_doc *doc,
			   struct err *err)
{
	const struct optimizer_hyper hyper = train_config_hyper(c);
	struct err why;
	const char *key;
	char path[64];

	if (c->optimizer.lr <= 0)
		return conf_error(doc, "optimizer.lr", err, "%g, expected a number above 0",
				  c->optimizer.lr);
	if (optimizer_hyper_check(&hyper, &key, &why) < 0) {
		snprintf(path, sizeof(path), "optimizer.%s", key);
		return conf_error(doc, path, err, "%s", why.text);
	}
	return 0;
}

static int check_schedule(const struct train_config *c, const struct conf_doc *doc, struct err *err)
{
	if (c->schedule.type == SCHEDULE_CONSTANT && conf_has(doc, "schedule.warmup"))
		return conf_error(doc, "schedule.warmup", err,
				  "does not apply to a constant schedule, expected none");
	if (c->schedule.type == SCHEDULE_CONSTANT && conf_has(doc, "schedule.min_lr"))
		return conf_error(doc, "schedule.min_lr", err,
				  "does not apply to a constant schedule, expected none");
	if (c->schedule.warmup > c->schedule.steps)
		return conf_error(doc, "schedule.warmup", err,
				  "%ju is more than schedule.steps, %ju",
				  (uintmax_t)c->schedule.warmup, (uintmax_t)c->schedule.steps);
	if (c->schedule.min_lr > c->optimizer.lr)
		return conf_error(doc, "schedule.min_lr", err,
				  "%g is more than optimizer.lr, %g, from which it comes down",
				  c->schedule.min_lr, c->optimizer.lr);
	return 0;
}

static int check_paths(const struct train_config *c, const struct conf_doc *doc, struct err *err)
{
	const struct conf_strings *p = &c->nvme.paths;
	int rc = check_strings(doc, "nvme.paths", p, err);

	if (rc < 0)
		return rc;
	if (p->count > NVME_PATHS_MAX)
		return conf_error(doc, "nvme.paths", err, "%zu paths, expected at most %u",
				  p->count, NVME_PATHS_MAX);
	for (size_t i = 0; i < p->count; i++) {
		if (strlen(p->at[i]) >= PROTOCOL_PATH_BYTES)
			return conf_error(doc, "nvme.paths", err,
					  "%s is %zu bytes long, expected less than %u", p->at[i],
					  strlen(p->at[i]), PROTOCOL_PATH_BYTES);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(p->at[i], p->at[k]))
				return conf_error(doc, "nvme.paths", err, "%s is there twice",
						  p->at[i]);
	}
	return 0;
}

static int check_nvme(const struct train_config *c, const struct conf_doc *doc, struct err *err)
{
	char text[UNITS_TEXT_BYTES];

	if (c->nvme.extent % NVME_ALIGN)
		return conf_error(doc, "nvme.extent", err,
				  "%s (%ju bytes) is not a multiple of %u bytes",
				  units_format_bytes(text, c->nvme.extent),
				  (uintmax_t)c->nvme.extent, NVME_ALIGN);
	return check_paths(c, doc, err);
}

/* Has `key` what a placement there needs? */
static int check_place(const struct train_config *c, const struct conf_doc *doc, const char *key,
		       int place, struct err *err)
{
	if (place == PLACE_NVME && !c->nvme.paths.count)
		return conf_error(doc, key, err, "nvme needs nvme.paths, a list of directories");
	if (place != PLACE_NONE && !c->host.memory)
		return conf_error(doc, key, err,
				  "%s needs host.memory, the size of what the host lends",
				  placement_name(place));
	return 0;
}

/* The same for all places that `key` gives a share to. */
static int check_shares(const struct train_config *c, const struct conf_doc *doc, const char *key,
			const double shares[PLACE_COUNT], struct err *err)
{
	int rc = 0;

	for (int place = 0; !rc && place < PLACE_COUNT; place++) {
		char share[64];

		/* A message stands at the share where shares are given, else at the word. */
		snprintf(share, sizeof(share), "%s.%s", key, placement_name(place));
		if (!conf_has(doc, share))
			*strrchr(share, '.') = '\0';
		if (shares[place] > 0)
			rc = check_place(c, doc, share, place, err);
	}
	return rc;
}

static int check_zero(const struct train_config *c, const struct conf_doc *doc, struct err *err)
{
	int rc = check_shares(c, doc, "zero.offload_param", c->zero.offload_param, err);

	if (!rc)
		rc = check_shares(c, doc, "zero.offload_optimizer", c->zero.offload_optimizer, err);
	if (rc < 0)
		return rc;
	return check_place(c, doc, "zero.offload_activations", c->zero.offload_activations, err);
}

static int check_device(const struct train_config *c, const struct conf_doc *doc, struct err *err)
{
	if (!device_built((enum device_type)c->device.type))
		return conf_error(doc, "device.type", err,
				  "cuda, expected cpu: this build has no cuda device");
	if (c->device.type == DEVICE_CUDA && c->device.count > 1 && !comm_backend_built(COMM_NCCL))
		return conf_error(doc, "device.count", err,
				  "%ju, expected 1: cuda devices work together through NCCL, which "
				  "this build does not have",
				  (uintmax_t)c->device.count);
	if (c->zero.offload_optimizer[PLACE_NONE] > 0 && !train_config_device_steps(c))
		return conf_error(
			doc, "optimizer", err,
			"a cuda device steps adamw with moments in fp32 only: with %s and "
			"%s, zero.offload_optimizer has to be cpu, or nvme",
			optimizer_kind_names[c->optimizer.type],
			optimizer_moments_names[c->optimizer.moments]);
	if (c->device.type == DEVICE_CUDA &&
	    c->model.hidden / c->model.heads > ATTENTION_HEAD_DIM_MAX_CUDA)
		return conf_error(doc, "model.heads", err,
				  "%ju heads of %ju: a cuda device's attention has heads of up to "
				  "%u, so more of them are needed",
				  (uintmax_t)c->model.heads,
				  (uintmax_t)(c->model.hidden / c->model.heads),
				  ATTENTION_HEAD_DIM_MAX_CUDA);
	return 0;
}

static int check_inapplicable(const struct train_config *c, const struct conf_doc *doc,
			      struct err *err)
{
	static const char *const checkpoint[] = {"checkpoint.every", "checkpoint.keep"};
	static const char *const evaluate[] = {"evaluate.every", "evaluate.batches"};

	for (size_t i = 0; i < 2; i++) {
		if (!c->checkpoint.dir && conf_has(doc, checkpoint[i]))
			return conf_error(doc, checkpoint[i], err,
					  "does not apply without checkpoint.dir");
		if (!c->data.validation.count && conf_has(doc, evaluate[i]))
			return conf_error(doc, evaluate[i], err,
					  "does not apply without data.validation");
	}
	return 0;
}

typedef int check_fn(const struct train_config *c, const struct conf_doc *doc, struct err *err);

static int check_batch(const struct train_config *c, const struct conf_doc *doc, struct err *err)
{
	uint64_t accumulation;
	/* One host at least: with more of them the world is a multiple of this. */
	int rc = train_config_accumulation(c, doc, (unsigned)c->device.count, &accumulation, err);

	if (!rc && c->schedule.order == ORDER_LAYER && accumulation == 1)
		return conf_error(doc, "schedule.order", err,
				  "layer does not apply: a step is one micro-batch a device, since "
				  "batch.global is batch.micro on %ju device%s",
				  (uintmax_t)c->device.count, c->device.count == 1 ? "" : "s");
	return rc;
}

static check_fn *const checks[] = {
	check_model, check_data, check_optimizer_keys, check_optimizer, check_schedule,
	check_nvme,  check_zero, check_device,         check_batch,     check_inapplicable,
};

static void fill_nvme(struct train_config *c)
{
	c->nvme.extent_auto = c->nvme.extent == CONF_AUTO;
	c->nvme.queue_depth_auto = c->nvme.queue_depth == CONF_AUTO;
	if (c->nvme.extent_auto)
		c->nvme.extent = EXTENT_DEFAULT;
	if (c->nvme.queue_depth_auto)
		c->nvme.queue_depth = QUEUE_DEPTH_DEFAULT;
}

int train_config_parse(const char *name, const char *text, size_t len, struct train_config *ret,
		       struct conf_doc **ret_doc, struct err *err)
{
	struct train_config c = defaults;
	struct conf_doc *doc;
	int rc = conf_parse(name, text, len, keys, &c, &doc, err);

	if (rc < 0)
		return rc;
	optimizer_defaults(&c, doc);
	if (!c.data.sequence)
		c.data.sequence = c.model.context;
	fill_nvme(&c);
	for (size_t i = 0; !rc && i < sizeof(checks) / sizeof(checks[0]); i++)
		rc = checks[i](&c, doc, err);
	if (rc < 0) {
		conf_free(doc);
		return rc;
	}
	c.host.automatic = c.host.memory == CONF_AUTO;
	*ret = c;
	*ret_doc = doc;
	return 0;
}

static void shares_settle(double shares[PLACE_COUNT], uint64_t chosen)
{
	for (int place = 0; chosen && place < PLACE_COUNT; place++)
		shares[place] = place + 1 == (int)chosen;
}

void train_config_settle(struct train_config *config, const struct train_settled *settled)
{
	shares_settle(config->zero.offload_param, settled->param);
	shares_settle(config->zero.offload_optimizer, settled->optimizer);
	if (settled->host_memory)
		config->host.memory = settled->host_memory;
	if (settled->extent && config->nvme.extent_auto)
		config->nvme.extent = settled->extent;
	if (settled->queue_depth && config->nvme.queue_depth_auto)
		config->nvme.queue_depth = settled->queue_depth;
}

int train_config_accumulation(const struct train_config *config, const struct conf_doc *doc,
			      unsigned world, uint64_t *ret, struct err *err)
{
	const uint64_t pass = config->batch.micro * world;

	if (config->batch.global % pass)
		return conf_error(doc, "batch.global", err,
				  "%ju is not a multiple of %ju: batch.micro, %ju, on %u device%s",
				  (uintmax_t)config->batch.global, (uintmax_t)pass,
				  (uintmax_t)config->batch.micro, world, world == 1 ? "" : "s");
	*ret = config->batch.global / pass;
	return 0;
}

double train_config_lr(const struct train_config *config, uint64_t step)
{
	const double lr = config->optimizer.lr, min_lr = config->schedule.min_lr;
	const uint64_t warmup = config->schedule.warmup, steps = config->schedule.steps;
	double done;

	if (step < warmup)
		return lr * (double)step / (double)warmup;
	if (config->schedule.type == SCHEDULE_CONSTANT || step == warmup)
		return lr;
	if (step >= steps)
		return min_lr;
	done = (double)(step - warmup) / (double)(steps - warmup);
	if (config->schedule.type == SCHEDULE_LINEAR)
		return lr + (min_lr - lr) * done;
	return min_lr + (lr - min_lr) * 0.5 * (1 + cos(M_PI * done));
}

struct optimizer_hyper train_config_hyper(const struct train_config *c)
{
	return (struct optimizer_hyper){
		.kind = (enum optimizer_kind)c->optimizer.type,
		.moments = (enum optimizer_moments)c->optimizer.moments,
		.lr = c->optimizer.lr,
		.beta1 = c->optimizer.betas.at[0],
		.beta2 = c->optimizer.betas.at[1],
		.eps = c->optimizer.eps,
		.momentum = c->optimizer.momentum,
		.weight_decay = c->optimizer.weight_decay,
		.seed = c->seed,
	};
}

bool train_config_device_steps(const struct train_config *c)
{
	return c->device.type == DEVICE_CPU ||
	       (c->optimizer.type == OPTIMIZER_ADAMW && c->optimizer.moments == MOMENTS_F32);
}

const char *placement_name(int placement)
{
	if (placement < 0 || placement >= PLACE_COUNT)
		return "?";
	return placement_names[placement];
}
