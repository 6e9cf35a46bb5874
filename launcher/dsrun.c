/*
 * dsrun: trains what a train.yaml describes. This file leads from the command line to an exit
 * status; supervise.c runs the job, agent.c is the other end of it (`dsrun agent`, which dsrun
 * starts itself).
 *
 * 1. Everything that can be wrong before the first process starts is found before.
 * 2. With --summary, the file is written whatever happens after the command line was understood;
 *    with --trace, whatever happens after the job was started.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/comm.h"
#include "common/conf.h"
#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "kernels/device.h"
#include "launcher/agent.h"
#include "launcher/launch.h"
#include "launcher/measure.h"
#include "launcher/options.h"
#include "launcher/outcome.h"
#include "launcher/settle.h"
#include "launcher/summary.h"
#include "launcher/supervise.h"
#include "launcher/trace_json.h"
#include "offload/arch.h"
#include "offload/plan.h"
#include "offload/train_config.h"
#include "offload/tuned.h"

#define SYSTEM_SOCKET "/run/dsoffload/dsoffload.sock"
/* It travels inside the job's text, where escapes may make it several times as long. */
#define CONFIG_BYTES_MAX ((size_t)128 << 10)

/* All that is known before anything runs. */
struct prepared {
	char *text;
	struct conf_doc *doc;
	struct train_config config;
	struct settle_result chosen; /* where it said auto */
	struct tuned tuned;
	struct arch *arch;
	struct plan *plan;
};

static void prepared_done(struct prepared *p)
{
	plan_free(p->plan);
	arch_free(p->arch);
	conf_free(p->doc);
	free(p->text);
}

/* Where a daemon of the node is looked for; NULL when the job is to have its own. */
static const char *daemon_socket(const struct options *o)
{
	if (!o->daemon)
		return SYSTEM_SOCKET;
	return strcmp(o->daemon, "private") == 0 ? NULL : o->daemon;
}

static int print_plan(const struct options *o, const struct prepared *p, struct err *err)
{
	if (!o->json) {
		if (p->chosen.predicted)
			predict_print(&p->chosen.table, &p->chosen.rates, stdout);
		int rc = plan_print(p->plan, &p->config, stdout);

		if (rc == 0 && fflush(stdout) != 0)
			rc = -errno;
		return rc < 0 ? err_sys(err, rc, "standard output") : 0;
	}

	struct json j;
	json_init(&j);
	json_object_begin(&j, NULL);
	plan_json(p->plan, &j);
	if (p->chosen.predicted)
		predict_json(&p->chosen.table, &p->chosen.rates, &j);
	json_object_end(&j);
	const char *text = json_text(&j);
	int rc = text ? file_write_all(STDOUT_FILENO, text, strlen(text), err)
		      : err_sys(err, -ENOMEM, "plan");
	if (rc == 0)
		rc = file_write_all(STDOUT_FILENO, "\n", 1, err);
	json_done(&j);
	return rc;
}

/* A program of ours: what `env` says (for tests), beside this one, or where it was installed. */
static int find_program(const char *env, const char *name, const char *installed,
			char ret[PATH_MAX], struct err *err)
{
	const char *given = getenv(env);

	if (given) {
		snprintf(ret, PATH_MAX, "%s", given);
		return 0;
	}
	char self[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (len < 0)
		return err_sys(err, -errno, "/proc/self/exe");
	self[len] = '\0';
	*strrchr(self, '/') = '\0';
	if (snprintf(ret, PATH_MAX, "%s/%s", self, name) < PATH_MAX && access(ret, X_OK) == 0)
		return 0;
	snprintf(ret, PATH_MAX, "%s/%s", installed, name);
	if (access(ret, X_OK) == 0)
		return 0;
	return err_set(err, ERR_UNAVAILABLE, "%s: neither in %s nor in %s", name, self, installed);
}

/* Hours of work must not end at a directory that could not be written to from the start. */
static int check_output(const char *what, const char *path, struct err *err)
{
	char dir[PATH_MAX];
	struct stat st;

	if (!path)
		return 0;
	if (snprintf(dir, sizeof(dir), "%s", path) >= (int)sizeof(dir))
		return err_set(err, ERR_CANTCREAT, "%s %s: the name is too long", what, path);
	char *slash = strrchr(dir, '/');
	if (!slash)
		snprintf(dir, sizeof(dir), ".");
	else
		slash[slash == dir] = '\0';
	if (access(dir, W_OK | X_OK) < 0)
		return err_set(err, ERR_CANTCREAT, "%s %s: %s", what, path, err_str(-errno));
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return err_set(err, ERR_CANTCREAT, "%s %s: %s", what, path, err_str(-EISDIR));
	return 0;
}

static int make_id(char ret[64], struct err *err)
{
	uint32_t random;

	if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return err_sys(err, -errno, "getrandom");
	snprintf(ret, 64, "%d-%08x", (int)getpid(), random);
	return 0;
}

struct programs {
	char id[64], worker[PATH_MAX], daemon[PATH_MAX];
};

static int fill_launch(const struct options *o, const struct prepared *p, struct programs *programs,
		       struct launch *ret, struct err *err)
{
	int rc = make_id(programs->id, err);

	if (rc == 0)
		rc = find_program("DSRUN_WORKER", "dsworker", DSRUN_LIBEXECDIR, programs->worker,
				  err);
	if (rc == 0)
		rc = find_program("DSRUN_DAEMON", "dsoffloadd", DSRUN_SBINDIR, programs->daemon,
				  err);
	if (rc < 0)
		return rc;
	*ret = (struct launch){
		.job =
			{
				.id = programs->id,
				.config_name = o->config,
				.config_text = p->text,
				.settled = p->chosen.settled,
				.world = p->config.device.count,
				.resume = o->resume,
				.export_path = o->export_path,
				.generate = o->generate,
				.prompt = o->prompt,
				.trace_first = o->trace_steps.first,
				.trace_last = o->trace_steps.last,
			},
		.daemon = LAUNCH_DAEMON_AUTO,
		.socket = o->daemon ? o->daemon : SYSTEM_SOCKET,
		.daemon_memory_bytes = p->config.host.memory,
		.daemon_threads = p->config.host.threads,
		.daemon_paths = p->config.nvme.paths,
		.daemon_tuned = p->config.nvme.tuned,
		.worker_path = programs->worker,
		.daemon_path = programs->daemon,
		.cuda = p->config.device.type == DEVICE_CUDA,
		.grace_ns = o->grace_ns,
		.log_level = o->log_level,
		.log_format = o->log_format,
	};
	if (p->plan && !p->plan->needs_daemon)
		ret->daemon = LAUNCH_DAEMON_NONE;
	else if (!daemon_socket(o))
		ret->daemon = LAUNCH_DAEMON_PRIVATE;
	else if (o->daemon)
		ret->daemon = LAUNCH_DAEMON_NAMED;
	return 0;
}

struct measuring {
	const struct options *options;
	const struct prepared *prepared;
};

/* As settle.h has it. */
static int measure(void *context, struct predict_rates *ret, struct err *err)
{
	const struct measuring *m = context;
	struct programs programs;
	struct launch launch;
	int rc = fill_launch(m->options, m->prepared, &programs, &launch, err);

	if (rc < 0)
		return rc;
	launch.job.settled.extent = m->prepared->config.nvme.extent;
	launch.job.settled.queue_depth = m->prepared->config.nvme.queue_depth;
	return measure_host(&launch, &m->prepared->config, ret, err);
}

/* What the configuration leaves to this machine. */
static int choose(const struct options *o, struct prepared *p, struct err *err)
{
	struct measuring measuring = {o, p};
	const struct settle settling = {.config = &p->config,
					.doc = p->doc,
					.arch = p->arch,
					.socket = daemon_socket(o),
					.measure = measure,
					.context = &measuring};

	return settle(&settling, &p->chosen, err);
}

static int prepare(const struct options *o, struct prepared *ret, struct err *err)
{
	size_t len;
	int rc = file_load(o->config, CONFIG_BYTES_MAX, &ret->text, &len, err);

	if (rc == 0)
		rc = train_config_parse(o->config, ret->text, len, &ret->config, &ret->doc, err);
	if (rc == 0)
		rc = tuned_apply(&ret->config, ret->doc, &ret->tuned, err);
	if (rc == 0)
		rc = arch_make(&ret->config, &ret->arch, err);
	if (rc == 0)
		rc = choose(o, ret, err);
	ret->chosen.settled.extent = ret->config.nvme.extent;
	ret->chosen.settled.queue_depth = ret->config.nvme.queue_depth;
	if (rc == 0)
		rc = plan_make(&ret->config, ret->doc, ret->arch,
			       (unsigned)ret->config.device.count, &ret->plan, err);
	return rc;
}

/* A failure for people, or for machines when they read the log. */
static void report(const struct options *o, const struct outcome *outcome)
{
	struct err err = {0};
	struct json j;

	if (outcome->status == OUTCOME_OK)
		return;
	if (o->log_format == LOG_FORMAT_JSON && outcome->status == OUTCOME_FAILED) {
		json_init(&j);
		json_object_begin(&j, NULL);
		json_string(&j, "level", "error");
		json_string(&j, "module", "launcher");
		json_i64(&j, "exit_status", outcome->exit_status);
		json_object_begin(&j, "failure");
		outcome_json(outcome, &j);
		json_object_end(&j);
		json_object_end(&j);
		if (json_text(&j) &&
		    file_write_all(STDERR_FILENO, json_text(&j), strlen(json_text(&j)), &err) == 0)
			(void)file_write_all(STDERR_FILENO, "\n", 1, &err);
		json_done(&j);
		return;
	}
	char *text = outcome_report(outcome);
	if (text)
		(void)file_write_all(STDERR_FILENO, text, strlen(text), &err);
	else
		log_error("launcher", "no memory for the report, exit status %d",
			  outcome->exit_status);
	free(text);
}

/* Of --trace; all NULL without it, or when the job was not started. */
struct tracing {
	struct trace_job *job;
	struct trace_table *table;
};

static void tracing_done(struct tracing *t)
{
	trace_table_free(t->table);
	trace_job_free(t->job);
}

/* The file. A job that failed has a trace too, as far as it went. */
static int tracing_write(const struct options *o, struct tracing *t, struct err *err)
{
	int rc;

	if (!t->job)
		return 0;
	trace_job_finish(t->job);
	rc = trace_table_make(t->job, &t->table, err);
	return rc < 0 ? rc : trace_json_write(o->trace, t->job, t->table, err);
}

static int tracing_print(const struct options *o, const struct tracing *t, struct err *err)
{
	char *text;
	int rc;

	if (!t->table || o->quiet)
		return 0;
	text = trace_table_text(t->table, o->trace);
	rc = text ? file_write_all(STDOUT_FILENO, text, strlen(text), err)
		  : err_sys(err, -ENOMEM, "table of the trace");
	free(text);
	return rc;
}

static int run(const struct options *o, const struct prepared *p, struct tracing *tracing,
	       struct outcome *ret, struct job_view **ret_view, struct err *err)
{
	struct programs programs;
	struct launch launch;
	int rc = check_output("--export", o->export_path, err);

	if (rc == 0)
		rc = check_output("--trace", o->trace, err);
	if (rc == 0)
		rc = fill_launch(o, p, &programs, &launch, err);
	if (rc == 0 && o->trace)
		rc = trace_job_open((unsigned)launch.job.world, p->plan, &tracing->job, err);
	if (rc < 0)
		return rc;

	struct supervise config = {
		.launch = &launch,
		.quiet = o->quiet,
		.tee = o->tee,
		.stop_timeout_ns = o->stop_timeout_ns,
		.trace = tracing->job,
	};
	*ret_view = supervise_run(&config, ret);
	return 0;
}

/* A failure to tell of the run, which is not the run's own. */
static void note_failure(struct outcome *outcome, int rc, const struct err *err)
{
	if (rc >= 0)
		return;
	log_error("launcher", "%s", err->text);
	if (outcome->exit_status == 0)
		outcome->exit_status = err_exit_status(rc);
}

/* A choice is said; figures that are there and do not hold are a reason to measure again. */
static void tuned_tell(const struct tuned *t)
{
	if (t->found == NVME_TUNED_IGNORED)
		log_warn("launcher", "%s", t->note);
	else if (t->note[0])
		log_info("launcher", "%s", t->note);
}

/* Runs the job, or fails to; then tells, on standard error and output, in trace and summary. */
static int train(const struct options *o)
{
	struct prepared prepared = {0};
	struct tracing tracing = {0};
	struct outcome outcome = {0};
	struct job_view *view = NULL;
	struct err err = {0}, trace_err = {0};
	int rc = check_output("--summary", o->summary, &err), trace_rc;

	if (rc == 0)
		rc = prepare(o, &prepared, &err);
	if (rc == 0 && prepared.plan->needs_swap)
		tuned_tell(&prepared.tuned);
	if (rc == 0)
		rc = run(o, &prepared, &tracing, &outcome, &view, &err);
	if (rc < 0)
		supervise_fail(&outcome, &err);
	/* Before anything that a stalled terminal could keep us at. */
	trace_rc = tracing_write(o, &tracing, &trace_err);
	if (trace_rc < 0 && outcome.exit_status == 0)
		outcome.exit_status = err_exit_status(trace_rc);
	struct summary_trace trace = {o->trace, tracing.table};
	rc = o->summary ? summary_write(o->summary, &outcome, o->adds, o->add_count,
					tracing.table ? &trace : NULL, &err)
			: 0;
	supervise_flush(view);
	if (trace_rc == 0)
		trace_rc = tracing_print(o, &tracing, &trace_err);
	report(o, &outcome);
	note_failure(&outcome, trace_rc, &trace_err);
	note_failure(&outcome, rc, &err);
	supervise_free(view);
	tracing_done(&tracing);
	prepared_done(&prepared);
	return outcome.exit_status;
}

/* --plan and --check: looks, and starts nothing. */
static int look(const struct options *o)
{
	struct prepared prepared = {0};
	struct err err = {0};
	int rc = prepare(o, &prepared, &err);

	if (rc == 0 && prepared.tuned.found == NVME_TUNED_IGNORED && prepared.plan->needs_swap)
		fprintf(stderr, "dsrun: %s\n", prepared.tuned.note);
	if (rc == 0 && o->plan)
		rc = print_plan(o, &prepared, &err);
	if (rc == 0 && o->check && !o->quiet &&
	    (printf("%s: good\n", o->config) < 0 || fflush(stdout) != 0))
		rc = err_sys(&err, -errno, "standard output");
	if (rc < 0)
		fprintf(stderr, "dsrun: %s\n", err.text);
	prepared_done(&prepared);
	return err_exit_status(rc);
}

static int print(const char *text)
{
	struct err err = {0};
	int rc = file_write_all(STDOUT_FILENO, text, strlen(text), &err);

	if (rc < 0)
		fprintf(stderr, "dsrun: standard output: %s\n", err.text);
	return err_exit_status(rc);
}

static int print_version(void)
{
	const bool cuda = device_built(DEVICE_CUDA), nccl = comm_backend_built(COMM_NCCL);
	char text[256];

	snprintf(text, sizeof(text),
		 "dsrun " DSRUN_VERSION "\n"
		 "devices      cpu (scalar, AVX2, AVX-512)%s\n"
		 "collectives  shm%s\n"
		 "swap engines io_uring, libaio\n"
		 "left out     %s%smpi\n",
		 cuda ? ", cuda (sm_80, sm_90, PTX)" : "", nccl ? ", nccl" : "",
		 cuda ? "" : "cuda, ", nccl ? "" : "nccl, ");
	return print(text);
}

int main(int argc, char **argv)
{
	struct options options;
	struct err err = {0};

	if (argc == 2 && strcmp(argv[1], "agent") == 0)
		return agent_main();
	int rc = options_parse(argc, argv, &options, &err);
	if (rc < 0) {
		fprintf(stderr, "dsrun: %s\nTry 'dsrun --help'.\n", err.text);
		return err_exit_status(rc);
	}
	if (options.help)
		return print(options_usage);
	if (options.version)
		return print_version();
	log_init("dsrun", (enum log_level)options.log_level, (enum log_format)options.log_format);
	return options.plan || options.check ? look(&options) : train(&options);
}
