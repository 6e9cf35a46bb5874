/* What this host does in which time, for placements that are auto. */
#ifndef LAUNCHER_MEASURE_H
#define LAUNCHER_MEASURE_H

#include "common/err.h"
#include "launcher/launch.h"
#include "offload/predict.h"
#include "offload/train_config.h"

/*
 * Measures in about three seconds, six where no figures of the swap directories are there:
 * passes by workers of the job (`launch` is as for the job itself; it has no daemon here), the
 * optimizer and copies in this process, directories by the figures of dsctl bench when they hold
 * for these, else by a short run. Blocks. What a worker said of its failure is err's text.
 */
int measure_host(const struct launch *launch, const struct train_config *config,
		 struct predict_rates *ret, struct err *err);

#endif
