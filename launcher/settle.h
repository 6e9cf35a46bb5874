/* What a configuration leaves to the machine, chosen before anything starts. */
#ifndef LAUNCHER_SETTLE_H
#define LAUNCHER_SETTLE_H

#include "common/err.h"
#include "offload/arch.h"
#include "offload/train_config.h"

/*
 * Chooses what `config` says is auto, and settles it there; *ret is what the workers have to settle
 * in theirs. `socket` is where the node's daemon would listen, whose quota counts when it answers;
 * NULL: the job has one of its own. ERR_CONFIG when nothing can be chosen.
 */
int settle(struct train_config *config, const struct conf_doc *doc, const struct arch *arch,
	   const char *socket, struct train_settled *ret, struct err *err);

#endif
