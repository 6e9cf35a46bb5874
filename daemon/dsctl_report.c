/*
 * What `dsctl bench` found out, on standard output: for people, its first line about the drives'
 * endurance, or as one JSON object. Pure but for the stream.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/file.h"
#include "common/json.h"
#include "common/units.h"
#include "daemon/dsctl.h"

#define COLUMNS 16u

/* The different depths and extents among the cells, ascending. */
struct axes {
	uint32_t extents[COLUMNS];
	unsigned depths[COLUMNS];
	size_t extent_count, depth_count;
};

static void insert(uint32_t *list, size_t *count, uint32_t value)
{
	size_t i = 0, k;

	while (i < *count && list[i] < value)
		i++;
	if ((i < *count && list[i] == value) || *count == COLUMNS)
		return;
	for (k = (*count)++; k > i; k--)
		list[k] = list[k - 1];
	list[i] = value;
}

static struct axes axes_of(const struct nvme_measured *d)
{
	struct axes a = {.extent_count = 0};

	for (size_t i = 0; i < d->cell_count; i++) {
		insert(a.extents, &a.extent_count, d->cells[i].extent);
		insert(a.depths, &a.depth_count, d->cells[i].depth);
	}
	return a;
}

static const struct nvme_cell *cell_at(const struct nvme_measured *d, enum nvme_engine engine,
				       uint32_t extent, unsigned depth)
{
	for (size_t i = 0; i < d->cell_count; i++)
		if (d->cells[i].engine == engine && d->cells[i].extent == extent &&
		    d->cells[i].depth == depth && d->cells[i].mixed > 0)
			return &d->cells[i];
	return NULL;
}

static void print_row(const struct nvme_measured *d, const struct axes *a, enum nvme_engine engine,
		      uint32_t extent)
{
	char text[UNITS_TEXT_BYTES];

	printf("  %-10s%10s", nvme_engine_name(engine), units_format_bytes(text, extent));
	for (size_t i = 0; i < a->depth_count; i++) {
		const struct nvme_cell *c = cell_at(d, engine, extent, a->depths[i]);

		if (c)
			printf("%8.2f%s", c->mixed * 1e-9, c == &d->cells[d->chosen] ? "*" : " ");
		else
			printf("%8s ", "-");
	}
	putchar('\n');
}

static void print_cells(const struct nvme_measured *d)
{
	const struct axes a = axes_of(d);

	printf("\nreads and writes in turn, all directories, GB/s\n  %-10s%10s", "engine",
	       "extent");
	for (size_t i = 0; i < a.depth_count; i++)
		printf("%7s%-2u", i == 0 ? "depth " : "", a.depths[i]);
	putchar('\n');
	for (int e = NVME_URING; e < NVME_ENGINE_COUNT; e++)
		for (size_t x = 0; x < a.extent_count; x++)
			if (e != NVME_LIBAIO || d->missing.code == 0)
				print_row(d, &a, (enum nvme_engine)e, a.extents[x]);
	if (d->missing.code)
		printf("  not measured: %s\n", d->missing.text);
}

static void print_speed(const char *name, const struct nvme_speed *s, double share)
{
	printf("  %-40s%8.2f%8.2f%8.2f", name, s->read * 1e-9, s->write * 1e-9, s->mixed * 1e-9);
	if (share > 0)
		printf("%8.0f %%", share * 100);
	putchar('\n');
}

static void print_speeds(const struct nvme_figures *f)
{
	double shares = 0;

	for (size_t i = 0; i < f->path_count; i++)
		shares += f->paths[i].share;
	printf("\n%-42s%8s%8s%8s%10s\n", "GB/s", "read", "write", "mixed", "share");
	for (size_t i = 0; i < f->path_count; i++)
		print_speed(f->paths[i].path, &f->paths[i].alone, f->paths[i].share / shares);
	if (f->path_count > 1)
		print_speed("all together", &f->together, 0);
}

static void print_steps(const struct bench_result *r)
{
	const struct nvme_figures *f = &r->disks.figures;

	if (r->memory.code) {
		printf("\nmemory was not measured: %s\n", r->memory.text);
		return;
	}
	printf("\n%-42s%8s%8s%8s\n", "optimizer's step in memory, GB/s", "threads", "step",
	       "limit");
	for (size_t i = 0; i < f->step_count; i++)
		printf("  %-40s%8" PRIu64 "%8.2f%8.2f\n", "", f->steps[i].threads,
		       f->steps[i].step * 1e-9, f->steps[i].move * 1e-9);
}

static double best_mixed(const struct nvme_measured *d)
{
	double best = 0;

	for (size_t i = 0; i < d->cell_count; i++)
		if (d->cells[i].mixed > best)
			best = d->cells[i].mixed;
	return best;
}

static void print_choice(const struct bench_result *r)
{
	const struct nvme_measured *d = &r->disks;
	char extent[UNITS_TEXT_BYTES], written[UNITS_TEXT_BYTES];

	printf("\nchosen: %s, extent %s, queue depth %" PRIu64
	       ": %.2f GB/s, where the best of all is %.2f\n",
	       nvme_engine_name(d->figures.engine), units_format_bytes(extent, d->figures.extent),
	       d->figures.queue_depth, d->cells[d->chosen].mixed * 1e-9, best_mixed(d) * 1e-9);
	printf("%s%s; measuring wrote %s\n", r->written ? "written to " : "not written",
	       r->written ? r->written : "", units_format_bytes(written, d->written_bytes));
}

int bench_print(const struct bench_result *r, struct err *err)
{
	char text[ENDURANCE_TEXT_BYTES];

	printf("endurance: %s\n", endurance_text(text, &r->endurance, &r->disks.figures));
	if (r->busy_sessions > 0)
		printf("NOT TO BE TRUSTED: a daemon served %" PRIu64 " sessions meanwhile\n",
		       r->busy_sessions);
	print_cells(&r->disks);
	print_speeds(&r->disks.figures);
	print_steps(r);
	print_choice(r);
	if (fflush(stdout) != 0 || ferror(stdout))
		return err_sys(err, ERR_IO, "standard output");
	return 0;
}

/* JSON. */

static void json_speed(struct json *j, const struct nvme_speed *s)
{
	json_double(j, "read_bytes_per_s", s->read);
	json_double(j, "write_bytes_per_s", s->write);
	json_double(j, "mixed_bytes_per_s", s->mixed);
}

static void json_endurance(struct json *j, const struct endurance *e)
{
	json_object_begin(j, "endurance");
	if (e->params > 0) {
		json_u64(j, "params", e->params);
		json_u64(j, "step_write_bytes", e->step_write_bytes);
		json_double(j, "step_seconds", e->step_seconds);
		json_bool(j, "step_given", e->step_given);
	}
	json_double(j, "day_bytes", e->day_bytes);
	if (e->day_of_rating > 0)
		json_double(j, "day_of_rating", e->day_of_rating);
	if (e->days > 0)
		json_double(j, "days", e->days);
	json_object_end(j);
}

static void json_cells(struct json *j, const struct nvme_measured *d)
{
	json_array_begin(j, "cells");
	for (size_t i = 0; i < d->cell_count; i++) {
		const struct nvme_cell *c = &d->cells[i];

		json_object_begin(j, NULL);
		json_string(j, "engine", nvme_engine_name(c->engine));
		json_u64(j, "extent_bytes", c->extent);
		json_u64(j, "queue_depth", c->depth);
		json_double(j, "mixed_bytes_per_s", c->mixed);
		json_u64(j, "samples", c->count);
		json_object_end(j);
	}
	json_array_end(j);
}

static void json_figures(struct json *j, const struct nvme_figures *f)
{
	json_u64(j, "measured", f->measured);
	json_string(j, "engine", nvme_engine_name(f->engine));
	json_u64(j, "extent_bytes", f->extent);
	json_u64(j, "queue_depth", f->queue_depth);
	json_object_begin(j, "together");
	json_speed(j, &f->together);
	json_object_end(j);
	json_array_begin(j, "directories");
	for (size_t i = 0; i < f->path_count; i++) {
		json_object_begin(j, NULL);
		json_string(j, "path", f->paths[i].path);
		json_speed(j, &f->paths[i].alone);
		json_double(j, "share_bytes_per_s", f->paths[i].share);
		json_object_end(j);
	}
	json_array_end(j);
	json_array_begin(j, "steps");
	for (size_t i = 0; i < f->step_count; i++) {
		json_object_begin(j, NULL);
		json_u64(j, "threads", f->steps[i].threads);
		json_double(j, "step_bytes_per_s", f->steps[i].step);
		json_double(j, "limit_bytes_per_s", f->steps[i].move);
		json_object_end(j);
	}
	json_array_end(j);
}

int bench_print_json(const struct bench_result *r, struct err *err)
{
	char text[ENDURANCE_TEXT_BYTES];
	struct json j;
	int rc = 0;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_string(&j, "warning", endurance_text(text, &r->endurance, &r->disks.figures));
	json_endurance(&j, &r->endurance);
	json_figures(&j, &r->disks.figures);
	json_cells(&j, &r->disks);
	if (r->disks.missing.code)
		json_string(&j, "missing_engine", r->disks.missing.text);
	if (r->memory.code)
		json_string(&j, "missing_memory", r->memory.text);
	json_u64(&j, "bench_written_bytes", r->disks.written_bytes);
	json_u64(&j, "busy_sessions", r->busy_sessions);
	if (r->written)
		json_string(&j, "file", r->written);
	json_object_end(&j);
	if (!json_text(&j))
		rc = err_sys(err, -ENOMEM, "the answer");
	else if (puts(json_text(&j)) < 0 || fflush(stdout) != 0)
		rc = err_sys(err, ERR_IO, "standard output");
	json_done(&j);
	return rc;
}
