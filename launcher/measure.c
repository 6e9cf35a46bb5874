/*
 * Measures what placements are chosen by. Called by dsrun before it plans a job in which something
 * is auto, from its one thread.
 *
 * 1. Each rate is measured by the program that will be bound by it: passes by dsworker, on all
 *    devices at once, with the job's shape; the optimizer, checksums and the store's transfers by
 *    the very functions that dsoffloadd runs.
 * 2. Nothing is left: the workers' job is one like any other, files are unnamed.
 */
#include "launcher/measure.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/log.h"
#include "kernels/adam_measure.h"
#include "kernels/device.h"
#include "launcher/supervise.h"
#include "nvme/figures.h"
#include "nvme/measure.h"

#define BLOCKS_FEW    1u /* two models, whose difference is blocks alone */
#define BLOCKS_MORE   3u
#define TURNS         2
#define ADAM_SECONDS  0.4
#define ADAM_MOVED    26.0 /* bytes a parameter: kernels/adam.h */
#define DISK_SECONDS  3.0
#define DISK_BYTES    (UINT64_C(256) << 20)
#define MEMORY_BYTES  ((size_t)32 << 20) /* beyond most caches */
#define MEMORY_ROUNDS 5

struct sample {
	double forward, pass, step;
};

static int sample_parse(const char *text, struct sample *ret, struct err *err)
{
	static const struct conf_key keys[] = {
		{"forward", CONF_DOUBLE, offsetof(struct sample, forward), .required = true},
		{"pass", CONF_DOUBLE, offsetof(struct sample, pass), .required = true},
		{"step", CONF_DOUBLE, offsetof(struct sample, step), .required = true},
		{.type = CONF_END},
	};
	struct conf_doc *doc;
	int rc = conf_parse("what a worker measured", text, strlen(text), keys, ret, &doc, err);

	if (rc == 0)
		conf_free(doc);
	return rc;
}

/* Passes of a model with so many blocks. */
static int passes(const struct launch *launch, uint64_t blocks, struct sample *ret, struct err *err)
{
	struct launch bare = *launch;
	struct supervise config = {.launch = &bare, .quiet = true, .stop_timeout_ns = 1000000000u};
	struct outcome outcome = {0};
	struct job_view *view;
	int rc;

	bare.job.measure = blocks;
	bare.job.resume = false;
	bare.job.export_path = bare.job.prompt = NULL;
	bare.job.generate = bare.job.trace_first = bare.job.trace_last = 0;
	bare.daemon = LAUNCH_DAEMON_NONE;
	view = supervise_run(&config, &outcome);
	if (outcome.status == OUTCOME_OK && outcome.summary)
		rc = sample_parse(outcome.summary, ret, err);
	else if (outcome.status == OUTCOME_STOPPED)
		rc = err_set(err, ERR_UNAVAILABLE, "stopped while measuring for auto");
	else
		rc = err_set(err, ERR_UNAVAILABLE, "measuring for auto: rank %u: %s", outcome.rank,
			     outcome.text[0] ? outcome.text : "it ended without a result");
	supervise_free(view);
	return rc;
}

static struct predict_line line_through(double few, double more)
{
	double block = (more - few) / (BLOCKS_MORE - BLOCKS_FEW);

	/* Noise can make more blocks faster, where one costs next to nothing. */
	block = block > 0 ? block : 0;
	few -= BLOCKS_FEW * block;
	return (struct predict_line){.rest = few > 0 ? few : 0, .block = block};
}

static void sample_least(struct sample *least, const struct sample *s)
{
	least->forward = s->forward < least->forward ? s->forward : least->forward;
	least->pass = s->pass < least->pass ? s->pass : least->pass;
	least->step = s->step < least->step ? s->step : least->step;
}

/* The two models in turns, and of each the faster time: neighbours only make it slower. */
static int compute_rates(const struct launch *launch, struct predict_rates *ret, struct err *err)
{
	struct sample few = {INFINITY, INFINITY, INFINITY}, more = few, s;

	for (int i = 0; i < TURNS; i++) {
		int rc = passes(launch, BLOCKS_FEW, &s, err);

		if (rc == 0) {
			sample_least(&few, &s);
			rc = passes(launch, BLOCKS_MORE, &s, err);
		}
		if (rc < 0)
			return rc;
		sample_least(&more, &s);
	}
	ret->forward = line_through(few.forward, more.forward);
	ret->pass = line_through(few.pass, more.pass);
	ret->step = line_through(few.step, more.step);
	return 0;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Copies and checksums by one core: the fastest of a few rounds, since others only slow it. */
static int memory_rates(struct predict_rates *ret, struct err *err)
{
	char *from = malloc(2 * MEMORY_BYTES), *to = from + MEMORY_BYTES;
	double copy = 0, checksum = 0;
	uint32_t crc = 0;

	if (!from)
		return err_sys(err, -ENOMEM, "measuring memory");
	memset(from, 1, 2 * MEMORY_BYTES);
	for (int i = 0; i < MEMORY_ROUNDS; i++) {
		double began = now(), between;

		memcpy(to, from, MEMORY_BYTES);
		between = now();
		crc = crc32c(crc, to, MEMORY_BYTES);
		from[i] = (char)crc;
		if (MEMORY_BYTES / (now() - between) > checksum)
			checksum = MEMORY_BYTES / (now() - between);
		if (MEMORY_BYTES / (between - began) > copy)
			copy = MEMORY_BYTES / (between - began);
	}
	free(from);
	ret->copy = copy;
	ret->checksum = checksum;
	return 0;
}

static int adam_rate(struct predict_rates *ret, struct err *err)
{
	struct adam_speed speed;
	int rc = adam_measure(adam_measure_params(), 1, ADAM_SECONDS, &speed, 1, err);

	if (rc < 0)
		return rc;
	ret->adam = speed.step / ADAM_MOVED;
	return 0;
}

static int disk_rates(const struct train_config *c, struct predict_rates *ret, struct err *err)
{
	struct nvme_measure_config config = {.paths = c->nvme.paths.at,
					     .path_count = c->nvme.paths.count,
					     .file_bytes = DISK_BYTES,
					     .seconds = DISK_SECONDS};
	struct nvme_figures figures;
	struct nvme_measured *measured;
	struct err why = {0};
	int rc;

	if (!config.path_count)
		return 0;
	rc = nvme_tuned_find(NULL, config.paths, config.path_count, &figures, NULL, &why);
	if (rc < 0)
		return err_set(err, rc, "%s", why.text);
	if (rc != NVME_TUNED_FOUND) {
		measured = malloc(sizeof(*measured));
		if (!measured)
			return err_sys(err, -ENOMEM, "measuring nvme.paths");
		rc = nvme_measure(&config, measured, err);
		figures = measured->figures;
		free(measured);
		if (rc < 0)
			return err_add(err, "measuring nvme.paths for auto");
	}
	ret->read = figures.together.read;
	ret->write = figures.together.write;
	ret->mixed = figures.together.mixed;
	return 0;
}

static unsigned cores_here(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		return (unsigned)CPU_COUNT(&set);
	return (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}

int measure_host(const struct launch *launch, const struct train_config *config,
		 struct predict_rates *ret, struct err *err)
{
	struct predict_rates rates = {.cores = cores_here(),
				      .shared = config->device.type == DEVICE_CPU};
	int rc;

	log_info("launcher", "measuring this host, for what is auto");
	if ((rc = compute_rates(launch, &rates, err)) < 0 || (rc = memory_rates(&rates, err)) < 0 ||
	    (rc = adam_rate(&rates, err)) < 0 || (rc = disk_rates(config, &rates, err)) < 0)
		return rc;
	*ret = rates;
	return 0;
}
