/*
 * Where nvme.extent and nvme.queue_depth come from when train.yaml leaves them open. Called by
 * dsrun before it plans; a worker gets what dsrun found in its job.
 *
 * 1. One process looks, the launcher, and tells the others: a file that is replaced meanwhile
 *    cannot give two ranks of a job different plans.
 * 2. The engine stays `auto` here: the daemon, which opens the store, reads the same file.
 */
#include "offload/tuned.h"

#include <stdio.h>
#include <time.h>

#include "common/units.h"

static void found_note(const struct train_config *c, struct tuned *t)
{
	const time_t measured = (time_t)t->figures.measured;
	char extent[UNITS_TEXT_BYTES], when[32] = "?";
	struct tm tm;

	if (gmtime_r(&measured, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
	snprintf(t->note, sizeof(t->note),
		 "nvme: extent %s, queue depth %ju, by figures of dsctl bench, %s UTC",
		 units_format_bytes(extent, c->nvme.extent), (uintmax_t)c->nvme.queue_depth, when);
}

int tuned_apply(struct train_config *config, const struct conf_doc *doc, struct tuned *ret,
		struct err *err)
{
	struct train_settled settled = {0};
	struct err why = {.code = 0};
	int rc;

	*ret = (struct tuned){.found = NVME_TUNED_NONE};
	if (config->nvme.paths.count == 0)
		return 0;
	rc = nvme_tuned_find(config->nvme.tuned, config->nvme.paths.at, config->nvme.paths.count,
			     &ret->figures, NULL, &why);
	if (rc < 0)
		return conf_error(doc, "nvme.tuned", err, "%s", why.text);
	ret->found = (enum nvme_tuned)rc;
	if (ret->found == NVME_TUNED_IGNORED)
		snprintf(ret->note, sizeof(ret->note),
			 "nvme: ignoring figures of dsctl bench: %.400s", why.text);
	if (ret->found != NVME_TUNED_FOUND)
		return 0;
	settled.extent = ret->figures.extent;
	settled.queue_depth = ret->figures.queue_depth;
	train_config_settle(config, &settled);
	if (config->nvme.extent_auto || config->nvme.queue_depth_auto)
		found_note(config, ret);
	return 0;
}
