/* What a configuration leaves to the machine, chosen before anything starts. */
#ifndef LAUNCHER_SETTLE_H
#define LAUNCHER_SETTLE_H

#include <stdbool.h>

#include "common/err.h"
#include "offload/arch.h"
#include "offload/predict.h"
#include "offload/train_config.h"

/* Measures the host; called once, when something has to be chosen by it. */
typedef int settle_measure_fn(void *context, struct predict_rates *ret, struct err *err);

struct settle {
	struct train_config *config; /* with what was chosen, in the end */
	const struct conf_doc *doc;
	const struct arch *arch;
	const char *socket; /* where the node's daemon would listen, whose quota counts when it
			     * answers; NULL: the job has one of its own */
	settle_measure_fn *measure;
	void *context;
};

struct settle_result {
	struct train_settled settled; /* what the workers have to settle in theirs */
	bool predicted;               /* placements were auto: by these figures */
	struct predict_rates rates;
	struct predict_table table;
};

/*
 * Chooses what the configuration says is auto: host.memory first, then placements by prediction.
 * ERR_CONFIG when nothing can be chosen, and the measurement's own errors.
 */
int settle(const struct settle *s, struct settle_result *ret, struct err *err);

#endif
