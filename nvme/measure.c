/*
 * What swap directories can give: the order of measuring, and the choice. Called by dsctl bench, in
 * one thread.
 *
 *	fill      every block is written once: the first write of a preallocated block costs the
 *	          filesystem more than all later ones
 *	sweep     each cell (engine, extent, depth) with a mix of reads and writes, which is what an
 *	          optimizer's step asks for; again and again in turn, so that a disk whose mood
 *	          changes does so for all cells
 *	finalists those that the sweep puts near the best, once more in turn: the highest of many
 *	          noisy figures is the luckiest one, not the best
 *	speeds    each directory alone and all together, reading, writing, mixed, as was chosen
 *
 * Invariants
 *  1. All cells go over the same blocks of the same files.
 *  2. Each stage has its part of the time, and ends with it, but for the first cell and the fill of
 *     NVME_MEASURE_BYTES_MIN.
 *  3. A figure is a median; cells that were not measured are not chosen.
 */
#include "nvme/measure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "nvme/measure_run.h"

/* Parts of the time, to the end of each stage. */
#define FILL_PART      0.20
#define SWEEP_PART     0.62
#define FINALISTS_PART 0.78
#define SWEEP_ROUNDS   3u
#define SPEED_ROUNDS   3u
#define FINALISTS_MAX  8u
#define NEAR           0.12 /* of the best: who is a finalist */
/* What is too short says nothing, what is longer takes a turn from somebody else. */
#define SLICE_MIN_S 0.01
#define SLICE_MAX_S 0.5
#define FILL_EXTENT (1u << 20)
#define FILL_DEPTH  16u

struct measure {
	const struct nvme_measure_config *config;
	struct nvme_measured *out;
	struct run_rig rig;
	int fds[NVME_PATHS_MAX];
	size_t fd_count;
	uint8_t *mem;
	size_t mem_bytes;
	int event_fd;
	void *queues[NVME_ENGINE_COUNT];
	uint64_t begin_ns;
};

static const struct nvme_engine_ops *const engines[NVME_ENGINE_COUNT] = {
	[NVME_URING] = &nvme_uring_ops,
	[NVME_LIBAIO] = &nvme_libaio_ops,
};

/* The time at which `part` of all has passed. */
static uint64_t at_part(const struct measure *m, double part)
{
	return m->begin_ns + (uint64_t)(m->config->seconds * part * 1e9);
}

static void tell(const struct measure *m, const char *what)
{
	double part = (double)(run_now_ns() - m->begin_ns) * 1e-9 / m->config->seconds;

	if (m->config->progress)
		m->config->progress(m->config->context, what, part < 1 ? part : 1);
}

static double slice(double seconds)
{
	return seconds < SLICE_MIN_S ? SLICE_MIN_S : seconds > SLICE_MAX_S ? SLICE_MAX_S : seconds;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* 0 when there are none; sorts. */
static double median(double *values, size_t count)
{
	if (count == 0)
		return 0;
	qsort(values, count, sizeof(*values), by_value);
	return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

/* Opening. */

static int name_path(struct measure *m, size_t idx, struct err *err)
{
	struct nvme_figures_path *p = &m->out->figures.paths[idx];
	char *real = realpath(m->config->paths[idx], NULL);
	size_t len;

	if (!real)
		return err_set(err, ERR_CONFIG, "%s is not a directory that can be written to: %s",
			       m->config->paths[idx], err_str(-errno));
	len = strlen(real);
	if (len < sizeof(p->path))
		memcpy(p->path, real, len + 1);
	free(real);
	if (len >= sizeof(p->path))
		return err_set(err, ERR_CONFIG, "%s: the name is longer than %u bytes",
			       m->config->paths[idx], NVME_PATH_BYTES - 1);
	for (size_t i = 0; i < idx; i++)
		if (strcmp(m->out->figures.paths[i].path, p->path) == 0)
			return err_set(err, ERR_CONFIG, "%s is there twice", p->path);
	return nvme_filesystem_id(p->path, NULL, p->filesystem, err);
}

static int open_lane(struct measure *m, size_t idx, struct err *err)
{
	struct run_lane *lane = &m->rig.lanes[idx];
	struct nvme_file file;
	int rc = name_path(m, idx, err);

	if (rc < 0)
		return rc;
	lane->name = m->out->figures.paths[idx].path;
	rc = nvme_file_open(lane->name, m->config->file_bytes, &file, err);
	if (rc < 0)
		return rc;
	m->fds[m->fd_count++] = file.fd;
	if (file.not_direct)
		return err_set(err, ERR_CONFIG, "%s: nothing to measure there: %s", lane->name,
			       file.not_direct);
	lane->bytes = m->config->file_bytes;
	lane->mem = m->mem + idx * RUN_FLIGHT_BYTES_MAX;
	return 0;
}

static int open_memory(struct measure *m, struct err *err)
{
	size_t bytes = m->config->path_count * RUN_FLIGHT_BYTES_MAX;
	void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return err_sys(err, -errno, "%zu bytes of buffers", bytes);
	m->mem = mem;
	m->mem_bytes = bytes;
	/* Not zeros, which a disk may store for free. */
	for (size_t w = 0; w < bytes / sizeof(uint64_t); w++)
		((uint64_t *)mem)[w] = (w + 1) * 0x9e3779b97f4a7c15u;
	return 0;
}

static int open_engine(struct measure *m, enum nvme_engine engine, struct err *err)
{
	const struct nvme_engine_ops *ops = engines[engine];
	struct err why = {.code = 0};
	int rc;

	rc = ops->open(m->fds, m->fd_count, (unsigned)m->fd_count * RUN_DEPTH_MAX, m->event_fd,
		       &m->queues[engine], &why);
	if (rc < 0) {
		m->queues[engine] = NULL;
		return err_set(err, ERR_CONFIG, "nvme engine %s: %s", ops->name, why.text);
	}
	/* 1: not registered, as a session's buffers would not be either. */
	rc = ops->add_region(m->queues[engine], m->mem, m->mem_bytes, err);
	return rc < 0 ? rc : 0;
}

/* One engine is enough; the reason why the other one is not here is kept. */
static int open_engines(struct measure *m, struct err *err)
{
	int rc_uring, rc_libaio;
	struct err why = {.code = 0};

	m->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->event_fd < 0)
		return err_sys(err, -errno, "eventfd");
	rc_uring = open_engine(m, NVME_URING, &m->out->missing);
	rc_libaio = open_engine(m, NVME_LIBAIO, &why);
	if (rc_uring < 0 && rc_libaio < 0)
		return err_set(err, ERR_CONFIG, "no nvme engine: %.900s; %.900s",
			       m->out->missing.text, why.text);
	if (rc_libaio < 0)
		m->out->missing = why;
	else if (rc_uring == 0)
		m->out->missing.code = 0;
	return 0;
}

static int open_all(struct measure *m, struct err *err)
{
	int rc = 0;

	if (m->config->path_count == 0 || m->config->path_count > NVME_PATHS_MAX)
		return err_set(err, ERR_CONFIG, "%zu directories, expected 1 to %u",
			       m->config->path_count, NVME_PATHS_MAX);
	m->rig.lanes = calloc(m->config->path_count, sizeof(*m->rig.lanes));
	if (!m->rig.lanes)
		return err_sys(err, -ENOMEM, "measuring");
	m->rig.lane_count = m->config->path_count;
	rc = open_memory(m, err);
	for (size_t i = 0; i < m->config->path_count && rc == 0; i++)
		rc = open_lane(m, i, err);
	m->out->figures.path_count = m->config->path_count;
	return rc == 0 ? open_engines(m, err) : rc;
}

static void close_all(struct measure *m)
{
	for (int e = 0; e < NVME_ENGINE_COUNT; e++)
		if (m->queues[e])
			engines[e]->free(m->queues[e]);
	if (m->event_fd >= 0)
		close(m->event_fd);
	for (size_t i = 0; i < m->fd_count; i++)
		close(m->fds[i]);
	if (m->mem)
		munmap(m->mem, m->mem_bytes);
	free(m->rig.lanes);
}

/* Running. */

static int run_with(struct measure *m, enum nvme_engine engine, struct run *run, struct err *err)
{
	eventfd_t count;
	int rc;

	m->rig.ops = engines[engine];
	m->rig.queue = m->queues[engine];
	rc = run_lanes(&m->rig, run, err);
	/* Nobody waits for it, it only must not fill up; nothing to read is fine. */
	(void)eventfd_read(m->event_fd, &count);
	m->out->written_bytes = m->rig.written_bytes;
	return rc;
}

static enum nvme_engine first_engine(const struct measure *m)
{
	return m->queues[NVME_URING] ? NVME_URING : NVME_LIBAIO;
}

/* The least that is measured is filled whatever it takes, the rest as far as its time goes. */
static int fill(struct measure *m, struct err *err)
{
	struct run run = {.mode = RUN_WRITE,
			  .extent = FILL_EXTENT,
			  .depth = FILL_DEPTH,
			  .count = m->rig.lane_count,
			  .each_bytes = NVME_MEASURE_BYTES_MIN,
			  .deadline_ns = UINT64_MAX};
	int rc;

	tell(m, "filling");
	rc = run_with(m, first_engine(m), &run, err);
	run.each_bytes = m->config->file_bytes;
	run.deadline_ns = at_part(m, FILL_PART);
	if (rc == 0 && run_now_ns() < run.deadline_ns)
		rc = run_with(m, first_engine(m), &run, err);
	for (size_t i = 0; i < m->rig.lane_count && rc == 0; i++) {
		struct run_lane *lane = &m->rig.lanes[i];
		uint64_t filled = lane->started * FILL_EXTENT;

		if (filled < NVME_MEASURE_BYTES_MIN)
			filled = NVME_MEASURE_BYTES_MIN;
		lane->bytes = filled / NVME_MEASURE_BYTES_UNIT * NVME_MEASURE_BYTES_UNIT;
	}
	return rc;
}

/*
 * Extent times depth stays within RUN_FLIGHT_BYTES_MAX. The likely ones come first: a slow disk may
 * have time for no others.
 */
static void cells_make(struct measure *m)
{
	static const uint32_t extents[] = {1u << 20, 4u << 20, 256u << 10, 16u << 20};
	static const unsigned depths[] = {8, 4, 16, 32, 64, 1};
	struct nvme_measured *out = m->out;

	for (int e = NVME_URING; e < NVME_ENGINE_COUNT; e++)
		for (size_t x = 0; x < sizeof(extents) / sizeof(extents[0]); x++)
			for (size_t d = 0; d < sizeof(depths) / sizeof(depths[0]); d++)
				if (m->queues[e] &&
				    (uint64_t)extents[x] * depths[d] <= RUN_FLIGHT_BYTES_MAX)
					out->cells[out->cell_count++] =
						(struct nvme_cell){.engine = (enum nvme_engine)e,
								   .extent = extents[x],
								   .depth = depths[d]};
}

static int sample(struct measure *m, struct nvme_cell *cell, double seconds, uint64_t deadline_ns,
		  struct err *err)
{
	struct run run = {.mode = RUN_MIXED,
			  .extent = cell->extent,
			  .depth = cell->depth,
			  .count = m->rig.lane_count,
			  .seconds = seconds,
			  .deadline_ns = deadline_ns};
	double sorted[NVME_SAMPLES_MAX], sum = 0;
	int rc = run_with(m, cell->engine, &run, err);

	for (size_t i = 0; i < m->rig.lane_count && rc == 0; i++) {
		/* One lane cut off by the deadline spoils the sum. */
		if (m->rig.lanes[i].rate == 0)
			return 0;
		sum += m->rig.lanes[i].rate;
	}
	if (rc < 0 || cell->count == NVME_SAMPLES_MAX)
		return rc;
	cell->samples[cell->count++] = sum;
	memcpy(sorted, cell->samples, cell->count * sizeof(sorted[0]));
	cell->mixed = median(sorted, cell->count);
	return 0;
}

/* The cells of `which`, in turn, until the time is up or `rounds` are done. */
static int sample_all(struct measure *m, const size_t *which, size_t count, unsigned rounds,
		      double end_part, const char *what, struct err *err)
{
	const uint64_t end = at_part(m, end_part), now = run_now_ns();
	double seconds = end > now ? (double)(end - now) * 1e-9 : 0;
	int rc = 0;

	for (unsigned round = 0; round < rounds && rc == 0; round++) {
		for (size_t i = 0; i < count && rc == 0; i++) {
			struct nvme_cell *cell = &m->out->cells[which[i]];
			/* Without one there is no choice. */
			bool must = i == 0 && cell->count == 0;

			if (!must && run_now_ns() >= end)
				return 0;
			tell(m, what);
			rc = sample(m, cell, slice(seconds / rounds / (double)count),
				    must ? UINT64_MAX : end, err);
		}
	}
	return rc;
}

static int sweep(struct measure *m, struct err *err)
{
	size_t all[NVME_CELLS_MAX];

	for (size_t i = 0; i < m->out->cell_count; i++)
		all[i] = i;
	return sample_all(m, all, m->out->cell_count, SWEEP_ROUNDS, SWEEP_PART, "extents", err);
}

static bool eligible(const struct nvme_cell *c, double least)
{
	return c->depth >= NVME_DEPTH_LEAST && c->mixed > 0 && c->mixed >= least;
}

static double best_of(const struct nvme_cell *cells, size_t count)
{
	double best = 0;

	for (size_t i = 0; i < count; i++)
		if (eligible(&cells[i], best))
			best = cells[i].mixed;
	return best;
}

/* Is a to be preferred to b, when both are fast enough? */
static bool leaner(const struct nvme_cell *a, const struct nvme_cell *b)
{
	const uint64_t a_bytes = (uint64_t)a->extent * a->depth;
	const uint64_t b_bytes = (uint64_t)b->extent * b->depth;

	if (a->engine != b->engine)
		return a->engine == NVME_URING;
	if (a_bytes != b_bytes)
		return a_bytes < b_bytes;
	return a->extent > b->extent;
}

size_t nvme_cell_choose(const struct nvme_cell *cells, size_t count)
{
	const double least = best_of(cells, count) * (1 - NVME_CHOICE_SLACK);
	size_t chosen = count;

	for (size_t i = 0; i < count; i++)
		if (eligible(&cells[i], least) &&
		    (chosen == count || leaner(&cells[i], &cells[chosen])))
			chosen = i;
	/* None was deep enough: time went out behind the first cell. */
	for (size_t i = 0; i < count && chosen == count; i++)
		if (cells[i].mixed > 0)
			chosen = i;
	return chosen < count ? chosen : 0;
}

static int finalists(struct measure *m, struct err *err)
{
	const struct nvme_cell *cells = m->out->cells;
	const double best = best_of(cells, m->out->cell_count);
	size_t list[FINALISTS_MAX], count = 0, k;

	/* The leanest of those near the best, and the best itself, which the list may push out. */
	for (size_t i = 0; i < m->out->cell_count; i++) {
		if (!eligible(&cells[i], best * (1 - NEAR)) || cells[i].mixed == best)
			continue;
		if (count < FINALISTS_MAX - 1)
			count++;
		else if (!leaner(&cells[i], &cells[list[count - 1]]))
			continue;
		for (k = count - 1; k > 0 && leaner(&cells[i], &cells[list[k - 1]]); k--)
			list[k] = list[k - 1];
		list[k] = i;
	}
	for (size_t i = 0; i < m->out->cell_count; i++)
		if (cells[i].mixed == best && best > 0 && count < FINALISTS_MAX)
			list[count++] = i;
	return count < 2 ? 0
			 : sample_all(m, list, count, NVME_SAMPLES_MAX - SWEEP_ROUNDS,
				      FINALISTS_PART, "the best extents", err);
}

/* Speeds. */

/* Samples of each mode, of one group of lanes. */
struct speeds {
	double at[RUN_MODE_COUNT][SPEED_ROUNDS];
	double share[NVME_PATHS_MAX][SPEED_ROUNDS]; /* mixed, of each lane of the group */
};

static struct nvme_speed speed_of(struct speeds *s)
{
	return (struct nvme_speed){.read = median(s->at[RUN_READ], SPEED_ROUNDS),
				   .write = median(s->at[RUN_WRITE], SPEED_ROUNDS),
				   .mixed = median(s->at[RUN_MIXED], SPEED_ROUNDS)};
}

static int speed_round(struct measure *m, size_t first, size_t count, double seconds,
		       unsigned round, struct speeds *s, struct err *err)
{
	const struct nvme_cell *cell = &m->out->cells[m->out->chosen];
	struct run run = {.extent = cell->extent,
			  .depth = cell->depth,
			  .first = first,
			  .count = count,
			  .seconds = seconds,
			  .deadline_ns = UINT64_MAX};
	int rc = 0;

	for (int mode = 0; mode < RUN_MODE_COUNT && rc == 0; mode++) {
		run.mode = (enum run_mode)mode;
		tell(m, count > 1 ? "all directories" : m->rig.lanes[first].name);
		rc = run_with(m, cell->engine, &run, err);
		s->at[mode][round] = 0;
		for (size_t i = 0; i < count; i++) {
			s->at[mode][round] += m->rig.lanes[first + i].rate;
			if (mode == RUN_MIXED)
				s->share[i][round] = m->rig.lanes[first + i].rate;
		}
	}
	return rc;
}

/* Groups are the directories, each alone, and, last, all of them. */
static int speeds(struct measure *m, struct err *err)
{
	const size_t lanes = m->rig.lane_count, groups = lanes > 1 ? lanes + 1 : 1;
	const uint64_t now = run_now_ns(), end = at_part(m, 1);
	double seconds = end > now ? (double)(end - now) * 1e-9 : 0;
	struct speeds *s = calloc(groups, sizeof(*s));
	struct nvme_figures *f = &m->out->figures;
	int rc = 0;

	if (!s)
		return err_sys(err, -ENOMEM, "measuring");
	seconds = slice(seconds / (double)groups / RUN_MODE_COUNT / SPEED_ROUNDS);
	for (unsigned round = 0; round < SPEED_ROUNDS; round++)
		for (size_t g = 0; g < groups && rc == 0; g++)
			rc = speed_round(m, g < lanes ? g : 0, g < lanes ? 1 : lanes, seconds,
					 round, &s[g], err);
	for (size_t i = 0; i < lanes && rc == 0; i++) {
		f->paths[i].alone = speed_of(&s[i]);
		f->paths[i].share = median(s[groups - 1].share[i], SPEED_ROUNDS);
	}
	f->together = speed_of(&s[groups - 1]);
	free(s);
	return rc;
}

int nvme_measure(const struct nvme_measure_config *config, struct nvme_measured *ret,
		 struct err *err)
{
	struct measure m = {.config = config, .out = ret, .event_fd = -1};
	const struct nvme_cell *cell;
	int rc;

	memset(ret, 0, sizeof(*ret));
	m.begin_ns = run_now_ns();
	rc = open_all(&m, err);
	if (rc == 0) {
		cells_make(&m);
		rc = fill(&m, err);
	}
	if (rc == 0)
		rc = sweep(&m, err);
	if (rc == 0)
		rc = finalists(&m, err);
	if (rc == 0) {
		ret->chosen = nvme_cell_choose(ret->cells, ret->cell_count);
		rc = speeds(&m, err);
	}
	close_all(&m);
	if (rc < 0)
		return rc;
	cell = &ret->cells[ret->chosen];
	ret->figures.engine = cell->engine;
	ret->figures.extent = cell->extent;
	ret->figures.queue_depth = cell->depth;
	ret->figures.measured = (uint64_t)time(NULL);
	return 0;
}
