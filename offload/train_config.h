/*
 * train.yaml as a struct: every key of train.yaml(5), checked one by one and against each other.
 * Anyone who needs the job's settings (launcher, planner, worker) reads them from here.
 */
#ifndef OFFLOAD_TRAIN_CONFIG_H
#define OFFLOAD_TRAIN_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/conf.h"
#include "common/err.h"
#include "kernels/optimizer.h"

enum placement { PLACE_NONE, PLACE_CPU, PLACE_NVME, PLACE_COUNT };
enum train_arch { ARCH_GPT2 };
enum train_precision { PRECISION_FP32, PRECISION_BF16 };
enum train_schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };
enum train_order { ORDER_MICRO_BATCH, ORDER_LAYER };

struct train_config {
	struct {
		int arch; /* enum train_arch */
		uint64_t layers, hidden, heads, vocab, context;
	} model;
	struct {
		struct conf_strings train, validation;
		uint64_t sequence;
	} data;
	struct {
		uint64_t global, micro; /* sequences: in a step of all ranks; in a pass of one */
	} batch;
	struct {
		int type, moments;             /* enum optimizer_kind, enum optimizer_moments */
		double lr, weight_decay, clip; /* clip 0: none */
		/* Of the types that have them: */
		struct conf_doubles betas;
		double eps, momentum;
	} optimizer;
	struct {
		int type; /* enum train_schedule */
		uint64_t warmup, steps;
		double min_lr;
		int order; /* enum train_order: of a step's micro-batches */
	} schedule;
	int precision; /* enum train_precision */
	struct {
		uint64_t stage;
		/* Each tier's share, 1 in all; the first one CONF_SHARES_AUTO until settled. */
		double offload_param[PLACE_COUNT];
		double offload_optimizer[PLACE_COUNT];
		int offload_activations; /* enum placement */
		uint64_t prefetch;       /* units fetched ahead, at most */
	} zero;
	struct {
		struct conf_strings paths;
		int engine; /* as enum nvme_engine: auto, io_uring, libaio */
		uint64_t extent, queue_depth;
		bool extent_auto, queue_depth_auto; /* left open: see offload/tuned.h */
		const char *tuned;                  /* a file of figures; NULL: where they are */
	} nvme;
	struct {
		/* Of the daemon, for all ranks of a host. CONF_AUTO until it is settled: see
		 * train_config_settle. */
		uint64_t memory;
		bool automatic;   /* it was auto: what of NVMe it has room for is kept in it */
		uint64_t threads; /* of the CPU optimizer, per host */
	} host;
	struct {
		int type;        /* as enum device_type */
		uint64_t count;  /* per host */
		uint64_t memory; /* of each device */
	} device;
	struct {
		const char *dir; /* NULL: none are written */
		uint64_t every, keep;
	} checkpoint;
	struct {
		uint64_t every, batches; /* every 0: at the end only, if there is validation data */
	} evaluate;
	struct {
		uint64_t every;
		const char *file; /* NULL: none */
	} log;
	uint64_t seed;
};

/*
 * Reads and checks. `name` stands in messages. Everything in *ret lives as long as *ret_doc.
 * ERR_CONFIG with file:line:column, the value and what was expected.
 */
int train_config_parse(const char *name, const char *text, size_t len, struct train_config *ret,
		       struct conf_doc **ret_doc, struct err *err);

/* What the launcher chose where a configuration says auto; zero: nothing. */
struct train_settled {
	uint64_t host_memory, extent, queue_depth;
	uint64_t param, optimizer; /* 1 + enum placement */
};

/* The configuration that all processes of a job plan from: what was chosen in place of auto. */
void train_config_settle(struct train_config *config, const struct train_settled *settled);

/* Micro-batches of one rank in a step: global / (micro * world). Checked here: it divides. */
int train_config_accumulation(const struct train_config *config, const struct conf_doc *doc,
			      unsigned world, uint64_t *ret, struct err *err);

/* The rate at `step` (from 1): linear warm-up to lr, then down to min_lr at `steps`. */
double train_config_lr(const struct train_config *config, uint64_t step);

/* Of a step at the rate `lr`; a schedule has others. */
struct optimizer_hyper train_config_hyper(const struct train_config *config);

/* Can a device of the job step units, or is all optimizer state to be offloaded? */
bool train_config_device_steps(const struct train_config *config);

/* Are these shares auto, and not settled? */
static inline bool placement_is_auto(const double shares[PLACE_COUNT])
{
	return shares[PLACE_NONE] < 0;
}

const char *placement_name(int placement);

#endif
