/*
 * Checkpoints: what is written comes back, at any world size; what is damaged is refused by name;
 * a failure at any moment loses nothing that was there.
 *
 * Method. The engine is played by this test: ranks are threads, every element of every vector is a
 * function of its place and the step, so a piece that lands in the wrong place shows. Its padding
 * is garbage, which must not come back. Damage is a table of ways to spoil the newest of two
 * checkpoints. In the fault loop the k-th system call fails, k = 1, 2, ... until none does; after
 * each, every rank must have failed with the same words, and the newest checkpoint that is visible
 * must be whole.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "offload/arch.h"
#include "worker/checkpoint.h"

#define WORLD_MAX 4

static char base[] = "/tmp/t_checkpoint.XXXXXX";
static char dir[64];
static struct train_config config;
static struct arch *arch;
static struct err err;

/* ---- the k-th system call fails ---- */

static _Atomic int fails_in; /* 0: none does */

static bool fails_now(void)
{
	int left = atomic_load_explicit(&fails_in, memory_order_relaxed);

	while (left > 0)
		if (atomic_compare_exchange_weak_explicit(
			    &fails_in, &left, left - 1, memory_order_relaxed, memory_order_relaxed))
			return left == 1;
	return false;
}

#define WRAP(type, name, params, args)                                                             \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		if (fails_now()) {                                                                 \
			errno = ENOSPC;                                                            \
			return (type)-1;                                                           \
		}                                                                                  \
		return __real_##name args;                                                         \
	}

WRAP(ssize_t, write, (int fd, const void *buf, size_t len), (fd, buf, len))
WRAP(ssize_t, pwrite, (int fd, const void *buf, size_t len, off_t at), (fd, buf, len, at))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, rename, (const char *from, const char *to), (from, to))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode))

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (fails_now()) {
		errno = ENOSPC;
		return -1;
	}
	return __real_open(path, flags, mode);
}

/* ---- the engine ---- */

struct group {
	pthread_barrier_t barrier;
	unsigned world;
	char words[WORLD_MAX][4096];
};

struct engine {
	struct group *group;
	unsigned rank, world;
	uint64_t chunk, step;
	int skip_unit, twice_unit; /* exports badly; -1 */
	struct err text;           /* of the rank's thread */
	float *piece;
	uint64_t imported, wrong;
	bool done;
};

static uint64_t padded(const struct engine *e, size_t unit)
{
	uint64_t align = 16 * e->world;

	return (arch->units[unit].elems + align - 1) / align * align;
}

static float value(uint64_t step, size_t unit, uint64_t element, unsigned vector)
{
	return (float)((step * 31 + unit * 7919 + element * 3 + vector) % 16777213);
}

int engine_exchange(struct engine *e, const void *mine, size_t bytes, void *all,
		    struct err *ignored)
{
	(void)ignored;
	ck_assert_uint_le(bytes, 4096);
	memcpy(e->group->words[e->rank], mine, bytes);
	pthread_barrier_wait(&e->group->barrier);
	for (unsigned r = 0; r < e->world; r++)
		memcpy((char *)all + r * bytes, e->group->words[r], bytes);
	pthread_barrier_wait(&e->group->barrier);
	return 0;
}

size_t engine_export_pieces(const struct engine *e, size_t unit)
{
	uint64_t partition = padded(e, unit) / e->world;

	return (partition + e->chunk - 1) / e->chunk;
}

static void piece_of(struct engine *e, size_t unit, size_t index, struct engine_piece *ret)
{
	uint64_t partition = padded(e, unit) / e->world, first = index * e->chunk;

	ret->unit = unit;
	ret->first = e->rank * partition + first;
	ret->count = partition - first < e->chunk ? partition - first : e->chunk;
	ret->master = e->piece;
	ret->m = e->piece + e->chunk;
	ret->v = e->piece + 2 * e->chunk;
}

int engine_export(struct engine *e, size_t unit, size_t index, struct engine_piece *ret,
		  struct err *ignored)
{
	(void)ignored;
	piece_of(e, unit, index, ret);
	for (uint64_t i = 0; i < ret->count; i++) {
		uint64_t at = ret->first + i;
		bool pad = at >= arch->units[unit].elems;

		ret->master[i] = pad ? -1 : value(e->step, unit, at, 0);
		ret->m[i] = pad ? -1 : value(e->step, unit, at, 1);
		ret->v[i] = pad ? -1 : value(e->step, unit, at, 2);
	}
	if ((int)unit == e->skip_unit && index == 0)
		ret->count--;
	if ((int)unit == e->twice_unit && index == 1)
		ret->first--;
	return 0;
}

size_t engine_import_pieces(const struct engine *e, size_t unit)
{
	return engine_export_pieces(e, unit);
}

int engine_import_begin(struct engine *e, size_t unit, size_t index, struct engine_piece *ret,
			struct err *ignored)
{
	(void)ignored;
	piece_of(e, unit, index, ret);
	for (uint64_t i = 0; i < 3 * e->chunk; i++)
		e->piece[i] = -2;
	return 0;
}

int engine_import_end(struct engine *e, struct engine_piece *p, struct err *ignored)
{
	const float *vectors[] = {p->master, p->m, p->v};

	(void)ignored;
	for (unsigned k = 0; k < 3; k++)
		for (uint64_t i = 0; i < p->count; i++) {
			uint64_t at = p->first + i;
			bool pad = at >= arch->units[p->unit].elems;

			e->wrong += vectors[k][i] != (pad ? 0 : value(e->step, p->unit, at, k));
		}
	e->imported += p->count;
	return 0;
}

int engine_import_done(struct engine *e, struct err *ignored)
{
	(void)ignored;
	e->done = true;
	return 0;
}

/* ---- ranks ---- */

struct rank {
	struct engine engine;
	struct checkpoint_job job;
	struct checkpoint_state state;
	bool reads;
	int rc;
	pthread_t thread;
};

static void *rank_main(void *arg)
{
	struct rank *r = arg;

	r->rc = r->reads ? checkpoint_read(&r->job, r->state.step, &r->state, &r->engine.text)
			 : checkpoint_write(&r->job, &r->state, &r->engine.text);
	return NULL;
}

struct how {
	unsigned world;
	uint64_t chunk, step;
	bool reads;
	bool skip, twice;
};

/* All ranks write or read; the first rank's result, whose text is left in err. */
static int ranks_run(const struct how *how)
{
	struct rank ranks[WORLD_MAX];
	struct group group = {.world = how->world};
	int rc;

	pthread_barrier_init(&group.barrier, NULL, how->world);
	for (unsigned i = 0; i < how->world; i++) {
		struct rank *r = &ranks[i];

		*r = (struct rank){.reads = how->reads};
		r->engine.group = &group;
		r->engine.rank = i;
		r->engine.world = how->world;
		r->engine.chunk = how->chunk;
		r->engine.step = how->step;
		r->engine.skip_unit = how->skip ? 1 : -1;
		r->engine.twice_unit = how->twice ? 1 : -1;
		r->engine.piece = calloc(3 * how->chunk, sizeof(float));
		r->job = (struct checkpoint_job){&r->engine, arch, &config, i, how->world};
		r->state = (struct checkpoint_state){how->step, how->step * 8};
		ck_assert_int_eq(pthread_create(&r->thread, NULL, rank_main, r), 0);
	}
	for (unsigned i = 0; i < how->world; i++)
		ck_assert_int_eq(pthread_join(ranks[i].thread, NULL), 0);
	rc = ranks[0].rc;
	err = ranks[0].engine.text;
	for (unsigned i = 0; i < how->world; i++) {
		struct engine *e = &ranks[i].engine;
		uint64_t expected = 0;

		if (!how->reads) {
			/* Ranks fail together, and say the same. */
			ck_assert_int_eq(ranks[i].rc, rc);
			ck_assert_str_eq(e->text.text, err.text);
		} else if (ranks[i].rc == 0) {
			for (size_t u = 0; u < arch->unit_count; u++)
				expected += padded(e, u) / e->world;
			ck_assert_uint_eq(e->imported, expected);
			ck_assert_uint_eq(e->wrong, 0);
			ck_assert(e->done);
			ck_assert_uint_eq(ranks[i].state.step, how->step);
			ck_assert_uint_eq(ranks[i].state.sequences, how->step * 8);
		} else if (rc == 0) {
			/* Each rank reads its own share; one that saw damage speaks for all. */
			rc = ranks[i].rc;
			err = e->text;
		}
		free(e->piece);
	}
	pthread_barrier_destroy(&group.barrier);
	return rc;
}

static int save(unsigned world, uint64_t chunk, uint64_t step)
{
	struct how how = {.world = world, .chunk = chunk, .step = step};

	return ranks_run(&how);
}

static int load(unsigned world, uint64_t chunk, uint64_t step)
{
	struct how how = {.world = world, .chunk = chunk, .step = step, .reads = true};

	return ranks_run(&how);
}

static void ok(int rc)
{
	ck_assert_msg(rc >= 0, "%s", err.text);
}

static struct checkpoint_job rank0(void)
{
	return (struct checkpoint_job){.arch = arch, .config = &config, .world = 1};
}

static void clean(void)
{
	struct err ignored;

	atomic_store_explicit(&fails_in, 0, memory_order_relaxed);
	file_remove_tree(dir, &ignored);
}

static void prepare(void)
{
	struct checkpoint_job job = rank0();
	uint64_t step;
	int lock;

	snprintf(dir, sizeof(dir), "%s/run", base);
	config.checkpoint.dir = dir;
	/* A test that failed did not come to its own cleaning. */
	clean();
	ok(checkpoint_prepare(&job, true, &step, &lock, &err));
	close(lock);
}

/* ---- tests ---- */

START_TEST(any_world_reads_any_world)
{
	static const unsigned worlds[] = {1, 2, 3, 4};
	static const uint64_t chunks[] = {64, 1000, 100000};

	for (size_t w = 0; w < 4; w++)
		for (size_t c = 0; c < 3; c++) {
			uint64_t step = 10 + w * 3 + c;

			ok(save(worlds[w], chunks[c], step));
			for (size_t rw = 0; rw < 4; rw++)
				for (size_t rc = 0; rc < 3; rc++)
					ok(load(worlds[rw], chunks[rc], step));
		}
}
END_TEST

static size_t count_entries(char *ret_names, size_t room)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	size_t n = 0;

	*ret_names = '\0';
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) {
			n++;
			strncat(ret_names, e->d_name, room - strlen(ret_names) - 2);
			strcat(ret_names, " ");
		}
	closedir(d);
	return n;
}

START_TEST(the_newest_are_kept)
{
	struct checkpoint_job job = rank0();
	char names[512];
	uint64_t step;
	int lock;

	for (step = 5; step <= 25; step += 5)
		ok(save(2, 1000, step));
	ck_assert_uint_eq(count_entries(names, sizeof(names)), 2);
	ck_assert_msg(strstr(names, "step-00000020") && strstr(names, "step-00000025"), "%s",
		      names);
	ok(checkpoint_prepare(&job, true, &step, &lock, &err));
	ck_assert_uint_eq(step, 25);
	close(lock);
}
END_TEST

START_TEST(a_run_does_not_start_over_another)
{
	struct checkpoint_job job = rank0();
	uint64_t step = 99;
	int lock, other;

	/* Nothing there yet: fine, and nobody else may. */
	ok(checkpoint_prepare(&job, false, &step, &lock, &err));
	ck_assert_uint_eq(step, 0);
	ck_assert_int_eq(checkpoint_prepare(&job, false, &step, &other, &err), ERR_CONFIG);
	ck_assert_msg(strstr(err.text, "another run"), "%s", err.text);
	close(lock);
	ok(save(1, 1000, 7));
	ck_assert_int_eq(checkpoint_prepare(&job, false, &step, &lock, &err), ERR_CONFIG);
	ck_assert_msg(strstr(err.text, "--resume") && strstr(err.text, dir), "%s", err.text);
	ok(load(1, 1000, 7));
}
END_TEST

START_TEST(leftovers_go)
{
	struct checkpoint_job job = rank0();
	char path[128], names[512];
	uint64_t step;
	int lock;

	ok(save(1, 1000, 7));
	snprintf(path, sizeof(path), "%s/.step-00000008.tmp", dir);
	ck_assert_int_eq(mkdir(path, 0777), 0);
	strcat(path, "/rank-0000.state");
	ok(file_replace(path, "half", 4, &err));
	ok(checkpoint_prepare(&job, true, &step, &lock, &err));
	close(lock);
	ck_assert_uint_eq(step, 7);
	ck_assert_uint_eq(count_entries(names, sizeof(names)), 1);
}
END_TEST

START_TEST(directories_that_cannot_be)
{
	struct checkpoint_job job = rank0();
	char path[128];
	uint64_t step;
	int lock;

	snprintf(path, sizeof(path), "%s/file", base);
	ok(file_replace(path, "x", 1, &err));
	config.checkpoint.dir = path;
	ck_assert_int_lt(checkpoint_prepare(&job, true, &step, &lock, &err), 0);
	ck_assert_msg(strstr(err.text, path), "%s", err.text);
	strcat(path, "/below");
	ck_assert_int_eq(checkpoint_prepare(&job, true, &step, &lock, &err), ERR_CANTCREAT);
	ck_assert_msg(strstr(err.text, path), "%s", err.text);
	snprintf(path, sizeof(path), "%s/run/many/levels", base);
	ok(checkpoint_prepare(&job, true, &step, &lock, &err));
	close(lock);
	config.checkpoint.dir = dir;
}
END_TEST

START_TEST(another_run_is_refused)
{
	struct train_config saved = config;
	static const char *const keys[] = {"model.layers", "data.sequence", "seed", "precision"};

	ok(save(2, 1000, 7));
	for (size_t i = 0; i < 4; i++) {
		config = saved;
		if (i == 0)
			config.model.layers++;
		else if (i == 1)
			config.data.sequence--;
		else if (i == 2)
			config.seed++;
		else
			config.precision = PRECISION_FP32;
		ck_assert_int_eq(load(1, 1000, 7), ERR_CONFIG);
		ck_assert_msg(strstr(err.text, keys[i]), "%s", err.text);
	}
	config = saved;
}
END_TEST

/* A file of checkpoint 20 (or 10). */
static char *file(const char *name, unsigned step)
{
	static char paths[2][160];
	static unsigned next;
	char *path = paths[next++ % 2];

	snprintf(path, sizeof(paths[0]), "%s/step-%08u/%s", dir, step, name);
	return path;
}

static void flip(const char *path, long at)
{
	int fd = __real_open(path, O_RDWR);
	uint8_t byte;
	off_t where = at >= 0 ? at : lseek(fd, 0, SEEK_END) + at;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &byte, 1, where), 1);
	byte ^= 4;
	ck_assert_int_eq((int)__real_pwrite(fd, &byte, 1, where), 1);
	close(fd);
}

static void cut(const char *path, long by)
{
	struct stat st;

	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(truncate(path, st.st_size + by), 0);
}

static void copy(const char *from, const char *to)
{
	char *text;
	size_t len;

	ok(file_load(from, 1u << 20, &text, &len, &err));
	ok(file_replace(to, text, len, &err));
	free(text);
}

enum damage_kind { REMOVE, FLIP, CUT, OLDER, SWAP, EMPTY };

static const struct damage {
	const char *name;
	const char *file;
	enum damage_kind kind;
	long at;
	const char *message;
} damages[] = {
	{"no manifest", "manifest.json", REMOVE, 0, "No such file"},
	{"empty manifest", "manifest.json", EMPTY, 0, "truncated"},
	{"manifest cut", "manifest.json", CUT, -5, "checksum"},
	{"manifest longer", "manifest.json", CUT, 1, "checksum"},
	{"a bit of the manifest", "manifest.json", FLIP, 40, "checksum"},
	{"a bit of the manifest's checksum", "manifest.json", FLIP, -5, "checksum"},
	{"the manifest of another step", "manifest.json", OLDER, 0, "of step 10"},
	{"no state", "rank-0001.state", REMOVE, 0, "No such file"},
	{"empty state", "rank-0000.state", EMPTY, 0, "0 bytes"},
	{"state cut by a byte", "rank-0001.state", CUT, -1, "the manifest says"},
	{"state longer by a byte", "rank-0000.state", CUT, 1, "the manifest says"},
	{"a bit of the magic", "rank-0000.state", FLIP, 0, "not a state file"},
	{"a bit of the version", "rank-0000.state", FLIP, 4, "version"},
	{"a bit of the head", "rank-0001.state", FLIP, 40, "head is damaged"},
	{"a bit of a piece's head", "rank-0001.state", FLIP, 64 + 8, "head of a piece"},
	{"a bit of a piece's magic", "rank-0001.state", FLIP, 64, "head of a piece"},
	{"a bit of the first data", "rank-0000.state", FLIP, 64 + 32, "checksum mismatch"},
	{"a bit of the last data", "rank-0001.state", FLIP, -1, "checksum mismatch"},
	{"the state of another step", "rank-0000.state", OLDER, 0, "another checkpoint"},
	{"states swapped", "rank-0000.state", SWAP, 0, "the manifest says"},
};

static void do_damage(const struct damage *d)
{
	char spare[128];

	switch (d->kind) {
	case REMOVE:
		ck_assert_int_eq(unlink(file(d->file, 20)), 0);
		break;
	case FLIP:
		flip(file(d->file, 20), d->at);
		break;
	case CUT:
		cut(file(d->file, 20), d->at);
		break;
	case EMPTY:
		ck_assert_int_eq(truncate(file(d->file, 20), 0), 0);
		break;
	case OLDER:
		copy(file(d->file, 10), file(d->file, 20));
		break;
	case SWAP:
		snprintf(spare, sizeof(spare), "%s/spare", base);
		copy(file("rank-0000.state", 20), spare);
		copy(file("rank-0001.state", 20), file("rank-0000.state", 20));
		copy(spare, file("rank-0001.state", 20));
		break;
	}
}

START_TEST(damage_is_named)
{
	const struct damage *d = &damages[_i];
	char good[128], bad[128];

	snprintf(good, sizeof(good), "%s/step-00000010 is whole", dir);
	snprintf(bad, sizeof(bad), "%s/step-00000020", dir);
	ok(save(2, 1000, 10));
	ok(save(2, 1000, 20));
	do_damage(d);
	/* With the same pieces, and with others. */
	for (uint64_t chunk = 300; chunk <= 1000; chunk += 700) {
		ck_assert_msg(load(2, chunk, 20) == ERR_DATA, "%s: %s", d->name, err.text);
		ck_assert_msg(strstr(err.text, d->message) && strstr(err.text, bad) &&
				      strstr(err.text, good),
			      "%s: %s", d->name, err.text);
	}
	/* When the older one is damaged too, nobody is sent there. */
	flip(file("rank-0000.state", 10), 1000);
	ck_assert_int_eq(load(2, 1000, 20), ERR_DATA);
	ck_assert_msg(strstr(err.text, "no older checkpoint"), "%s: %s", d->name, err.text);
}
END_TEST

START_TEST(each_element_once)
{
	struct how how = {.world = 2, .chunk = 100, .step = 10, .skip = true};

	ok(ranks_run(&how));
	ck_assert_int_eq(load(1, 1000, 10), ERR_DATA);
	ck_assert_msg(strstr(err.text, "lacks element"), "%s", err.text);
	how.skip = false;
	how.twice = true;
	how.step = 11;
	ok(ranks_run(&how));
	ck_assert_int_eq(load(1, 1000, 11), ERR_DATA);
	ck_assert_msg(strstr(err.text, "has twice"), "%s", err.text);
}
END_TEST

START_TEST(a_failure_loses_nothing)
{
	unsigned fired = 0;

	ok(save(2, 1000, 10));
	ok(save(2, 1000, 20));
	for (int k = 1;; k++) {
		struct checkpoint_job job = rank0();
		uint64_t step;
		int lock, rc, left;

		atomic_store_explicit(&fails_in, k, memory_order_relaxed);
		rc = save(2, 1000, 30);
		left = atomic_exchange_explicit(&fails_in, 0, memory_order_relaxed);
		if (left > 0) {
			ok(rc);
			break;
		}
		fired++;
		/* Cleaning up after a failure may be what failed: then all is well or said. */
		ok(checkpoint_prepare(&job, true, &step, &lock, &err));
		close(lock);
		ck_assert(step == 20 || step == 30);
		ck_assert_msg(checkpoint_verify(&job, step, &err) == 0, "k = %d: %s", k, err.text);
		ck_assert(rc < 0 || step == 30);
		if (step == 30)
			ok(file_remove_tree(file("", 30), &err));
	}
	ck_assert_uint_gt(fired, 20);
	ok(load(2, 1000, 30));
}
END_TEST

static void config_make(void)
{
	config.model.layers = 2;
	config.model.hidden = 12;
	config.model.heads = 2;
	config.model.vocab = 50;
	config.model.context = 9;
	config.data.sequence = 8;
	config.batch.global = 8;
	config.batch.micro = 1;
	config.precision = PRECISION_BF16;
	config.checkpoint.keep = 2;
	config.seed = UINT64_MAX - 5;
}

int main(void)
{
	Suite *suite = suite_create("checkpoint");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	config_make();
	if (!mkdtemp(base) || arch_make(&config, &arch, &err) < 0)
		return EXIT_FAILURE;
	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, prepare, clean);
	tcase_add_test(tc, any_world_reads_any_world);
	tcase_add_test(tc, the_newest_are_kept);
	tcase_add_test(tc, a_run_does_not_start_over_another);
	tcase_add_test(tc, leftovers_go);
	tcase_add_test(tc, directories_that_cannot_be);
	tcase_add_test(tc, another_run_is_refused);
	tcase_add_loop_test(tc, damage_is_named, 0, sizeof(damages) / sizeof(damages[0]));
	tcase_add_test(tc, each_element_once);
	tcase_add_test(tc, a_failure_loses_nothing);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	arch_free(arch);
	if (file_remove_tree(base, &err) < 0)
		fprintf(stderr, "%s\n", err.text);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
