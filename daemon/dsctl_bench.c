/*
 * `dsctl bench`: measures a node's swap directories and memory, says what the drives' endurance
 * means, and writes what it chose to the file that daemon and dsrun read. See dsctl(1).
 *
 * 1. What can be refused is refused before the first second of measuring.
 * 2. The file of figures is replaced at the very end, whole, or not at all.
 * 3. What is measured beside somebody else's work is not written.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/conf.h"
#include "common/file.h"
#include "common/topo.h"
#include "common/units.h"
#include "daemon/dsctl.h"
#include "offload/arch.h"
#include "offload/plan.h"
#include "offload/train_config.h"

#define SECONDS_DEFAULT  40.0
#define SECONDS_MIN      1.0
#define SECONDS_MAX      3600.0
#define DISK_PART        0.85 /* of the time; the rest is memory's */
#define SIZE_DEFAULT     (UINT64_C(1) << 30)
#define SIZE_MAX_BYTES   (UINT64_C(1) << 40)
#define PARAMS_MAX       1e15
#define CONFIG_BYTES_MAX ((size_t)128 << 10)

static const char help[] =
	"usage: dsctl bench [options] [directory ...]\n"
	"Measures swap directories and memory in less than a minute, and writes the best engine,\n"
	"extent and queue depth where dsoffloadd and dsrun read them.\n"
	"\n"
	"  -c, --config FILE        a train.yaml: what its job writes; its nvme.paths, where no\n"
	"                           directories are given\n"
	"  -p, --params COUNT       or: what a model of so many parameters writes\n"
	"  -t, --step-time TIME     how long a step takes, as 2.5s; default: the least it can\n"
	"  -e, --endurance RATING   of each drive: drive writes a day, as 0.6, or as 1200TB\n"
	"  -o, --output FILE        where to write figures, default %s\n"
	"  -n, --no-write           write none\n"
	"  -f, --force              measure beside a daemon at work, and write nothing\n"
	"  -S, --seconds SECONDS    how long, default 40\n"
	"  -b, --size BYTES         of the file in each directory, default 1GiB\n"
	"  -j, --json               print the results as JSON\n"
	"  -s, --socket PATH        where to look for a daemon, default " DSCTL_SOCKET "\n"
	"  -h, --help               print this\n"
	"\n"
	"See dsctl(1).\n";

struct options {
	const char *config, *output, *socket;
	uint64_t params, size;
	double seconds, step_seconds;
	struct endurance_rating rating;
	bool write, force, json;
	const char *const *paths;
	size_t path_count;
};

/* The job that --config describes, and whose paths may be the ones. */
struct job {
	char *text;
	struct conf_doc *doc;
	struct train_config config;
	struct arch *arch;
	struct plan *plan;
};

static int usage(const char *message, const char *what)
{
	fprintf(stderr, "dsctl: bench: %s%s (--help tells more)\n", message, what);
	return err_exit_status(ERR_USAGE);
}

/* "7e9" is a count, too. */
static int count_parse(const char *text, uint64_t *ret)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= 1 && value <= PARAMS_MAX))
		return -EINVAL;
	*ret = (uint64_t)value;
	return 0;
}

static int seconds_parse(const char *text, double *ret)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= SECONDS_MIN && value <= SECONDS_MAX))
		return -EINVAL;
	*ret = value;
	return 0;
}

static int step_time_parse(const char *text, double *ret)
{
	uint64_t ns;

	if (units_parse_duration(text, &ns) < 0 || ns == 0)
		return -EINVAL;
	*ret = (double)ns * 1e-9;
	return 0;
}

static int size_parse(const char *text, uint64_t *ret)
{
	uint64_t bytes;

	if (units_parse_bytes(text, &bytes) < 0 || bytes < NVME_MEASURE_BYTES_MIN ||
	    bytes > SIZE_MAX_BYTES)
		return -EINVAL;
	*ret = bytes / NVME_MEASURE_BYTES_UNIT * NVME_MEASURE_BYTES_UNIT;
	return 0;
}

/* One option. Returns 0, or the exit status. */
static int option_take(int opt, struct options *o)
{
	switch (opt) {
	case 'c':
		o->config = optarg;
		return 0;
	case 'p':
		return count_parse(optarg, &o->params) < 0
			       ? usage("--params: expected a count from 1 to 1e15, not ", optarg)
			       : 0;
	case 't':
		return step_time_parse(optarg, &o->step_seconds) < 0
			       ? usage("--step-time: expected a time like 2.5s, not ", optarg)
			       : 0;
	case 'e':
		return endurance_rating_parse(optarg, &o->rating) < 0
			       ? usage("--endurance: expected drive writes a day, as 0.6, or bytes "
				       "as 1200TB, not ",
				       optarg)
			       : 0;
	case 'o':
		o->output = optarg;
		return 0;
	case 'n':
		o->write = false;
		return 0;
	case 'f':
		o->force = true;
		return 0;
	case 'S':
		return seconds_parse(optarg, &o->seconds) < 0
			       ? usage("--seconds: expected 1 to 3600, not ", optarg)
			       : 0;
	case 'b':
		return size_parse(optarg, &o->size) < 0
			       ? usage("--size: expected 64MiB to 1TiB, not ", optarg)
			       : 0;
	case 'j':
		o->json = true;
		return 0;
	case 's':
		o->socket = optarg;
		return 0;
	default:
		return err_exit_status(ERR_USAGE);
	}
}

/* Returns 1 to go on, else the exit status is in *ret_status. */
static int options_parse(int argc, char **argv, struct options *o, int *ret_status)
{
	static const struct option table[] = {
		{"config", required_argument, NULL, 'c'},
		{"params", required_argument, NULL, 'p'},
		{"step-time", required_argument, NULL, 't'},
		{"endurance", required_argument, NULL, 'e'},
		{"output", required_argument, NULL, 'o'},
		{"no-write", no_argument, NULL, 'n'},
		{"force", no_argument, NULL, 'f'},
		{"seconds", required_argument, NULL, 'S'},
		{"size", required_argument, NULL, 'b'},
		{"json", no_argument, NULL, 'j'},
		{"socket", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int opt;

	*ret_status = 0;
	while ((opt = getopt_long(argc, argv, "c:p:t:e:o:nfS:b:js:h", table, NULL)) != -1) {
		if (opt == 'h') {
			printf(help, nvme_figures_default());
			return 0;
		}
		*ret_status = option_take(opt, o);
		if (*ret_status)
			return 0;
	}
	o->paths = (const char *const *)&argv[optind];
	o->path_count = (size_t)(argc - optind);
	if (o->config && o->params > 0)
		*ret_status = usage("--config and --params both say what is written", "");
	else if (!o->config && o->path_count == 0)
		*ret_status = usage("expected directories, or --config with nvme.paths", "");
	return *ret_status == 0;
}

/* The job. */

/* host.memory: auto depends on the hour; here it is what a daemon has by default, half of all. */
static void memory_settle(struct train_config *config)
{
	const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
	struct train_settled settled = {0};

	if (config->host.memory != CONF_AUTO || pages <= 0 || page_bytes <= 0)
		return;
	settled.host_memory = (uint64_t)pages * (uint64_t)page_bytes / 2;
	train_config_settle(config, &settled);
}

static int job_plan(struct job *job, const char *file, struct err *err)
{
	size_t len;
	int rc = file_load(file, CONFIG_BYTES_MAX, &job->text, &len, err);

	if (rc == 0)
		rc = train_config_parse(file, job->text, len, &job->config, &job->doc, err);
	if (rc == 0)
		memory_settle(&job->config);
	if (rc == 0)
		rc = arch_make(&job->config, &job->arch, err);
	if (rc == 0)
		rc = plan_make(&job->config, job->doc, job->arch,
			       (unsigned)job->config.device.count, &job->plan, err);
	return rc;
}

static void job_done(struct job *job)
{
	plan_free(job->plan);
	arch_free(job->arch);
	conf_free(job->doc);
	free(job->text);
}

/* What is known of the model, and where to measure. */
static int model_take(struct options *o, struct job *job, struct endurance *e, struct err *err)
{
	int rc;

	e->rating = o->rating;
	e->step_given = o->step_seconds > 0;
	e->step_seconds = o->step_seconds;
	if (o->params > 0)
		endurance_of_params(o->params, e);
	if (!o->config)
		return 0;
	rc = job_plan(job, o->config, err);
	if (rc < 0)
		return rc;
	e->params = job->plan->params;
	e->step_write_bytes = job->plan->swap.step_write_bytes * job->plan->ranks_per_host;
	e->step_read_bytes = job->plan->swap.step_read_bytes * job->plan->ranks_per_host;
	if (o->path_count > 0)
		return 0;
	o->paths = job->config.nvme.paths.at;
	o->path_count = job->config.nvme.paths.count;
	if (o->path_count == 0)
		return err_set(err, ERR_CONFIG, "%s: no nvme.paths, and no directories are given",
			       o->config);
	return 0;
}

/* Before measuring. */

static int output_check(const struct options *o, struct err *err)
{
	char copy[PATH_MAX];
	const char *dir;

	if (!o->write)
		return 0;
	if (snprintf(copy, sizeof(copy), "%s", o->output) >= (int)sizeof(copy))
		return err_sys(err, -ENAMETOOLONG, "%s", o->output);
	dir = dirname(copy);
	if (access(dir, W_OK | X_OK) < 0)
		return err_set(err, ERR_CANTCREAT,
			       "%s: %s: --output FILE writes the figures elsewhere, --no-write "
			       "nowhere",
			       o->output, err_str(-errno));
	return 0;
}

/* No daemon is as good as one without sessions. */
static int daemon_check(const struct options *o, uint64_t *ret_sessions, struct err *err)
{
	struct err why;
	uint64_t open = 0;

	if (dsctl_sessions(o->socket, &open, &why) < 0 || open == 0)
		return 0;
	*ret_sessions = open;
	if (o->force)
		return 0;
	return err_set(err, ERR_UNAVAILABLE,
		       "the daemon at %s serves %" PRIu64 " session%s, beside which figures would "
		       "be wrong: wait for them, or take --force to see them all the same",
		       o->socket, open, open == 1 ? "" : "s");
}

/* Measuring. */

struct progress {
	uint64_t shown; /* percent and one; 0: nothing yet */
	bool terminal;
};

static void progress_show(void *context, const char *what, double part)
{
	struct progress *p = context;
	uint64_t percent = (uint64_t)(part * 100 * DISK_PART);

	if (!p->terminal || p->shown == percent + 1)
		return;
	p->shown = percent + 1;
	fprintf(stderr, "\r\033[K%3" PRIu64 " %%  %.60s", percent, what);
}

static void progress_end(const struct progress *p)
{
	if (p->terminal)
		fputs("\r\033[K", stderr);
}

static void memory_measure(const struct options *o, struct bench_result *r)
{
	struct adam_speed speeds[NVME_FIGURES_STEPS_MAX];
	struct nvme_figures *f = &r->disks.figures;
	struct topo *topo;
	unsigned threads;
	int rc = topo_open(&topo, &r->memory);

	if (rc < 0)
		return;
	threads = topo_cores(topo);
	topo_free(topo);
	if (threads > ADAM_MEASURE_THREADS_MAX)
		threads = ADAM_MEASURE_THREADS_MAX;
	rc = adam_measure(adam_measure_params(), threads, o->seconds * (1 - DISK_PART), speeds,
			  NVME_FIGURES_STEPS_MAX, &r->memory);
	for (int i = 0; i < rc; i++)
		f->steps[f->step_count++] = (struct nvme_figures_step){.threads = speeds[i].threads,
								       .move = speeds[i].move,
								       .step = speeds[i].step};
}

static int measure(const struct options *o, struct bench_result *r, struct err *err)
{
	struct progress progress = {.terminal = isatty(STDERR_FILENO)};
	const struct nvme_measure_config config = {
		.paths = o->paths,
		.path_count = o->path_count,
		.file_bytes = o->size,
		.seconds = o->seconds * DISK_PART,
		.progress = progress_show,
		.context = &progress,
	};
	int rc = nvme_measure(&config, &r->disks, err);

	if (rc == 0) {
		progress_show(&progress, "memory", 1);
		memory_measure(o, r);
	}
	progress_end(&progress);
	return rc;
}

static int endurance_fill(struct bench_result *r, struct err *err)
{
	const struct nvme_figures *f = &r->disks.figures;
	uint64_t capacities[NVME_PATHS_MAX];
	struct statvfs fs;

	for (size_t i = 0; i < f->path_count; i++) {
		if (statvfs(f->paths[i].path, &fs) < 0)
			return err_sys(err, -errno, "%s: statvfs", f->paths[i].path);
		capacities[i] = (uint64_t)fs.f_blocks * fs.f_frsize;
	}
	endurance_work_out(&r->endurance, f, capacities);
	return 0;
}

static int bench(struct options *o, struct job *job, struct bench_result *r, struct err *err)
{
	int rc = model_take(o, job, &r->endurance, err);

	if (rc == 0)
		rc = output_check(o, err);
	if (rc == 0)
		rc = daemon_check(o, &r->busy_sessions, err);
	if (rc == 0)
		rc = measure(o, r, err);
	if (rc == 0)
		rc = endurance_fill(r, err);
	if (rc == 0 && o->write && r->busy_sessions == 0) {
		rc = nvme_figures_save(o->output, &r->disks.figures, err);
		r->written = rc == 0 ? o->output : NULL;
	}
	if (rc == 0)
		rc = o->json ? bench_print_json(r, err) : bench_print(r, err);
	return rc;
}

int dsctl_bench(int argc, char **argv)
{
	struct options options = {.output = nvme_figures_default(),
				  .socket = DSCTL_SOCKET,
				  .seconds = SECONDS_DEFAULT,
				  .size = SIZE_DEFAULT,
				  .write = true};
	struct job job = {.text = NULL};
	struct bench_result *result;
	struct err err = {.code = 0};
	int rc, status;

	if (!options_parse(argc, argv, &options, &status))
		return fflush(stdout) == 0 ? status : err_exit_status(ERR_IO);
	result = calloc(1, sizeof(*result));
	rc = result ? bench(&options, &job, result, &err) : err_sys(&err, -ENOMEM, "measuring");
	job_done(&job);
	free(result);
	if (rc < 0)
		fprintf(stderr, "dsctl: bench: %s\n", err.text);
	return err_exit_status(rc);
}
