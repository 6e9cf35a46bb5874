/* The engine of the checkpoints' tests, and ranks that use it. See checkpoint_bed.h. */
#include "tests/checkpoint_bed.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"

char base[] = "/tmp/t_checkpoint.XXXXXX";
char dir[64];
struct train_config config;
struct arch *arch;
struct err err;
char note[CHECKPOINT_NOTE_BYTES];

/* The engine. */

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
	ret->v = checkpoint_vectors(&config) == 3 ? e->piece + 2 * e->chunk : NULL;
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
		if (ret->v)
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
	for (unsigned k = 0; k < checkpoint_vectors(&config); k++)
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

/* Ranks. */

struct rank {
	struct engine engine;
	struct checkpoint_job job;
	struct checkpoint_state state;
	char note[CHECKPOINT_NOTE_BYTES];
	bool reads;
	int rc;
	pthread_t thread;
};

static void *rank_main(void *arg)
{
	struct rank *r = arg;

	r->rc = r->reads ? checkpoint_read(&r->job, r->state.step, &r->state, r->note,
					   &r->engine.text)
			 : checkpoint_write(&r->job, &r->state, &r->engine.text);
	return NULL;
}

int ranks_run(const struct how *how)
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
			snprintf(note, sizeof(note), "%s", ranks[i].note);
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

int save(unsigned world, uint64_t chunk, uint64_t step)
{
	struct how how = {.world = world, .chunk = chunk, .step = step};

	return ranks_run(&how);
}

int load(unsigned world, uint64_t chunk, uint64_t step)
{
	struct how how = {.world = world, .chunk = chunk, .step = step, .reads = true};

	return ranks_run(&how);
}

void ok(int rc)
{
	ck_assert_msg(rc >= 0, "%s", err.text);
}

struct checkpoint_job rank0(void)
{
	return (struct checkpoint_job){.arch = arch, .config = &config, .world = 1};
}

void clean(void)
{
	struct err ignored;

	file_remove_tree(dir, &ignored);
}

void prepare(void)
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

bool bed_make(void)
{
	config_make();
	return mkdtemp(base) && arch_make(&config, &arch, &err) == 0;
}

void bed_done(void)
{
	arch_free(arch);
	if (file_remove_tree(base, &err) < 0)
		fprintf(stderr, "%s\n", err.text);
}
