/*
 * Checkpoints: reading. Called by the worker's main thread before the first step, on all ranks.
 *
 * 1. Nothing is believed before its checksum: the manifest covers sizes and the heads of the state
 *    files, these cover the data. Together the pieces cover each element of the model once.
 * 2. A damaged checkpoint is an error, never a reason to quietly take another.
 * 3. Memory: the index of pieces, and one piece.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "worker/checkpoint.h"
#include "worker/checkpoint_manifest.h"

/* Where a piece is. */
struct place {
	uint32_t unit, file, crc;
	uint64_t first, count;
	uint64_t offset; /* of its data */
};

struct reader {
	const struct checkpoint_job *job;
	char *dir;
	struct manifest manifest;
	struct conf_doc *doc;
	size_t vectors;       /* of a piece */
	struct place *places; /* by unit, then first */
	size_t place_count, place_room;
	int fd; /* of file fd_file, or -1 */
	uint32_t fd_file;
	float *buffer; /* the data of buffered, or NULL */
	uint64_t buffer_floats;
	const struct place *buffered;
};

static const struct manifest_file *file_of(const struct reader *r, uint32_t file)
{
	return (const struct manifest_file *)r->manifest.files.at + file;
}

/* Makes r->fd that of state file `file`. */
static int file_use(struct reader *r, uint32_t file, struct err *err)
{
	char *path;

	if (r->fd >= 0 && r->fd_file == file)
		return 0;
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
	if (asprintf(&path, "%s/%s", r->dir, file_of(r, file)->name) < 0)
		return err_sys(err, -ENOMEM, "%s", r->dir);
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (r->fd < 0) {
		int rc = err_set(err, ERR_DATA, "%s: %s", path, err_str(-errno));

		free(path);
		return rc;
	}
	free(path);
	r->fd_file = file;
	return 0;
}

static int damaged(const struct reader *r, uint32_t file, struct err *err, const char *what)
{
	return err_set(err, ERR_DATA, "%s/%s: %s", r->dir, file_of(r, file)->name, what);
}

static int check_head(const struct reader *r, uint32_t file, const struct checkpoint_head *h,
		      struct err *err)
{
	if (h->magic != CHECKPOINT_HEAD_MAGIC)
		return damaged(r, file, err, "not a state file");
	if (h->version != r->manifest.version)
		return damaged(r, file, err, "of another version");
	if (h->crc != crc32c(0, h, offsetof(struct checkpoint_head, crc)))
		return damaged(r, file, err, "its head is damaged");
	if (h->rank != file || h->world != r->manifest.world || h->step != r->manifest.step)
		return damaged(r, file, err, "of another checkpoint");
	return 0;
}

static int check_piece(const struct reader *r, uint32_t file, const struct checkpoint_piece *p,
		       uint64_t bytes_left, struct err *err)
{
	const struct arch *arch = r->job->arch;

	if (p->magic != CHECKPOINT_PIECE_MAGIC ||
	    p->head_crc != crc32c(0, p, offsetof(struct checkpoint_piece, head_crc)))
		return damaged(r, file, err, "the head of a piece is damaged");
	if (p->unit >= arch->unit_count || !p->count || p->first > arch->units[p->unit].elems ||
	    p->count > arch->units[p->unit].elems - p->first)
		return damaged(r, file, err, "a piece lies outside the model");
	if (p->count > bytes_left / (r->vectors * sizeof(float)))
		return damaged(r, file, err, "a piece is longer than the file");
	return 0;
}

static int place_add(struct reader *r, const struct place *place, struct err *err)
{
	if (r->place_count == r->place_room) {
		size_t room = r->place_room ? 2 * r->place_room : 64;
		struct place *more = realloc(r->places, room * sizeof(*more));

		if (!more)
			return err_sys(err, -ENOMEM, "%s", r->dir);
		r->places = more;
		r->place_room = room;
	}
	r->places[r->place_count++] = *place;
	return 0;
}

/* Walks the heads of the pieces; *crc goes over them. */
static int index_pieces(struct reader *r, uint32_t file, uint64_t count, uint32_t *crc,
			struct err *err)
{
	const uint64_t bytes = file_of(r, file)->bytes;
	uint64_t at = sizeof(struct checkpoint_head);

	for (uint64_t i = 0; i < count; i++) {
		struct checkpoint_piece p;
		struct place place;
		int rc;

		if (bytes - at < sizeof(p))
			return damaged(r, file, err, "truncated");
		rc = file_pread_all(r->fd, &p, sizeof(p), at, err);
		if (rc < 0)
			return err_add(err, "%s/%s", r->dir, file_of(r, file)->name);
		*crc = crc32c(*crc, &p, sizeof(p));
		at += sizeof(p);
		rc = check_piece(r, file, &p, bytes - at, err);
		if (rc < 0)
			return rc;
		place = (struct place){.unit = p.unit,
				       .file = file,
				       .crc = p.crc,
				       .first = p.first,
				       .count = p.count,
				       .offset = at};
		rc = place_add(r, &place, err);
		if (rc < 0)
			return rc;
		at += p.count * r->vectors * sizeof(float);
	}
	return at == bytes ? 0 : damaged(r, file, err, "longer than its pieces");
}

static int index_file(struct reader *r, uint32_t file, struct err *err)
{
	const struct manifest_file *expected = file_of(r, file);
	struct checkpoint_head head;
	struct stat st;
	uint32_t crc = 0;
	int rc = file_use(r, file, err);

	if (rc < 0)
		return rc;
	if (fstat(r->fd, &st) < 0)
		return err_sys(err, -errno, "%s/%s", r->dir, expected->name);
	if ((uint64_t)st.st_size != expected->bytes || expected->bytes < sizeof(head))
		return err_set(err, ERR_DATA, "%s/%s: %ju bytes, the manifest says %ju", r->dir,
			       expected->name, (uintmax_t)st.st_size, (uintmax_t)expected->bytes);
	rc = file_pread_all(r->fd, &head, sizeof(head), 0, err);
	if (rc < 0)
		return err_add(err, "%s/%s", r->dir, expected->name);
	rc = check_head(r, file, &head, err);
	if (!rc)
		rc = index_pieces(r, file, head.piece_count, &crc, err);
	if (rc < 0)
		return rc;
	if (crc32c(crc, &head, sizeof(head)) != expected->crc)
		return damaged(r, file, err, "not the file that the manifest speaks of");
	return 0;
}

static int compare_places(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	if (x->unit != y->unit)
		return x->unit < y->unit ? -1 : 1;
	return x->first < y->first ? -1 : x->first > y->first;
}

/* Each element once? */
static int check_coverage(const struct reader *r, struct err *err)
{
	size_t i = 0;

	for (size_t u = 0; u < r->job->arch->unit_count; u++) {
		uint64_t at = 0;

		for (; i < r->place_count && r->places[i].unit == u; i++) {
			if (r->places[i].first != at)
				return err_set(err, ERR_DATA, "%s: %s element %ju of unit %zu (%s)",
					       r->dir,
					       r->places[i].first > at ? "lacks" : "has twice",
					       (uintmax_t)at, u, r->job->arch->units[u].name);
			at += r->places[i].count;
		}
		if (at != r->job->arch->units[u].elems)
			return err_set(err, ERR_DATA, "%s: lacks element %ju of unit %zu (%s)",
				       r->dir, (uintmax_t)at, u, r->job->arch->units[u].name);
	}
	return 0;
}

static void reader_close(struct reader *r)
{
	if (r->fd >= 0)
		close(r->fd);
	conf_free(r->doc);
	free(r->places);
	free(r->buffer);
	free(r->dir);
}

static int reader_open(struct reader *r, const struct checkpoint_job *job, uint64_t step,
		       struct err *err)
{
	char *path = NULL;
	int rc;

	*r = (struct reader){.job = job, .fd = -1, .vectors = checkpoint_vectors(job->config)};
	r->dir = checkpoint_path(job->config, step);
	if (!r->dir || asprintf(&path, "%s/%s", r->dir, CHECKPOINT_MANIFEST) < 0) {
		free(r->dir);
		return err_sys(err, -ENOMEM, "%s", job->config->checkpoint.dir);
	}
	rc = manifest_load(path, step, &r->manifest, &r->doc, err);
	if (!rc)
		rc = manifest_fits(&r->manifest, path, job->config, err);
	free(path);
	for (uint32_t f = 0; !rc && f < r->manifest.world; f++)
		rc = index_file(r, f, err);
	if (!rc && r->place_count)
		qsort(r->places, r->place_count, sizeof(*r->places), compare_places);
	if (!rc)
		rc = check_coverage(r, err);
	if (rc < 0)
		reader_close(r);
	return rc;
}

/* The vectors of a piece, one behind the other, checked. */
static int load(struct reader *r, const struct place *p, struct err *err)
{
	const uint64_t floats = r->vectors * p->count;
	int rc;

	if (r->buffered == p)
		return 0;
	r->buffered = NULL;
	if (r->buffer_floats < floats) {
		free(r->buffer);
		r->buffer_floats = 0;
		r->buffer = malloc(floats * sizeof(float));
		if (!r->buffer)
			return err_sys(err, -ENOMEM, "%s: a piece of %ju elements", r->dir,
				       (uintmax_t)p->count);
		r->buffer_floats = floats;
	}
	rc = file_use(r, p->file, err);
	if (rc < 0)
		return rc;
	rc = file_pread_all(r->fd, r->buffer, floats * sizeof(float), p->offset, err);
	if (rc < 0)
		return err_add(err, "%s/%s", r->dir, file_of(r, p->file)->name);
	if (crc32c(0, r->buffer, floats * sizeof(float)) != p->crc)
		return err_set(err, ERR_DATA,
			       "%s/%s: elements %ju..%ju of unit %u are damaged: checksum mismatch",
			       r->dir, file_of(r, p->file)->name, (uintmax_t)p->first,
			       (uintmax_t)(p->first + p->count - 1), p->unit);
	r->buffered = p;
	return 0;
}

/* The place that holds element `at` of a unit, which coverage says is there. */
static const struct place *find(const struct reader *r, size_t unit, uint64_t at)
{
	size_t lo = 0, hi = r->place_count;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;
		const struct place *p = &r->places[mid];

		if (p->unit < unit || (p->unit == unit && p->first <= at))
			lo = mid;
		else
			hi = mid;
	}
	assert(r->places[lo].unit == unit && at - r->places[lo].first < r->places[lo].count);
	return &r->places[lo];
}

static int fill_piece(struct reader *r, struct engine_piece *p, struct err *err)
{
	const uint64_t elems = r->job->arch->units[p->unit].elems;
	float *out[] = {p->master, p->m, p->v};

	for (size_t i = 0; i < r->vectors; i++)
		memset(out[i], 0, p->count * sizeof(float));
	for (uint64_t at = p->first; at < p->first + p->count && at < elems;) {
		const struct place *place = find(r, p->unit, at);
		uint64_t skip = at - place->first, n = place->count - skip;
		int rc = load(r, place, err);

		if (rc < 0)
			return rc;
		if (n > p->first + p->count - at)
			n = p->first + p->count - at;
		for (size_t i = 0; i < r->vectors; i++)
			memcpy(out[i] + (at - p->first), r->buffer + i * place->count + skip,
			       n * sizeof(float));
		at += n;
	}
	return 0;
}

static int import(struct reader *r, struct err *err)
{
	struct engine *engine = r->job->engine;

	for (size_t u = 0; u < r->job->arch->unit_count; u++)
		for (size_t i = 0; i < engine_import_pieces(engine, u); i++) {
			struct engine_piece p;
			int rc = engine_import_begin(engine, u, i, &p, err);

			if (!rc)
				rc = fill_piece(r, &p, err);
			if (!rc)
				rc = engine_import_end(engine, &p, err);
			if (rc < 0)
				return rc;
		}
	return engine_import_done(engine, err);
}

int checkpoint_verify(const struct checkpoint_job *job, uint64_t step, struct err *err)
{
	struct reader r;
	int rc = reader_open(&r, job, step, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; !rc && i < r.place_count; i++)
		rc = load(&r, &r.places[i], err);
	reader_close(&r);
	return rc;
}

/* Adds to the message which older checkpoint is whole. */
static int name_older(const struct checkpoint_job *job, uint64_t step, struct err *err)
{
	struct err found = *err;
	uint64_t older = step;

	while (checkpoint_older(job, older, &older)) {
		struct err ignored = {0};
		char *bad, *good;

		if (checkpoint_verify(job, older, &ignored) < 0)
			continue;
		bad = checkpoint_path(job->config, step);
		good = checkpoint_path(job->config, older);
		if (bad && good)
			err_set(err, found.code,
				"%s; %s is whole: to go on from there, move %s away", found.text,
				good, bad);
		free(bad);
		free(good);
		return err->code;
	}
	return err_set(err, found.code, "%s; no older checkpoint there is whole", found.text);
}

int checkpoint_read(const struct checkpoint_job *job, uint64_t step, struct checkpoint_state *ret,
		    char ret_note[CHECKPOINT_NOTE_BYTES], struct err *err)
{
	struct reader r;
	int rc = reader_open(&r, job, step, err);

	if (rc == ERR_DATA)
		return name_older(job, step, err);
	if (rc < 0)
		return rc;
	rc = import(&r, err);
	if (!rc) {
		*ret = (struct checkpoint_state){.step = r.manifest.step,
						 .sequences = r.manifest.sequences};
		manifest_note(&r.manifest, job->config, ret_note);
	}
	reader_close(&r);
	return rc == ERR_DATA ? name_older(job, step, err) : rc;
}
