/*
 * The words `auto` of nvme.extent and nvme.queue_depth become numbers: what `dsctl bench` chose for
 * the job's directories, where it was run. dsrun asks, once, before it plans; workers are told, by
 * struct train_settled.
 */
#ifndef OFFLOAD_TUNED_H
#define OFFLOAD_TUNED_H

#include "common/conf.h"
#include "common/err.h"
#include "nvme/figures.h"
#include "offload/train_config.h"

struct tuned {
	enum nvme_tuned found;
	struct nvme_figures figures; /* for NVME_TUNED_FOUND */
	char note[512];              /* what a user should read of it; "" for nothing */
};

/*
 * Looks for figures of config->nvme.paths, in config->nvme.tuned or where they are by default, and
 * puts them into what *config leaves open. Returns 0, also when there are none that hold; an error
 * at nvme.tuned when the named file is not a file of figures.
 */
int tuned_apply(struct train_config *config, const struct conf_doc *doc, struct tuned *ret,
		struct err *err);

#endif
