/*
 * The file of figures: its table of keys, its text, and whether figures hold for given directories.
 * Called by dsctl, which writes it, by dsrun and by the daemon, which read it; any thread.
 *
 * Invariants
 *  1. What is written can be read back: nvme_figures_save parses its own text before it replaces
 *     anything.
 *  2. Figures are believed for a directory only while its filesystem is the one that was measured.
 *     The name of a directory outlives a disk: a mount point without its mount is another disk.
 */
#include "nvme/figures.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "common/conf.h"
#include "common/file.h"
#include "common/json.h"

#define VERSION     1
#define SPEED_MAX   1e15
#define THREADS_MAX 65536.0
#define SECONDS_MAX 253402300799.0 /* the last second of year 9999 */
#define FILE_MAX    (64u << 10)
#define UUID_BYTES  16u

/* FS_IOC_GETFSUUID of Linux 6.9, whose headers are newer than what we build with. */
struct fsuuid {
	uint8_t len;
	uint8_t uuid[UUID_BYTES];
};
#define GETFSUUID _IOR(0x15, 0, struct fsuuid)

/* The file as conf reads it. */
struct directory {
	const char *path, *filesystem;
	struct nvme_speed alone;
	double share;
};

struct file {
	uint64_t version, measured, extent, queue_depth;
	int engine;
	struct nvme_speed together;
	struct conf_items directories, steps;
};

static const char *const engine_names[] = {"auto", "io_uring", "libaio", NULL};

_Static_assert(NVME_URING == 1 && NVME_LIBAIO == 2, "engine_names are in the enum's order");

#define NEED(key, kind, in, member, least, most)                                                   \
	{                                                                                          \
		.name = (key), .type = (kind), .offset = offsetof(in, member), .required = true,   \
		.min = (least), .max = (most)                                                      \
	}
#define SPEED(key, in, member) NEED(key, CONF_DOUBLE, in, member, 0x1p-10, SPEED_MAX)

static const struct conf_key choice_keys[] = {
	{.name = "engine",
	 .type = CONF_ENUM,
	 .offset = offsetof(struct file, engine),
	 .required = true,
	 .names = engine_names},
	NEED("extent", CONF_BYTES, struct file, extent, NVME_EXTENT_MIN, NVME_EXTENT_MAX),
	NEED("queue_depth", CONF_U64, struct file, queue_depth, 1, NVME_QUEUE_DEPTH_MAX),
	{.type = CONF_END},
};

static const struct conf_key together_keys[] = {
	SPEED("read", struct file, together.read),
	SPEED("write", struct file, together.write),
	SPEED("mixed", struct file, together.mixed),
	{.type = CONF_END},
};

static const struct conf_key directory_keys[] = {
	NEED("path", CONF_STRING, struct directory, path, 0, 0),
	NEED("filesystem", CONF_STRING, struct directory, filesystem, 0, 0),
	SPEED("read", struct directory, alone.read),
	SPEED("write", struct directory, alone.write),
	SPEED("mixed", struct directory, alone.mixed),
	SPEED("share", struct directory, share),
	{.type = CONF_END},
};

static const struct conf_key step_keys[] = {
	NEED("threads", CONF_U64, struct nvme_figures_step, threads, 1, THREADS_MAX),
	SPEED("move", struct nvme_figures_step, move),
	SPEED("step", struct nvme_figures_step, step),
	{.type = CONF_END},
};

static const struct conf_key keys[] = {
	NEED("version", CONF_U64, struct file, version, 1, 0x1p32),
	NEED("measured", CONF_U64, struct file, measured, 0, SECONDS_MAX),
	{.name = "nvme", .type = CONF_SECTION, .required = true, .keys = choice_keys},
	{.name = "together", .type = CONF_SECTION, .required = true, .keys = together_keys},
	{.name = "directories",
	 .type = CONF_SECTIONS,
	 .offset = offsetof(struct file, directories),
	 .required = true,
	 .keys = directory_keys,
	 .item_bytes = sizeof(struct directory)},
	{.name = "steps",
	 .type = CONF_SECTIONS,
	 .offset = offsetof(struct file, steps),
	 .keys = step_keys,
	 .item_bytes = sizeof(struct nvme_figures_step)},
	{.type = CONF_END},
};

const char *nvme_figures_default(void)
{
	return NVME_FIGURES_PATH;
}

/* Reading. */

static int check_choice(const struct file *f, const struct conf_doc *doc, struct err *err)
{
	if (f->version != VERSION)
		return conf_error(doc, "version", err, "%" PRIu64 ", expected %d", f->version,
				  VERSION);
	if (f->engine == NVME_AUTO)
		return conf_error(doc, "nvme.engine", err, "auto, expected what was chosen");
	if (f->extent % NVME_ALIGN)
		return conf_error(doc, "nvme.extent", err, "%" PRIu64 " is no multiple of %u bytes",
				  f->extent, NVME_ALIGN);
	return 0;
}

static int check_directories(const struct file *f, const struct conf_doc *doc, struct err *err)
{
	const struct directory *d = f->directories.at;

	if (f->directories.count == 0 || f->directories.count > NVME_PATHS_MAX)
		return conf_error(doc, "directories", err, "%zu of them, expected 1 to %u",
				  f->directories.count, NVME_PATHS_MAX);
	for (size_t i = 0; i < f->directories.count; i++) {
		if (d[i].path[0] != '/' || strlen(d[i].path) >= NVME_PATH_BYTES)
			return conf_error(doc, "directories", err,
					  "entry %zu: no absolute path of less than %u bytes", i,
					  NVME_PATH_BYTES);
		if (strlen(d[i].filesystem) >= NVME_FILESYSTEM_BYTES)
			return conf_error(doc, "directories", err,
					  "entry %zu: its filesystem's id is not of less than %u "
					  "bytes",
					  i, NVME_FILESYSTEM_BYTES);
		for (size_t k = 0; k < i; k++)
			if (strcmp(d[i].path, d[k].path) == 0)
				return conf_error(doc, "directories", err, "%s is there twice",
						  d[i].path);
	}
	return 0;
}

static int check_steps(const struct file *f, const struct conf_doc *doc, struct err *err)
{
	const struct nvme_figures_step *s = f->steps.at;

	if (f->steps.count > NVME_FIGURES_STEPS_MAX)
		return conf_error(doc, "steps", err, "%zu of them, expected at most %u",
				  f->steps.count, NVME_FIGURES_STEPS_MAX);
	for (size_t i = 1; i < f->steps.count; i++)
		if (s[i].threads <= s[i - 1].threads)
			return conf_error(doc, "steps", err,
					  "threads %" PRIu64 " behind %" PRIu64
					  ", expected more and more",
					  s[i].threads, s[i - 1].threads);
	return 0;
}

static void fill(const struct file *f, struct nvme_figures *ret)
{
	const struct directory *d = f->directories.at;

	*ret = (struct nvme_figures){
		.measured = f->measured,
		.engine = (enum nvme_engine)f->engine,
		.extent = f->extent,
		.queue_depth = f->queue_depth,
		.together = f->together,
		.path_count = f->directories.count,
		.step_count = f->steps.count,
	};
	for (size_t i = 0; i < ret->path_count; i++) {
		snprintf(ret->paths[i].path, NVME_PATH_BYTES, "%s", d[i].path);
		snprintf(ret->paths[i].filesystem, NVME_FILESYSTEM_BYTES, "%s", d[i].filesystem);
		ret->paths[i].alone = d[i].alone;
		ret->paths[i].share = d[i].share;
	}
	if (ret->step_count > 0)
		memcpy(ret->steps, f->steps.at, ret->step_count * sizeof(ret->steps[0]));
}

int nvme_figures_parse(const char *name, const char *text, size_t len, struct nvme_figures *ret,
		       struct err *err)
{
	struct file f = {.version = 0};
	struct conf_doc *doc;
	int rc = conf_parse(name, text, len, keys, &f, &doc, err);

	if (rc < 0)
		return rc;
	rc = check_choice(&f, doc, err);
	if (rc == 0)
		rc = check_directories(&f, doc, err);
	if (rc == 0)
		rc = check_steps(&f, doc, err);
	if (rc == 0)
		fill(&f, ret);
	conf_free(doc);
	return rc;
}

int nvme_figures_load(const char *file, struct nvme_figures *ret, struct err *err)
{
	char *text;
	size_t len;
	int rc = file_load(file, FILE_MAX, &text, &len, err);

	if (rc < 0)
		return rc == ERR_DATA ? err_set(err, ERR_CONFIG, "%s: no file of figures", file)
				      : rc;
	rc = nvme_figures_parse(file, text, len, ret, err);
	free(text);
	return rc;
}

/* Writing. */

/* What has quotes and escapes in JSON has them in YAML. */
static void put_text(FILE *out, const char *key, const char *value)
{
	struct json j;

	json_init(&j);
	json_string(&j, NULL, value);
	fprintf(out, "%s: %s, ", key, json_text(&j) ? json_text(&j) : "");
	json_done(&j);
}

static void put_speed(FILE *out, const struct nvme_speed *s)
{
	fprintf(out, "read: %.0f, write: %.0f, mixed: %.0f", s->read, s->write, s->mixed);
}

static void put_all(FILE *out, const struct nvme_figures *f)
{
	const time_t measured = (time_t)f->measured;
	char when[32] = "";
	struct tm tm;

	if (gmtime_r(&measured, &tm))
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	fputs("# Measured by dsctl bench, which writes this file anew each time: see dsctl(1).\n"
	      "# Speeds are bytes a second, `share` is a directory's while all are in use.\n",
	      out);
	fprintf(out, "version: %d\nmeasured: %" PRIu64 " # %s\n", VERSION, f->measured, when);
	fprintf(out, "nvme: {engine: %s, extent: %" PRIu64 ", queue_depth: %" PRIu64 "}\n",
		nvme_engine_name(f->engine), f->extent, f->queue_depth);
	fputs("together: {", out);
	put_speed(out, &f->together);
	fputs("}\ndirectories:\n", out);
	for (size_t i = 0; i < f->path_count; i++) {
		const struct nvme_figures_path *p = &f->paths[i];

		fputs("  - {", out);
		put_text(out, "path", p->path);
		put_text(out, "filesystem", p->filesystem);
		put_speed(out, &p->alone);
		fprintf(out, ", share: %.0f}\n", p->share);
	}
	if (f->step_count > 0)
		fputs("steps:\n", out);
	for (size_t i = 0; i < f->step_count; i++)
		fprintf(out, "  - {threads: %" PRIu64 ", move: %.0f, step: %.0f}\n",
			f->steps[i].threads, f->steps[i].move, f->steps[i].step);
}

int nvme_figures_save(const char *file, const struct nvme_figures *figures, struct err *err)
{
	struct nvme_figures back;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	int rc = 0;

	if (!out)
		return err_sys(err, -ENOMEM, "%s", file);
	put_all(out, figures);
	if (fclose(out) != 0)
		rc = err_sys(err, -ENOMEM, "%s", file);
	if (rc == 0)
		rc = nvme_figures_parse(file, text, len, &back, err);
	if (rc == 0)
		rc = file_replace(file, text, len, err);
	free(text);
	return rc;
}

/* Matching. */

static bool is_zero(const uint8_t *bytes, size_t len)
{
	size_t i = 0;

	while (i < len && bytes[i] == 0)
		i++;
	return i == len;
}

/* Does `like` ask for an id that begins with `kind`? Anything does when it is NULL. */
static bool wanted(const char *like, const char *kind)
{
	return !like || strncmp(like, kind, strlen(kind)) == 0;
}

static void id_text(const char *kind, unsigned long type, const uint8_t *bytes, size_t len,
		    char ret[NVME_FILESYSTEM_BYTES])
{
	int at = snprintf(ret, NVME_FILESYSTEM_BYTES, "%s%lx:", kind, type);

	for (size_t i = 0; i < len; i++)
		at += snprintf(ret + at, NVME_FILESYSTEM_BYTES - (size_t)at, "%02x", bytes[i]);
}

int nvme_filesystem_id(const char *path, const char *like, char ret[NVME_FILESYSTEM_BYTES],
		       struct err *err)
{
	struct fsuuid uuid = {.len = 0};
	uint8_t fsid[sizeof(fsid_t)], dev[sizeof(dev_t)];
	struct statfs fs;
	struct stat st;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (fd < 0)
		return err_set(err, ERR_CONFIG, "%s: %s", path, err_str(-errno));
	if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
		rc = err_sys(err, -errno, "%s: its filesystem", path);
	/* A kernel or a filesystem that does not know the call leaves none. */
	else if (ioctl(fd, GETFSUUID, &uuid) < 0 || uuid.len > UUID_BYTES)
		uuid.len = 0;
	close(fd);
	if (rc < 0)
		return rc;
	memcpy(fsid, &fs.f_fsid, sizeof(fsid));
	memcpy(dev, &st.st_dev, sizeof(dev));
	if (wanted(like, "uuid:") && !is_zero(uuid.uuid, uuid.len))
		id_text("uuid:", (unsigned long)fs.f_type, uuid.uuid, uuid.len, ret);
	else if (wanted(like, "fsid:") && !is_zero(fsid, sizeof(fsid)))
		id_text("fsid:", (unsigned long)fs.f_type, fsid, sizeof(fsid), ret);
	else
		id_text("dev:", (unsigned long)fs.f_type, dev, sizeof(dev), ret);
	return 0;
}

static const struct nvme_figures_path *find(const struct nvme_figures *f, const char *real)
{
	for (size_t i = 0; i < f->path_count; i++)
		if (strcmp(f->paths[i].path, real) == 0)
			return &f->paths[i];
	return NULL;
}

static int match_one(const struct nvme_figures *f, const char *path, double *ret_share,
		     struct err *err)
{
	char *real = realpath(path, NULL), now[NVME_FILESYSTEM_BYTES];
	const struct nvme_figures_path *p;
	int rc;

	if (!real)
		return err_sys(err, -errno, "%s", path);
	p = find(f, real);
	free(real);
	if (!p)
		return err_set(err, ERR_CONFIG, "%s was not measured", path);
	rc = nvme_filesystem_id(path, p->filesystem, now, err);
	if (rc < 0)
		return rc;
	if (strcmp(now, p->filesystem) != 0)
		return err_set(err, ERR_CONFIG, "%s is on another filesystem than was measured",
			       path);
	*ret_share = p->share;
	return 0;
}

int nvme_figures_match(const struct nvme_figures *figures, const char *const *paths,
		       size_t path_count, double *ret_weights, struct err *err)
{
	double shares[NVME_PATHS_MAX], sum = 0;

	if (path_count > NVME_PATHS_MAX)
		return err_set(err, ERR_CONFIG, "more than %u directories", NVME_PATHS_MAX);
	for (size_t i = 0; i < path_count; i++) {
		int rc = match_one(figures, paths[i], &shares[i], err);

		if (rc < 0)
			return rc;
		sum += shares[i];
	}
	for (size_t i = 0; i < path_count && ret_weights; i++)
		ret_weights[i] = shares[i] / sum;
	return 0;
}

int nvme_tuned_find(const char *file, const char *const *paths, size_t path_count,
		    struct nvme_figures *ret, double *ret_weights, struct err *err)
{
	const char *name = file ? file : nvme_figures_default();
	struct nvme_figures figures;
	int rc;

	if (!file && access(name, F_OK) < 0 && errno == ENOENT)
		return NVME_TUNED_NONE;
	rc = nvme_figures_load(name, &figures, err);
	if (rc < 0)
		return file || rc == -ENOMEM ? rc : NVME_TUNED_IGNORED;
	rc = nvme_figures_match(&figures, paths, path_count, ret_weights, err);
	if (rc < 0) {
		err_add(err, "%s", name);
		return NVME_TUNED_IGNORED;
	}
	*ret = figures;
	return NVME_TUNED_FOUND;
}
