/* A private dsoffloadd, sessions with it, and the same arithmetic on plain arrays. */
#include "tests/daemon_bed.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/file.h"
#include "common/shm.h"
#include "kernels/vector.h"

#define WAIT_TRIES 1000
#define WAIT_MS    10

/* The daemon. */

const char *bed_program(void)
{
	static char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 32);

	ck_assert_int_gt(n, 0);
	path[n] = '\0';
	*strrchr(path, '/') = '\0';
	strcpy(strrchr(path, '/'), "/bin/dsoffloadd");
	return path;
}

static int listen_at(const char *name)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));

	memcpy(a.sun_path, name, strlen(name));
	a.sun_path[0] = '\0';
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, len), 0);
	ck_assert_int_eq(listen(fd, 64), 0);
	return fd;
}

/* In the child. Only async-signal-safe calls and setenv, before exec. */
static void exec_daemon(int listen_fd, int conf_fd, int log_fd, const char *path)
{
	char pid[32];

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when the test fails */
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	/* All three above what they are to become. */
	listen_fd = fcntl(listen_fd, F_DUPFD, 10);
	conf_fd = fcntl(conf_fd, F_DUPFD, 10);
	dup2(log_fd, 2);
	dup2(listen_fd, 3);
	dup2(conf_fd, 4);
	close_range(5, ~0u, 0);
	execl(path, path, "--config", "/proc/self/fd/4", (char *)NULL);
	_exit(127);
}

static void directories_make(struct bed_daemon *d, const char *base)
{
	snprintf(d->dir, sizeof(d->dir), "%s/t_daemon.XXXXXX", base);
	ck_assert_ptr_nonnull(mkdtemp(d->dir));
	for (int i = 0; i < 2; i++) {
		ck_assert_int_lt(
			snprintf(d->swap[i], sizeof(d->swap[i]), "%.200s/swap%d", d->dir, i),
			sizeof(d->swap[i]));
		ck_assert_int_eq(mkdir(d->swap[i], 0700), 0);
	}
	snprintf(d->log, sizeof(d->log), "%s/log", d->dir);
}

void bed_start(struct bed_daemon *d, const char *conf)
{
	const char *tmp = getenv("TMPDIR");

	bed_start_in(d, tmp ? tmp : "/tmp", conf);
}

void bed_start_in(struct bed_daemon *d, const char *base, const char *conf)
{
	static unsigned counter;
	struct err err;
	const char *path = bed_program();
	char text[4096];
	int listen_fd, conf_fd, log_fd, len;

	directories_make(d, base);
	snprintf(d->socket, sizeof(d->socket), "@t_daemon-%d-%u", (int)getpid(), counter++);
	len = snprintf(text, sizeof(text), "socket: \"%s\"\n%s", d->socket, conf);
	ck_assert_int_lt(len, sizeof(text));
	listen_fd = listen_at(d->socket);
	conf_fd = shm_copy("dsoffload.conf", text, (size_t)len, &err);
	log_fd = open(d->log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
	ck_assert(conf_fd >= 0 && log_fd >= 0);
	d->pid = fork();
	ck_assert_int_ge(d->pid, 0);
	if (d->pid == 0)
		exec_daemon(listen_fd, conf_fd, log_fd, path);
	close(listen_fd);
	close(conf_fd);
	close(log_fd);
}

int bed_wait(struct bed_daemon *d)
{
	int status;

	ck_assert_int_eq(waitpid(d->pid, &status, 0), d->pid);
	d->pid = 0;
	return status;
}

char *bed_log(const struct bed_daemon *d)
{
	struct err err;
	size_t len;
	char *text;

	ck_assert_msg(file_load(d->log, 64 << 20, &text, &len, &err) == 0, "%s", err.text);
	return text;
}

void bed_stop(struct bed_daemon *d)
{
	int status;

	kill(d->pid, SIGTERM);
	status = bed_wait(d);
	if (status != 0) {
		char *log = bed_log(d);

		ck_abort_msg("the daemon ended with wait status 0x%x; its log: %s", status, log);
	}
	bed_clean(d);
}

void bed_clean(struct bed_daemon *d)
{
	struct err err;

	if (d->pid > 0) {
		kill(d->pid, SIGKILL);
		bed_wait(d);
	}
	ck_assert_msg(file_remove_tree(d->dir, &err) == 0, "%s", err.text);
}

static unsigned fds_now(pid_t pid)
{
	char path[64];
	unsigned count = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

unsigned bed_fds(const struct bed_daemon *d)
{
	unsigned least = fds_now(d->pid), now;

	/* The connection of who just asked for something is open a moment longer. */
	for (int same = 0; same < 20; same++) {
		poll(NULL, 0, 1);
		now = fds_now(d->pid);
		if (now < least) {
			least = now;
			same = 0;
		}
	}
	return least;
}

uint64_t bed_status(const struct bed_daemon *d, const char *key)
{
	const char *part = key, *at;
	char *text, name[64];
	struct err err;
	uint64_t value;

	ck_assert_msg(client_query(d->socket, PROTOCOL_QUERY_STATUS, &text, &err) == 0, "%s",
		      err.text);
	/* The keys asked for are told apart by the section in front of them. */
	for (at = text; at && part; part = strchr(part, '.') ? strchr(part, '.') + 1 : NULL) {
		snprintf(name, sizeof(name), "\"%.*s\":", (int)strcspn(part, "."), part);
		at = strstr(at, name);
		if (at)
			at += strlen(name);
	}
	ck_assert_msg(at != NULL, "%s is not in %s", key, text);
	value = strtoull(at, NULL, 10);
	free(text);
	return value;
}

void bed_await_sessions(const struct bed_daemon *d, uint64_t count)
{
	for (int i = 0; i < WAIT_TRIES; i++) {
		if (bed_status(d, "sessions.open") == count)
			return;
		poll(NULL, 0, WAIT_MS);
	}
	ck_abort_msg("%llu sessions are open, not %llu",
		     (unsigned long long)bed_status(d, "sessions.open"), (unsigned long long)count);
}

/* Sessions. */

uint64_t bed_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static float random_float(uint64_t *state)
{
	return (float)((double)(int64_t)bed_random(state) * 0x1p-63);
}

void bed_case_homes(struct bed_case *c, uint8_t param, uint8_t state, uint8_t grad)
{
	memset(c->param_home, param, BED_UNITS);
	memset(c->state_home, state, BED_UNITS);
	memset(c->grad_home, grad, BED_UNITS);
}

const char *bed_case_text(const struct bed_case *c)
{
	static char text[256];
	size_t n = (size_t)snprintf(
		text, sizeof(text), "%s, moments %s, %s parameters, %s gradients%s, %s, homes",
		optimizer_kind_names[c->kind], optimizer_moments_names[c->moments],
		c->param_type == DTYPE_F32 ? "fp32" : "bf16",
		c->grad_type == DTYPE_F32 ? "fp32" : "bf16", c->accumulate ? " accumulated" : "",
		nvme_engine_name(c->engine));

	for (unsigned u = 0; u < BED_UNITS; u++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, " %u%u%u", c->param_home[u],
				      c->state_home[u], c->grad_home[u]);
	return text;
}

static uint64_t carve(uint64_t *at, uint64_t bytes)
{
	uint64_t offset = *at;

	*at += (bytes + PROTOCOL_ALIGN_BYTES - 1) / PROTOCOL_ALIGN_BYTES * PROTOCOL_ALIGN_BYTES;
	return offset;
}

/* Several chunks and a tail; whole chunks; less than one. */
static void units_lay_out(struct bed_session *s, uint32_t ring_slots)
{
	static const uint64_t blocks[BED_UNITS] = {7, 12, 1};
	uint64_t start = protocol_data_offset(ring_slots), at = start;

	for (unsigned u = 0; u < BED_UNITS; u++) {
		struct bed_unit *b = &s->units[u];

		b->elems = blocks[u] * PROTOCOL_ALIGN_ELEMS;
		b->decay = b->elems / 3 + 5 * u;
		b->norm_first = u == 0 ? PROTOCOL_ALIGN_ELEMS : 0;
		b->norm_elems = u == 0 ? 4 * PROTOCOL_ALIGN_ELEMS : b->elems;
		b->param_offset = carve(&at, b->elems * 4);
		b->fetch_offset = carve(&at, b->elems * 4);
		b->grad_offset[0] = carve(&at, b->elems * 4);
		b->grad_offset[1] = carve(&at, b->elems * 4);
	}
	for (unsigned i = 0; i < BED_BLOBS; i++) {
		s->blob_bytes[i] = (3 + 8 * i) * PROTOCOL_ALIGN_BYTES;
		s->blob_offset[i] = carve(&at, s->blob_bytes[i]);
	}
	s->transfer_offset = carve(&at, 12 * BED_CHUNK_ELEMS);
	s->data_bytes = at - start;
}

static bool in_swap(const struct bed_case *c)
{
	return memchr(c->param_home, PROTOCOL_HOME_SWAP, BED_UNITS) ||
	       memchr(c->state_home, PROTOCOL_HOME_SWAP, BED_UNITS) ||
	       memchr(c->grad_home, PROTOCOL_HOME_SWAP, BED_UNITS);
}

/* Units lie in a model of their own; it is large. */
static uint64_t position_of(unsigned u)
{
	return ((uint64_t)u << 33) + 3 * PROTOCOL_ALIGN_ELEMS;
}

void bed_request(struct bed_session *s, const struct bed_case *c, const struct bed_daemon *d,
		 struct client_config *ret, struct protocol_unit units[BED_UNITS])
{
	struct protocol_open *o = &ret->open;

	*ret = (struct client_config){
		.socket = d->socket,
		.job = "test",
		.rank = 0,
		.world = 1,
		.units = units,
		.blobs = s->blob_bytes,
	};
	o->ring_slots = 16;
	units_lay_out(s, o->ring_slots);
	o->data_bytes = s->data_bytes;
	o->chunk_elems = BED_CHUNK_ELEMS;
	o->chunk_buffers = in_swap(c) ? c->chunk_buffers : 0;
	o->param_type = (uint8_t)c->param_type;
	o->grad_type = (uint8_t)c->grad_type;
	o->accumulate = c->accumulate;
	o->engine = (uint8_t)c->engine;
	o->queue_depth = c->queue_depth;
	o->blob_extent_bytes = 2 * PROTOCOL_ALIGN_BYTES;
	o->unit_count = BED_UNITS;
	o->blob_count = c->path_count > 0 ? BED_BLOBS : 0;
	o->path_count = c->path_count;
	o->flags = c->traced ? PROTOCOL_OPEN_TRACE : 0;
	o->optimizer = (uint8_t)c->kind;
	o->moments = (uint8_t)c->moments;
	o->beta1 = 0.9;
	o->beta2 = 0.95;
	o->eps = 1e-8;
	o->momentum = 0.8;
	o->weight_decay = 0.1;
	o->seed = 77;
	for (unsigned i = 0; i < c->path_count; i++)
		strcpy(o->paths[i], d->swap[i]);
	for (unsigned u = 0; u < BED_UNITS; u++)
		units[u] = (struct protocol_unit){
			.elems = s->units[u].elems,
			.decay_elems = s->units[u].decay,
			.norm_first = s->units[u].norm_first,
			.norm_elems = s->units[u].norm_elems,
			.position = position_of(u),
			.param_offset = s->units[u].param_offset,
			.param_home = c->param_home[u],
			.state_home = c->state_home[u],
			.grad_home = c->grad_home[u],
		};
}

int bed_open(struct bed_session *s, const struct bed_case *c, const struct bed_daemon *d,
	     struct err *err)
{
	struct protocol_unit units[BED_UNITS];
	struct client_config config;
	uint64_t bytes;
	int rc;

	*s = (struct bed_session){.setup = *c, .random = 42};
	bed_request(s, c, d, &config, units);
	rc = client_open(&config, &s->client, err);
	if (rc < 0)
		return rc;
	s->arena = client_arena(s->client, &bytes);
	for (unsigned u = 0; u < BED_UNITS; u++) {
		struct bed_unit *b = &s->units[u];

		b->param = calloc(b->elems, 4);
		b->kept = calloc(b->elems, 4);
		b->hi = calloc(b->elems, 2);
		b->state_mem =
			calloc(1, optimizer_state_bytes(c->kind, c->moments, DTYPE_BF16, b->elems));
		b->state = optimizer_state_at(c->kind, c->moments, DTYPE_BF16, b->state_mem,
					      b->elems, 0);
	}
	return 0;
}

void bed_close(struct bed_session *s)
{
	s->client = client_free(s->client);
	for (unsigned u = 0; u < BED_UNITS; u++) {
		struct bed_unit *b = &s->units[u];

		free(b->param);
		free(b->kept);
		free(b->hi);
		free(b->state_mem);
	}
}

static uint32_t submit(struct bed_session *s, struct protocol_submission sub)
{
	struct err err;
	uint32_t id = 0;

	ck_assert_msg(client_submit(s->client, &sub, &id, &err) == 0, "%s", err.text);
	return id;
}

static struct protocol_completion await(struct bed_session *s, uint32_t id)
{
	struct protocol_completion done;
	struct err err;

	ck_assert_msg(client_wait(s->client, id, &done, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(done.id, id);
	return done;
}

static uint64_t chunk_elems(const struct bed_unit *b, uint64_t first)
{
	return b->elems - first < BED_CHUNK_ELEMS ? b->elems - first : BED_CHUNK_ELEMS;
}

/* Where in the reference's state chunk `first` begins. */
static struct optimizer_state state_from(const struct bed_session *s, const struct bed_unit *b,
					 uint64_t first)
{
	return optimizer_state_at(s->setup.kind, s->setup.moments, DTYPE_BF16, b->state_mem,
				  b->elems, first);
}

/* Random master weights and moments of a chunk at `to`, and in the reference. */
static void chunk_make(struct bed_session *s, struct bed_unit *b, uint64_t first, float *to)
{
	const uint64_t n = chunk_elems(b, first);
	const struct optimizer_state state = state_from(s, b, first);
	float *m = to + n, *v = to + 2 * n;

	for (uint64_t i = 0; i < n; i++) {
		to[i] = b->param[first + i] = random_float(&s->random);
		bf16_split(to[i], &b->hi[first + i], &state.lo[i]);
		m[i] = random_float(&s->random) * 1e-3f;
		v[i] = random_float(&s->random) * random_float(&s->random) * 1e-3f;
		v[i] = v[i] < 0 ? -v[i] : v[i];
		/* What adds up squares. */
		if (s->setup.kind == OPTIMIZER_ADAGRAD)
			m[i] = v[i];
	}
	optimizer_moments_import(s->setup.kind, s->setup.moments, &state, n,
				 (const float *const[]){m, v});
}

void bed_import(struct bed_session *s)
{
	float *to = (float *)(void *)(s->arena + s->transfer_offset);

	for (unsigned u = 0; u < BED_UNITS; u++) {
		struct bed_unit *b = &s->units[u];

		for (uint64_t first = 0; first < b->elems; first += BED_CHUNK_ELEMS) {
			chunk_make(s, b, first, to);
			await(s, submit(s, (struct protocol_submission){
						   .op = PROTOCOL_OP_IMPORT,
						   .unit = u,
						   .chunk = (uint32_t)(first / BED_CHUNK_ELEMS),
						   .offset = s->transfer_offset}));
		}
	}
}

/* A chunk that came out at `from` is the reference's. */
static void chunk_compare(const struct bed_session *s, const struct bed_unit *b, uint64_t first,
			  const float *from)
{
	float moments[2][BED_CHUNK_ELEMS];
	const uint64_t n = chunk_elems(b, first);
	const struct optimizer_state state = state_from(s, b, first);

	for (uint64_t i = 0; i < n && s->setup.param_type == DTYPE_BF16; i++)
		b->param[first + i] = bf16_join(b->hi[first + i], state.lo[i]);
	ck_assert_mem_eq(from, b->param + first, n * 4);
	optimizer_moments_export(s->setup.kind, s->setup.moments, &state, n,
				 (float *const[]){moments[0], moments[1]});
	for (unsigned i = 0; i < optimizer_moment_count(s->setup.kind); i++)
		ck_assert_mem_eq(from + (1 + i) * n, moments[i], n * 4);
}

void bed_export(struct bed_session *s)
{
	float *from = (float *)(void *)(s->arena + s->transfer_offset);

	for (unsigned u = 0; u < BED_UNITS; u++) {
		struct bed_unit *b = &s->units[u];

		for (uint64_t first = 0; first < b->elems; first += BED_CHUNK_ELEMS) {
			await(s, submit(s, (struct protocol_submission){
						   .op = PROTOCOL_OP_EXPORT,
						   .unit = u,
						   .chunk = (uint32_t)(first / BED_CHUNK_ELEMS),
						   .offset = s->transfer_offset}));
			chunk_compare(s, b, first, from);
		}
	}
}

static void gradient_make(struct bed_session *s, uint64_t offset, uint64_t elems)
{
	float *f = (float *)(void *)(s->arena + offset);
	uint16_t *h = (uint16_t *)(void *)(s->arena + offset);

	for (uint64_t i = 0; i < elems; i++) {
		if (s->setup.grad_type == DTYPE_F32)
			f[i] = random_float(&s->random);
		else
			h[i] = bf16_from_float(random_float(&s->random));
	}
}

static double reference_sum(const struct bed_unit *b, enum dtype kept_type)
{
	double blocks[16], sum = 0;

	ck_assert_uint_le(b->norm_elems / VECTOR_BLOCK, 16);
	vector_host_sumsq(blocks, (const char *)b->kept + b->norm_first * dtype_bytes(kept_type),
			  kept_type, b->norm_elems);
	for (uint64_t i = 0; i < b->norm_elems / VECTOR_BLOCK; i++)
		sum += blocks[i];
	return sum;
}

/* The unit's gradient of this step, through GRADs if the daemon keeps it. Returns its type. */
static enum dtype gradient_give(struct bed_session *s, unsigned u)
{
	struct bed_unit *b = &s->units[u];
	const struct bed_case *c = &s->setup;
	enum dtype kept_type = c->accumulate ? DTYPE_F32 : c->grad_type;
	unsigned count = c->accumulate ? 3 : 1;
	bool keeps = c->grad_home[u] != PROTOCOL_HOME_NONE;
	uint32_t id[2] = {0, 0};

	if (!keeps) {
		gradient_make(s, b->grad_offset[0], b->elems);
		memcpy(b->kept, s->arena + b->grad_offset[0], b->elems * dtype_bytes(c->grad_type));
		return c->grad_type;
	}
	for (unsigned i = 0; i < count; i++) {
		if (i >= 2)
			await(s, id[i % 2]);
		gradient_make(s, b->grad_offset[i % 2], b->elems);
		if (i > 0)
			vector_host_accumulate(b->kept, s->arena + b->grad_offset[i % 2],
					       c->grad_type, b->elems);
		else
			vector_host_convert(b->kept, kept_type, s->arena + b->grad_offset[0],
					    c->grad_type, b->elems);
		id[i % 2] = submit(s, (struct protocol_submission){
					      .op = PROTOCOL_OP_GRAD,
					      .unit = u,
					      .offset = b->grad_offset[i % 2],
					      .flags = (i == 0 ? PROTOCOL_FLAG_FIRST : 0) |
						       (i + 1 == count ? PROTOCOL_FLAG_LAST : 0)});
	}
	if (count > 1)
		await(s, id[(count - 2) % 2]);
	ck_assert_double_eq(await(s, id[(count - 1) % 2]).value, reference_sum(b, kept_type));
	return kept_type;
}

static struct protocol_submission step_of(const struct bed_session *s, unsigned u)
{
	bool keeps = s->setup.grad_home[u] != PROTOCOL_HOME_NONE;

	return (struct protocol_submission){
		.op = PROTOCOL_OP_STEP,
		.unit = u,
		.flags = keeps ? 0 : PROTOCOL_FLAG_FROM_ARENA,
		.offset = keeps ? 0 : s->units[u].grad_offset[0],
		.order = (uint32_t)(s->step + 2 * u) % 3,
		.step = s->step,
		.lr = 1e-2 / (double)s->step,
		.grad_scale = 0.5,
	};
}

static void reference_step(const struct bed_session *s, unsigned u, enum dtype grad_type)
{
	const struct bed_unit *b = &s->units[u];
	const struct protocol_submission sub = step_of(s, u);
	const struct optimizer_hyper hyper = {.kind = s->setup.kind,
					      .moments = s->setup.moments,
					      .lr = sub.lr,
					      .beta1 = 0.9,
					      .beta2 = 0.95,
					      .eps = 1e-8,
					      .momentum = 0.8,
					      .weight_decay = 0.1,
					      .seed = 77};
	const struct optimizer_step o = {
		.kind = hyper.kind,
		.moments = hyper.moments,
		.count = b->elems,
		.decay_count = b->decay,
		.position = position_of(u),
		.grad = b->kept,
		.grad_type = grad_type,
		.param_type = s->setup.param_type,
		.param = s->setup.param_type == DTYPE_F32 ? (void *)b->param : (void *)b->hi,
		.state = b->state,
		.scalars = optimizer_scalars_make(&hyper, sub.step, sub.grad_scale),
	};

	optimizer_host_step(&o);
}

void bed_step(struct bed_session *s)
{
	uint32_t step_id[BED_UNITS], fetch_id[BED_UNITS];

	s->step++;
	for (unsigned u = 0; u < BED_UNITS; u++)
		reference_step(s, u, gradient_give(s, u));
	for (unsigned u = 0; u < BED_UNITS; u++) {
		step_id[u] = submit(s, step_of(s, u));
		fetch_id[u] =
			submit(s, (struct protocol_submission){.op = PROTOCOL_OP_FETCH,
							       .unit = u,
							       .offset = s->units[u].fetch_offset});
	}
	for (unsigned u = BED_UNITS; u-- > 0;) {
		const struct bed_unit *b = &s->units[u];
		bool swap = s->setup.param_home[u] == PROTOCOL_HOME_SWAP, f32;
		struct protocol_completion done = await(s, fetch_id[u]);

		ck_assert_uint_eq(done.offset, swap ? b->fetch_offset : b->param_offset);
		f32 = s->setup.param_type == DTYPE_F32;
		ck_assert_mem_eq(s->arena + done.offset, f32 ? (void *)b->param : (void *)b->hi,
				 b->elems * (f32 ? 4 : 2));
		await(s, step_id[u]);
	}
}

bool bed_step_blindly(struct bed_session *s, struct err *err)
{
	uint32_t *ids = s->blind_ids[s->step % 2]; /* two steps of a unit are under way */
	struct protocol_submission sub;

	s->step++;
	for (unsigned u = 0; u < BED_UNITS; u++) {
		if (s->step > 2 && client_wait(s->client, ids[u], NULL, err) < 0)
			return false;
		sub = step_of(s, u);
		sub.flags = PROTOCOL_FLAG_FROM_ARENA;
		sub.offset = s->units[u].grad_offset[0];
		if (client_submit(s->client, &sub, &ids[u], err) < 0)
			return false;
	}
	return true;
}

void bed_blobs(struct bed_session *s)
{
	uint8_t want[BED_BLOBS][64 * 1024];
	uint32_t id[BED_BLOBS];

	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < BED_BLOBS; i++) {
			ck_assert_uint_le(s->blob_bytes[i], sizeof(want[i]));
			for (uint64_t j = 0; j < s->blob_bytes[i]; j++)
				want[i][j] = (uint8_t)bed_random(&s->random);
			memcpy(s->arena + s->blob_offset[i], want[i], s->blob_bytes[i]);
			id[i] = submit(s,
				       (struct protocol_submission){.op = PROTOCOL_OP_STORE,
								    .unit = i,
								    .offset = s->blob_offset[i]});
		}
		for (unsigned i = 0; i < BED_BLOBS; i++) {
			await(s, id[i]);
			memset(s->arena + s->blob_offset[i], 0, s->blob_bytes[i]);
			id[i] = submit(s,
				       (struct protocol_submission){.op = PROTOCOL_OP_LOAD,
								    .unit = i,
								    .offset = s->blob_offset[i]});
		}
		for (unsigned i = 0; i < BED_BLOBS; i++) {
			await(s, id[i]);
			ck_assert_mem_eq(s->arena + s->blob_offset[i], want[i], s->blob_bytes[i]);
		}
	}
}

void bed_run(const struct bed_daemon *d, const struct bed_case *c)
{
	struct bed_session s;
	struct protocol_stats stats;
	struct err err;

	ck_assert_msg(bed_open(&s, c, d, &err) == 0, "%s: %s", bed_case_text(c), err.text);
	bed_import(&s);
	for (int i = 0; i < 3; i++)
		bed_step(&s);
	bed_export(&s);
	if (c->path_count > 0)
		bed_blobs(&s);
	ck_assert_msg(client_stats(s.client, &stats, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(stats.stepped_elems,
			  3 * (s.units[0].elems + s.units[1].elems + s.units[2].elems));
	ck_assert_uint_ge(stats.memory_bytes, s.data_bytes);
	bed_close(&s);
}
