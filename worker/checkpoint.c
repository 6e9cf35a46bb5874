/*
 * Checkpoints: the directory, and writing. checkpoint_read.c reads. Called by the worker's main
 * thread, on all ranks at the same step, but for checkpoint_prepare.
 *
 *	rank 0: mkdir .tmp | all: state files, fsync | rank 0: manifest, fsync, rename, fsync, prune
 *	                   agree                     agree                                    agree
 *
 * 1. A directory named step-N is whole: it got its name after every byte in it was on the disk.
 * 2. A checkpoint leaves the name before its files go: a half-removed one is never read.
 * 3. Ranks fail together. After a failure of its own a rank goes on exporting, since others wait
 *    for it in collectives, and says at the next agreement what happened.
 * 4. Memory: one piece, whatever the size of the model.
 */
#include "worker/checkpoint.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "common/units.h"
#include "worker/checkpoint_manifest.h"

char *checkpoint_path(const struct train_config *config, uint64_t step)
{
	char *path;

	if (asprintf(&path, "%s/step-%08" PRIu64, config->checkpoint.dir, step) < 0)
		return NULL;
	return path;
}

static char *temp_path(const struct train_config *config, uint64_t step)
{
	char *path;

	if (asprintf(&path, "%s/.step-%08" PRIu64 ".tmp", config->checkpoint.dir, step) < 0)
		return NULL;
	return path;
}

static int no_memory(const struct checkpoint_job *job, struct err *err)
{
	return err_sys(err, -ENOMEM, "%s", job->config->checkpoint.dir);
}

/* The step of "step-00000500"; false for any other name. */
static bool step_parse(const char *name, uint64_t *ret)
{
	char *end;

	if (strncmp(name, "step-", 5) || !isdigit((unsigned char)name[5]))
		return false;
	errno = 0;
	*ret = strtoull(name + 5, &end, 10);
	return !errno && !*end;
}

static bool is_leftover(const char *name)
{
	size_t len = strlen(name);

	return !strncmp(name, ".step-", 6) && len > 10 && !strcmp(name + len - 4, ".tmp");
}

static int compare_newest_first(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps of all checkpoints, the newest first; the caller frees. */
static int list(const char *dir, uint64_t **ret, size_t *ret_count, struct err *err)
{
	uint64_t *steps = NULL, step;
	size_t count = 0;
	struct dirent *entry;
	DIR *d = opendir(dir);
	int rc = 0;

	if (!d)
		return err_set(err, ERR_NOINPUT, "%s: %s", dir, err_str(-errno));
	for (errno = 0; !rc && (entry = readdir(d)); errno = 0) {
		uint64_t *more;

		if (!step_parse(entry->d_name, &step))
			continue;
		more = realloc(steps, (count + 1) * sizeof(*steps));
		if (!more) {
			rc = err_sys(err, -ENOMEM, "%s", dir);
			break;
		}
		steps = more;
		steps[count++] = step;
	}
	if (!rc && errno)
		rc = err_set(err, ERR_IO, "%s: %s", dir, err_str(-errno));
	closedir(d);
	if (rc < 0) {
		free(steps);
		return rc;
	}
	if (count)
		qsort(steps, count, sizeof(*steps), compare_newest_first);
	*ret = steps;
	*ret_count = count;
	return 0;
}

static int remove_leftovers(const char *dir, struct err *err)
{
	struct dirent *entry;
	DIR *d = opendir(dir);
	int rc = 0;

	if (!d)
		return err_set(err, ERR_NOINPUT, "%s: %s", dir, err_str(-errno));
	while (!rc && (entry = readdir(d))) {
		char *path;

		if (!is_leftover(entry->d_name))
			continue;
		if (asprintf(&path, "%s/%s", dir, entry->d_name) < 0) {
			rc = err_sys(err, -ENOMEM, "%s", dir);
			break;
		}
		rc = file_remove_tree(path, err);
		free(path);
	}
	closedir(d);
	return rc;
}

/* mkdir -p */
static int make_dirs(const char *path, struct err *err)
{
	char *copy = strdup(path);
	int rc = copy ? 0 : err_sys(err, -ENOMEM, "%s", path);

	for (char *p = copy; !rc && p;) {
		char *slash = strchr(p + 1, '/');

		if (slash)
			*slash = '\0';
		if (mkdir(copy, 0777) < 0 && errno != EEXIST)
			rc = err_set(err, ERR_CANTCREAT, "%s: %s", copy, err_str(-errno));
		if (slash)
			*slash = '/';
		p = slash;
	}
	free(copy);
	return rc;
}

static int lock(const char *dir, int *ret, struct err *err)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_set(err, ERR_CANTCREAT, "%s: %s", dir, err_str(-errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int code = errno;

		close(fd);
		if (code == EWOULDBLOCK)
			return err_set(err, ERR_CONFIG,
				       "checkpoint.dir: %s: another run is writing here", dir);
		return err_sys(err, -code, "%s: locking", dir);
	}
	*ret = fd;
	return 0;
}

/* Better now than after hours: is there room for one, and may we write? */
static int probe(const struct checkpoint_job *job, struct err *err)
{
	const char *dir = job->config->checkpoint.dir;
	char need_text[UNITS_TEXT_BYTES], free_text[UNITS_TEXT_BYTES];
	uint64_t need = checkpoint_vectors(job->config) * sizeof(float) * job->arch->params, room;
	struct statvfs fs;
	char *path = temp_path(job->config, 0);
	int rc = 0;

	if (!path)
		return no_memory(job, err);
	if (mkdir(path, 0777) < 0 || rmdir(path) < 0)
		rc = err_set(err, ERR_CANTCREAT, "%s: %s", dir, err_str(-errno));
	free(path);
	if (rc < 0)
		return rc;
	if (statvfs(dir, &fs) < 0)
		return err_sys(err, -errno, "%s", dir);
	room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (room < need)
		return err_set(err, ERR_CANTCREAT, "%s: a checkpoint takes %s, %s are free", dir,
			       units_format_bytes(need_text, need),
			       units_format_bytes(free_text, room));
	return 0;
}

int checkpoint_prepare(const struct checkpoint_job *job, bool resume, uint64_t *ret_step,
		       int *ret_lock, struct err *err)
{
	const char *dir = job->config->checkpoint.dir;
	uint64_t *steps = NULL, newest;
	size_t count = 0;
	int fd = -1, rc;

	rc = make_dirs(dir, err);
	if (!rc)
		rc = lock(dir, &fd, err);
	if (rc < 0)
		return rc;
	rc = list(dir, &steps, &count, err);
	newest = count ? steps[0] : 0;
	free(steps);
	if (!rc && count && !resume)
		rc = err_set(
			err, ERR_CONFIG,
			"checkpoint.dir: %s holds a run up to step %ju: go on with --resume, or "
			"name another directory",
			dir, (uintmax_t)newest);
	if (!rc)
		rc = remove_leftovers(dir, err);
	if (!rc)
		rc = probe(job, err);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	*ret_step = newest;
	*ret_lock = fd;
	return 0;
}

bool checkpoint_older(const struct checkpoint_job *job, uint64_t step, uint64_t *ret)
{
	struct err ignored = {0};
	uint64_t *steps;
	bool found = false;
	size_t count;

	if (list(job->config->checkpoint.dir, &steps, &count, &ignored) < 0)
		return false;
	for (size_t i = 0; !found && i < count; i++)
		if (steps[i] < step) {
			*ret = steps[i];
			found = true;
		}
	free(steps);
	return found;
}

int checkpoint_agree(const struct checkpoint_job *job, uint64_t *step, struct err *err)
{
	uint64_t *all = calloc(job->world, sizeof(*all));
	int rc;

	if (!all)
		return no_memory(job, err);
	rc = engine_exchange(job->engine, step, sizeof(*step), all, err);
	if (!rc)
		*step = all[0];
	free(all);
	return rc;
}

/* What a rank says at an agreement. */
struct vote {
	int32_t code;
	uint32_t crc;
	uint64_t bytes;
	char text[1024];
};

/*
 * Everybody's votes at ret_all, which the caller frees. Returns the error of the first rank that
 * has one, the same on every rank. `rc` is mine, its text in err.
 */
static int agree(const struct checkpoint_job *job, int rc, struct vote *mine, struct vote **ret_all,
		 struct err *err)
{
	struct vote *all = calloc(job->world, sizeof(*all));
	int exchanged;

	if (!all)
		return no_memory(job, err);
	mine->code = rc;
	if (rc < 0)
		snprintf(mine->text, sizeof(mine->text), "%.*s", (int)sizeof(mine->text) - 1,
			 err->text);
	exchanged = engine_exchange(job->engine, mine, sizeof(*mine), all, err);
	for (unsigned r = 0; !exchanged && r < job->world; r++)
		if (all[r].code < 0) {
			exchanged = err_set(err, all[r].code, "%.*s", (int)sizeof(all[r].text) - 1,
					    all[r].text);
			break;
		}
	if (exchanged < 0 || !ret_all) {
		free(all);
		return exchanged;
	}
	*ret_all = all;
	return 0;
}

struct writer {
	const struct checkpoint_job *job;
	const char *path;
	int fd;
	uint64_t bytes, pieces;
	uint32_t crc; /* of pieces' heads */
};

static int put(struct writer *w, const void *data, size_t len, struct err *err)
{
	int rc = file_write_all(w->fd, data, len, err);

	if (rc < 0)
		return err_add(err, "%s", w->path);
	w->bytes += len;
	return 0;
}

static int write_piece(struct writer *w, const struct engine_piece *p, struct err *err)
{
	const uint64_t elems = w->job->arch->units[p->unit].elems;
	struct checkpoint_piece head = {
		.magic = CHECKPOINT_PIECE_MAGIC, .unit = (uint32_t)p->unit, .first = p->first};
	const float *vectors[] = {p->master, p->m, p->v};
	const size_t vector_count = checkpoint_vectors(w->job->config);
	size_t bytes;
	int rc;

	/* Padding is not part of the model. */
	if (p->first >= elems)
		return 0;
	head.count = p->count < elems - p->first ? p->count : elems - p->first;
	bytes = head.count * sizeof(float);
	for (size_t i = 0; i < vector_count; i++)
		head.crc = crc32c(head.crc, vectors[i], bytes);
	head.head_crc = crc32c(0, &head, offsetof(struct checkpoint_piece, head_crc));
	rc = put(w, &head, sizeof(head), err);
	for (size_t i = 0; !rc && i < vector_count; i++)
		rc = put(w, vectors[i], bytes, err);
	w->crc = crc32c(w->crc, &head, sizeof(head));
	w->pieces++;
	return rc;
}

/* Everything of this rank; see invariant 3. */
static int write_pieces(struct writer *w, int rc, struct err *err)
{
	for (size_t u = 0; u < w->job->arch->unit_count; u++)
		for (size_t i = 0; i < engine_export_pieces(w->job->engine, u); i++) {
			struct err export_err = {0};
			struct engine_piece p;
			int exported = engine_export(w->job->engine, u, i, &p, &export_err);

			if (exported < 0) {
				*err = export_err;
				return exported;
			}
			if (!rc)
				rc = write_piece(w, &p, err);
		}
	return rc;
}

static int write_head(struct writer *w, uint64_t step, struct err *err)
{
	struct checkpoint_head head = {
		.magic = CHECKPOINT_HEAD_MAGIC,
		.version = CHECKPOINT_VERSION,
		.rank = w->job->rank,
		.world = w->job->world,
		.step = step,
		.piece_count = w->pieces,
	};
	int rc;

	head.crc = crc32c(0, &head, offsetof(struct checkpoint_head, crc));
	rc = file_pwrite_all(w->fd, &head, sizeof(head), 0, err);
	if (rc < 0)
		return err_add(err, "%s", w->path);
	w->crc = crc32c(w->crc, &head, sizeof(head));
	if (fsync(w->fd) < 0)
		return err_sys(err, -errno, "%s", w->path);
	return 0;
}

/* This rank's state file. */
static int write_state(const struct checkpoint_job *job, const char *dir, uint64_t step,
		       struct vote *ret, struct err *err)
{
	static const struct checkpoint_head blank;
	char name[STATE_NAME_BYTES], *path;
	struct writer w = {.job = job, .fd = -1};
	int rc = 0;

	manifest_state_name(name, job->rank);
	if (asprintf(&path, "%s/%s", dir, name) < 0) {
		path = NULL;
		rc = no_memory(job, err);
	}
	w.path = path;
	if (!rc) {
		w.fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (w.fd < 0)
			rc = err_set(err, ERR_CANTCREAT, "%s: %s", path, err_str(-errno));
	}
	if (!rc)
		rc = put(&w, &blank, sizeof(blank), err);
	rc = write_pieces(&w, rc, err);
	if (!rc)
		rc = write_head(&w, step, err);
	if (w.fd >= 0 && close(w.fd) < 0 && !rc)
		rc = err_sys(err, -errno, "%s", path);
	free(path);
	ret->crc = w.crc;
	ret->bytes = w.bytes;
	return rc;
}

static int sync_dir(const char *path, struct err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (fd < 0 || fsync(fd) < 0)
		rc = err_sys(err, -errno, "%s", path);
	if (fd >= 0)
		close(fd);
	return rc;
}

static int write_manifest(const struct checkpoint_job *job, const struct checkpoint_state *state,
			  const char *dir, const struct vote *votes, struct err *err)
{
	struct manifest_file *files = calloc(job->world, sizeof(*files));
	char(*names)[STATE_NAME_BYTES] = calloc(job->world, sizeof(*names));
	char *path = NULL, *text = NULL;
	int rc = 0;

	for (unsigned r = 0; files && names && r < job->world; r++) {
		manifest_state_name(names[r], r);
		files[r] = (struct manifest_file){names[r], votes[r].bytes, votes[r].crc};
	}
	if (files && names)
		text = manifest_format(job, state, files);
	if (!text || asprintf(&path, "%s/%s", dir, CHECKPOINT_MANIFEST) < 0) {
		path = NULL;
		rc = no_memory(job, err);
	}
	if (!rc)
		rc = file_replace(path, text, strlen(text), err);
	free(path);
	free(text);
	free(names);
	free(files);
	return rc;
}

/* Removes all but the newest checkpoint.keep. */
static int prune(const struct checkpoint_job *job, struct err *err)
{
	uint64_t *steps;
	size_t count;
	int rc = list(job->config->checkpoint.dir, &steps, &count, err);

	if (rc < 0)
		return rc;
	for (size_t i = job->config->checkpoint.keep; !rc && i < count; i++) {
		char *path = checkpoint_path(job->config, steps[i]);
		char *temp = temp_path(job->config, steps[i]);

		if (!path || !temp)
			rc = no_memory(job, err);
		else if (rename(path, temp) < 0)
			rc = err_sys(err, -errno, "%s: removing it", path);
		else
			rc = file_remove_tree(temp, err);
		free(path);
		free(temp);
	}
	free(steps);
	return rc;
}

/* Rank 0, once all state files are on the disk. */
static int publish(const struct checkpoint_job *job, const struct checkpoint_state *state,
		   const char *temp, const struct vote *votes, struct err *err)
{
	char *path = checkpoint_path(job->config, state->step);
	int rc = path ? 0 : no_memory(job, err);

	if (!rc)
		rc = write_manifest(job, state, temp, votes, err);
	if (!rc)
		rc = sync_dir(temp, err);
	if (!rc && rename(temp, path) < 0)
		rc = err_set(err, ERR_CANTCREAT, "%s: %s", path, err_str(-errno));
	if (!rc)
		rc = file_sync_parent(path, err);
	if (!rc)
		rc = prune(job, err);
	free(path);
	return rc;
}

static int make_temp(const char *temp, struct err *err)
{
	if (mkdir(temp, 0777) < 0)
		return err_set(err, ERR_CANTCREAT, "%s: %s", temp, err_str(-errno));
	return 0;
}

int checkpoint_write(const struct checkpoint_job *job, const struct checkpoint_state *state,
		     struct err *err)
{
	struct vote mine = {0}, *votes = NULL;
	char *temp = temp_path(job->config, state->step);
	int rc = temp ? 0 : no_memory(job, err);

	if (!rc && job->rank == 0)
		rc = make_temp(temp, err);
	rc = agree(job, rc, &mine, NULL, err);
	if (rc < 0)
		goto out;
	rc = write_state(job, temp, state->step, &mine, err);
	rc = agree(job, rc, &mine, &votes, err);
	if (!rc) {
		if (job->rank == 0)
			rc = publish(job, state, temp, votes, err);
		rc = agree(job, rc, &mine, NULL, err);
	}
	if (rc < 0 && job->rank == 0) {
		struct err ignored = {0};

		/* What cannot be removed now is a leftover, and goes at the next start. */
		file_remove_tree(temp, &ignored);
	}
out:
	free(votes);
	free(temp);
	return rc < 0 ? err_add(err, "checkpoint of step %ju", (uintmax_t)state->step) : 0;
}
