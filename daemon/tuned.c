/*
 * The file of figures in the daemon. It is read when the daemon starts and again when a session
 * opens and finds it replaced, so that a bench counts from the next session on, without a restart
 * under the jobs of today. Called by the main thread only.
 *
 * 1. Only what nobody has named is decided by figures: the engine of a session and a daemon that
 *    both say auto, and the shares of directories.
 * 2. Figures that do not hold for a session change nothing, and the log says so.
 */
#include "daemon/tuned.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "common/units.h"

const char *tuned_name(const struct tuned_file *t)
{
	return t->named ? t->named : nvme_figures_default();
}

static void found_log(const struct tuned_file *t)
{
	const struct nvme_figures *f = &t->figures;
	const time_t measured = (time_t)f->measured;
	char extent[UNITS_TEXT_BYTES], when[32] = "?", list[1024] = "";
	size_t len = 0;
	struct tm tm;

	if (gmtime_r(&measured, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
	for (size_t i = 0; i < f->path_count && len < sizeof(list); i++)
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", i > 0 ? ", " : "",
					f->paths[i].path);
	log_info(
		"daemon",
		"figures of dsctl bench in %s, measured %s UTC: %s, extent %s, queue depth %" PRIu64
		" for %s",
		tuned_name(t), when, nvme_engine_name(f->engine),
		units_format_bytes(extent, f->extent), f->queue_depth, list);
}

/* Reads the file that `seen` was taken of. */
static int read_file(struct tuned_file *t, struct err *err)
{
	int rc = nvme_tuned_find(t->named, NULL, 0, &t->figures, NULL, err);

	t->found = rc < 0 ? NVME_TUNED_NONE : (enum nvme_tuned)rc;
	if (t->found == NVME_TUNED_FOUND)
		found_log(t);
	else if (t->found == NVME_TUNED_IGNORED)
		log_warn("daemon", "figures of dsctl bench: %s, ignoring", err->text);
	return rc < 0 ? rc : 0;
}

static void look(const struct tuned_file *t, struct stat *ret)
{
	if (stat(tuned_name(t), ret) < 0)
		memset(ret, 0, sizeof(*ret));
}

int tuned_open(struct tuned_file *t, const char *named, struct err *err)
{
	*t = (struct tuned_file){.named = named};
	look(t, &t->seen);
	return read_file(t, err);
}

static bool replaced(const struct stat *a, const struct stat *b)
{
	return a->st_dev != b->st_dev || a->st_ino != b->st_ino || a->st_size != b->st_size ||
	       a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec;
}

static void refresh(struct tuned_file *t)
{
	struct err why = {.code = 0};
	struct stat now;

	look(t, &now);
	if (!replaced(&t->seen, &now))
		return;
	t->seen = now;
	if (read_file(t, &why) < 0)
		log_warn("daemon", "figures of dsctl bench: %s, ignoring", why.text);
}

bool tuned_take(struct tuned_file *t, const char *const *paths, size_t path_count, const char *who,
		double *ret_weights)
{
	struct err why = {.code = 0};

	refresh(t);
	if (t->found != NVME_TUNED_FOUND)
		return false;
	if (nvme_figures_match(&t->figures, paths, path_count, ret_weights, &why) == 0)
		return true;
	log_info("daemon", "%s: figures of dsctl bench do not hold: %s, ignoring", who, why.text);
	return false;
}
