/*
 * A worker's run: from the job that the launcher handed over to a model that is ready to train, and
 * the passes that everything else is made of. One thread, dsworker's main, drives it all; the
 * device's streams, the daemon and the other ranks do the work.
 *
 *	dsworker.c  main: open, loop, export, generate, summary
 *	run.c	    opening, passes		  gpt2.c	operations of a phase
 *	loop.c	    training steps		  evaluate.c, generate.c
 *	data.c	    token sequences		  checkpoint.c, safetensors.c
 *	metrics.c   what the user and the log get to see	trace.c	    what a trace gets
 *
 * 1. All ranks make the same calls of the engine in the same order: every decision that depends on
 *    one rank (a signal, a clock, a file) is agreed by engine_exchange first, or ends the job.
 * 2. A rank that fails reports and exits; it neither waits for the others nor undoes anything that
 *    they see. The launcher ends them.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "comm/news.h"
#include "common/file.h"
#include "common/log.h"
#include "worker/init.h"
#include "worker/internal.h"

#define JOB_BYTES_MAX ((off_t)16 << 20)
#define CPUS_MAX      8192
#define CACHE_LINE    64u
/* From the first rank that is ready to the last: they read the same files and the same memory. */
#define MEET_NS 120000000000ull

double run_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int run_note(struct run *run, struct err *err, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int rc;

	if (run->rank != 0)
		return 0;
	va_start(ap, fmt);
	rc = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (rc < 0)
		return err_sys(err, -ENOMEM, "a note");
	rc = report_write(run->report_fd, REPORT_NOTE, text, err);
	free(text);
	return rc;
}

static int env_number(const char *name, unsigned *ret, struct err *err)
{
	const char *text = getenv(name);
	unsigned long value;
	char *end;

	if (!text || !*text)
		return err_set(err, ERR_USAGE, "%s is not set: dsworker is started by dsrun", name);
	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || *end || value > COMM_WORLD_MAX)
		return err_set(err, ERR_USAGE, "%s: '%s' is no rank or world size", name, text);
	*ret = (unsigned)value;
	return 0;
}

static int load_job(struct run *run, struct err *err)
{
	struct stat st;
	char *text;
	int rc;

	if (fstat(JOB_FD_JOB, &st) < 0)
		return err_set(err, ERR_USAGE,
			       "no job on descriptor %d: dsworker is started by dsrun", JOB_FD_JOB);
	if (st.st_size <= 0 || st.st_size > JOB_BYTES_MAX)
		return err_set(err, ERR_PROTOCOL, "a job of %jd bytes", (intmax_t)st.st_size);
	text = malloc((size_t)st.st_size);
	if (!text)
		return err_sys(err, -ENOMEM, "reading the job");
	rc = file_pread_all(JOB_FD_JOB, text, (size_t)st.st_size, 0, err);
	if (!rc)
		rc = job_parse(text, (size_t)st.st_size, &run->job, &run->job_doc, err);
	free(text);
	if (rc < 0)
		return err_add(err, "the launcher's job");
	if (run->job.world != run->world || run->rank >= run->world)
		return err_set(err, ERR_PROTOCOL, "rank %u of %u, in a job of %ju ranks", run->rank,
			       run->world, (uintmax_t)run->job.world);
	return 0;
}

/* The job's model with so many blocks, one micro-batch, everything on the device. */
static void bare(struct run *run)
{
	struct train_config *c = &run->config;

	c->model.layers = run->job.measure;
	c->batch.global = c->batch.micro * run->world;
	c->schedule.order = ORDER_MICRO_BATCH;
	c->zero.offload_activations = PLACE_NONE;
	train_config_settle(c, &(struct train_settled){.param = 1 + PLACE_NONE,
						       .optimizer = 1 + PLACE_NONE,
						       .host_memory = 1 << 20});
	/* The host's memory is the device's: what a few blocks need is not what is asked. */
	if (c->device.type == DEVICE_CPU)
		c->device.memory = UINT64_C(1) << 60;
}

static int open_job(struct run *run, struct err *err)
{
	int rc = env_number("RANK", &run->rank, err);

	if (!rc)
		rc = env_number("WORLD_SIZE", &run->world, err);
	if (!rc)
		rc = load_job(run, err);
	if (rc < 0)
		return rc;
	log_set_rank((int)run->rank);
	rc = train_config_parse(run->job.config_name, run->job.config_text,
				strlen(run->job.config_text), &run->config, &run->config_doc, err);
	if (!rc)
		train_config_settle(&run->config, &run->job.settled);
	if (!rc && run->job.measure)
		bare(run);
	if (!rc)
		rc = train_config_accumulation(&run->config, run->config_doc, run->world,
					       &run->accumulation, err);
	if (!rc)
		rc = arch_make(&run->config, &run->arch, err);
	if (!rc)
		rc = plan_make(&run->config, run->config_doc, run->arch, run->world, &run->plan,
			       err);
	if (!rc && run->job.measure && run->config.device.type == DEVICE_CPU)
		run->config.device.memory = run->plan->device.total_bytes;
	return rc;
}

/* SIGTERM and SIGINT become a descriptor that is looked at once a step. */
static int open_signals(struct run *run, struct err *err)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || sigaction(SIGPIPE, &ignore, NULL) < 0)
		return err_sys(err, -errno, "signals");
	run->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return run->signal_fd < 0 ? err_sys(err, -errno, "signalfd") : 0;
}

/* Rank 0 alone reads every token: the shards are the same files for all ranks of a host. */
static int open_data(struct run *run, struct err *err)
{
	const struct train_config *c = &run->config;
	bool verify = run->rank == 0;
	int rc = data_open(c->data.train.at, c->data.train.count, c->data.sequence, c->model.vocab,
			   c->seed, verify, &run->train, err);

	if (!rc && c->data.validation.count)
		rc = data_open(c->data.validation.at, c->data.validation.count, c->data.sequence,
			       c->model.vocab, c->seed, verify, &run->validation, err);
	return rc;
}

/* What can be refused before memory and disk are taken. */
static int check_checkpoints(struct run *run, uint64_t *ret_step, struct err *err)
{
	struct checkpoint_job job = run_checkpoint_job(run);

	if (run->config.checkpoint.dir && run->rank == 0)
		return checkpoint_prepare(&job, run->job.resume, ret_step, &run->lock_fd, err);
	if (!run->config.checkpoint.dir && run->job.resume)
		return err_set(err, ERR_CONFIG, "%s: --resume needs checkpoint.dir",
			       run->job.config_name);
	return 0;
}

/* Threads of the device: the CPUs that the agent bound us to. */
static unsigned device_threads(void)
{
	cpu_set_t sets[CPUS_MAX / CPU_SETSIZE];
	int count;

	if (sched_getaffinity(0, sizeof(sets), sets) < 0)
		return 1;
	count = CPU_COUNT_S(sizeof(sets), sets);
	if (count < 1)
		return 1;
	return (unsigned)count < GPT2_THREADS_MAX ? (unsigned)count : GPT2_THREADS_MAX;
}

/* What NCCL's ranks meet by, on its way to all of them. */
static int publish_id(void *arg, const uint8_t id[COMM_ID_BYTES], struct err *err)
{
	const struct run *run = arg;
	char text[COMM_ID_TEXT_BYTES];

	comm_id_format(id, text);
	return report_write(run->report_fd, REPORT_COMM_ID, text, err);
}

static int open_comm(struct run *run, struct err *err)
{
	bool cuda = device_type_of(run->device) == DEVICE_CUDA;
	struct comm_config comm = {
		.backend = cuda ? COMM_NCCL : COMM_SHM,
		.rank = run->rank,
		.world = run->world,
		.shm_fd = JOB_FD_COMM,
		.device = run->device,
		.news_fd = JOB_FD_NEWS,
		.publish = publish_id,
		.publish_arg = run,
		.timeout_ns = MEET_NS,
	};

	return comm_open(&comm, &run->comm, err);
}

static int open_engine(struct run *run, struct err *err)
{
	struct device_config device = {
		.type = (enum device_type)run->config.device.type,
		.memory_bytes = run->config.device.memory,
		.threads = device_threads(),
	};
	struct engine_config engine = {
		.config = &run->config,
		.arch = run->arch,
		.plan = run->plan,
		.rank = run->rank,
		.daemon_socket = run->job.socket,
		.job = run->job.id,
		.trace = run->trace.recorder,
		.trace_lane = run->trace.lane,
	};
	int rc = 0;

	/* The agent numbers a host's workers as CUDA does its devices. */
	if (device.type == DEVICE_CUDA)
		rc = env_number("LOCAL_RANK", &device.index, err);
	if (!rc)
		rc = device_open(&device, &run->device, err);
	if (!rc)
		rc = open_comm(run, err);
	engine.device = run->device;
	engine.comm = run->comm;
	if (!rc)
		rc = engine_open(&engine, &run->engine, err);
	if (!rc)
		gpt2_init(&run->gpt2, &run->config, run->arch, run->plan->device.kept_blocks,
			  engine_compute(run->engine));
	return rc;
}

static size_t whole_lines(size_t bytes)
{
	return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

/* Host memory that the device copies from and to: one block, as whole pages of it are pinned. */
static int open_buffers(struct run *run, struct err *err)
{
	const size_t tokens = whole_lines(run->gpt2.layout.tokens * sizeof(uint32_t));
	const size_t logits = whole_lines(run->config.model.vocab * sizeof(float));
	void **const slots[] = {(void **)&run->feed.ids[0],     (void **)&run->feed.ids[1],
				(void **)&run->feed.targets[0], (void **)&run->feed.targets[1],
				(void **)&run->loss_sum,        (void **)&run->logits};
	const size_t bytes[] = {tokens, tokens, tokens, tokens, CACHE_LINE, logits};
	size_t used = 0, total = 4 * tokens + CACHE_LINE + logits;
	int rc = device_event_open(run->device, &run->result_ready, err);

	for (size_t i = 0; !rc && i < FEED_SLOTS; i++)
		rc = device_event_open(run->device, &run->feed.copied[i], err);
	if (rc < 0)
		return rc;
	run->micros = calloc(run->plan->micros, sizeof(*run->micros));
	if (!run->micros)
		return err_sys(err, -ENOMEM, "micro-batches");
	total = (total + DEVICE_ALIGN - 1) / DEVICE_ALIGN * DEVICE_ALIGN;
	run->buffers = aligned_alloc(DEVICE_ALIGN, total);
	if (!run->buffers)
		return err_sys(err, -ENOMEM, "token buffers");
	memset(run->buffers, 0, total);
	for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); used += bytes[i++])
		*slots[i] = run->buffers + used;
	return device_host_register(run->device, run->buffers, total, err);
}

/* Weights: a checkpoint's, or the first ones. */
static int load_weights(struct run *run, uint64_t step, struct err *err)
{
	struct checkpoint_job job = run_checkpoint_job(run);
	char note[CHECKPOINT_NOTE_BYTES];
	int rc = 0;

	if (run->job.resume)
		rc = checkpoint_agree(&job, &step, err);
	if (!rc && step) {
		rc = checkpoint_read(&job, step, &run->state, note, err);
		run->resumed_from = step;
		if (!rc)
			rc = run_note(run, err, "going on from step %ju%s%s", (uintmax_t)step,
				      note[0] ? ": " : "", note);
		return rc;
	}
	if (!rc && run->job.resume)
		rc = run_note(run, err, "%s: no checkpoint yet, starting from the beginning",
			      run->config.checkpoint.dir);
	return rc ? rc : init_engine(run->engine, run->arch, run->config.seed, err);
}

int run_open(struct run *run, struct err *err)
{
	uint64_t step = 0;
	int rc;

	*run = (struct run){.report_fd = JOB_FD_REPORT, .signal_fd = -1, .lock_fd = -1};
	run->metrics.fd = -1;
	run->started_at = run_now();
	rc = open_job(run, err);
	if (!rc)
		rc = open_signals(run, err);
	if (!rc && run->job.measure) {
		rc = open_engine(run, err);
		return rc ? rc : open_buffers(run, err);
	}
	if (!rc)
		rc = open_data(run, err);
	if (!rc)
		rc = check_checkpoints(run, &step, err);
	if (!rc)
		rc = metrics_open(run, err);
	if (!rc)
		rc = run_trace_open(run, err);
	if (!rc)
		rc = open_engine(run, err);
	if (!rc)
		rc = open_buffers(run, err);
	if (!rc && *engine_note(run->engine))
		rc = run_note(run, err, "%s", engine_note(run->engine));
	if (!rc)
		rc = load_weights(run, step, err);
	run->metrics.seconds[RUN_SETUP] = run_now() - run->started_at;
	return rc;
}

void run_close(struct run *run)
{
	/* The engine and the device first: they may still use what follows. */
	run->engine = engine_free(run->engine);
	run->comm = comm_free(run->comm);
	run->device = device_free(run->device);
	run_trace_close(run);
	free(run->buffers);
	free(run->micros);
	metrics_close(run);
	run->train = data_close(run->train);
	run->validation = data_close(run->validation);
	run->plan = plan_free(run->plan);
	run->arch = arch_free(run->arch);
	run->config_doc = conf_free(run->config_doc);
	run->job_doc = conf_free(run->job_doc);
	if (run->lock_fd >= 0)
		close(run->lock_fd);
	if (run->signal_fd >= 0)
		close(run->signal_fd);
}

struct checkpoint_job run_checkpoint_job(struct run *run)
{
	return (struct checkpoint_job){
		.engine = run->engine,
		.arch = run->arch,
		.config = &run->config,
		.rank = run->rank,
		.world = run->world,
	};
}

int run_feed_take(struct run *run, uint32_t **ret_ids, uint32_t **ret_targets, struct err *err)
{
	unsigned i = run->feed.next;
	uint64_t began = trace_begin(run->trace.lane);
	int rc = device_event_sync(run->feed.copied[i], err);

	trace_end(run->trace.lane, TRACE_WAIT, "token buffer", began, TRACE_NO_UNIT, 0);
	if (rc < 0)
		return rc;
	*ret_ids = run->feed.ids[i];
	*ret_targets = run->feed.targets[i];
	return 0;
}

/* One micro-batch's turn of a phase. */
static int turn(struct run *run, const struct arch_phase *phase, const struct gpt2_pass *pass,
		struct err *err)
{
	struct device_stream *stream = engine_compute(run->engine);
	struct engine_io io;
	int rc = engine_phase_begin(run->engine, &io, err);

	if (rc < 0)
		return rc;
	gpt2_phase(&run->gpt2, pass, phase, &io);
	if (phase->kind == GPT2_EMBED) {
		device_event_record(run->feed.copied[run->feed.next], stream);
		run->feed.next = (run->feed.next + 1) % FEED_SLOTS;
	}
	if (phase->kind == GPT2_HEAD)
		device_event_record(run->result_ready, stream);
	rc = engine_phase_end(run->engine, err);
	return rc ? rc : run_trace_relieve(run, err);
}

int run_pass(struct run *run, const struct gpt2_pass *pass, struct err *err)
{
	int rc = engine_pass_begin(run->engine, ENGINE_EVAL, err);

	for (size_t i = 0; !rc && i < run->arch->eval_count; i++)
		rc = turn(run, &run->arch->eval[i], pass, err);
	return rc ? rc : engine_pass_end(run->engine, err);
}

/* One phase of the pass whose first micro-batch is `first`. */
static int train_phase(struct run *run, uint64_t first, size_t phase, run_micro_fn *fill, void *arg,
		       struct err *err)
{
	int rc = 0;

	for (uint64_t m = 0; !rc && m < run->plan->micros; m++) {
		if (phase == 0)
			rc = fill(run, arg, first + m, &run->micros[m], err);
		if (!rc)
			rc = turn(run, &run->arch->train[phase], &run->micros[m], err);
	}
	return rc;
}

int run_train(struct run *run, run_micro_fn *fill, void *arg, struct err *err)
{
	int rc = 0;

	for (uint64_t first = 0; !rc && first < run->accumulation; first += run->plan->micros) {
		rc = engine_pass_begin(run->engine, ENGINE_TRAIN, err);
		for (size_t i = 0; !rc && i < run->arch->train_count; i++)
			rc = train_phase(run, first, i, fill, arg, err);
		if (!rc)
			rc = engine_pass_end(run->engine, err);
	}
	return rc;
}

int run_result_wait(struct run *run, struct err *err)
{
	uint64_t began = trace_begin(run->trace.lane);
	int rc = device_event_sync(run->result_ready, err);

	trace_end(run->trace.lane, TRACE_WAIT, "loss", began, TRACE_NO_UNIT, 0);
	return rc;
}
