/* The bigram baseline: what predicting each token from the one before it alone would cost. */
#ifndef WORKER_BIGRAM_H
#define WORKER_BIGRAM_H

#include <stdint.h>

#include "common/err.h"
#include "worker/data.h"

#define BIGRAM_VOCAB_MAX 4096u /* 128 MiB of counts */

/*
 * Mean cross-entropy, in nats per token, of `validation` under bigrams counted in `train`, with
 * add-one smoothing over the vocabulary: P(b|a) = (count(a, b) + 1) / (count(a) + V). Every
 * token but the first is predicted. ERR_DATA when the two do not go together or are too short.
 */
int bigram_loss(const struct shard *train, const struct shard *validation, double *ret,
		struct err *err);

#endif
