/* The bigram baseline; see bigram.h. Called by dsprep. */
#include "worker/bigram.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

int bigram_loss(const struct shard *train, const struct shard *validation, double *ret,
		struct err *err)
{
	const uint64_t v = train->header.vocab;
	uint64_t *pairs, *firsts;
	double sum = 0;

	if (v != validation->header.vocab)
		return err_set(err, ERR_DATA, "%s has a vocabulary of %u, %s of %ju",
			       validation->path, validation->header.vocab, train->path,
			       (uintmax_t)v);
	if (v > BIGRAM_VOCAB_MAX)
		return err_set(err, ERR_DATA, "%s: bigrams of a vocabulary of %ju, at most %u",
			       train->path, (uintmax_t)v, BIGRAM_VOCAB_MAX);
	if (validation->header.count < 2)
		return err_set(err, ERR_DATA, "%s: one token, nothing to predict",
			       validation->path);
	pairs = calloc(v * v, sizeof(*pairs));
	firsts = calloc(v, sizeof(*firsts));
	if (!pairs || !firsts) {
		free(pairs);
		free(firsts);
		return err_sys(err, -ENOMEM, "bigram counts of %ju tokens", (uintmax_t)v);
	}
	for (uint64_t i = 1; i < train->header.count; i++) {
		uint64_t a = shard_token(train, i - 1), b = shard_token(train, i);

		pairs[a * v + b]++;
		firsts[a]++;
	}
	for (uint64_t i = 1; i < validation->header.count; i++) {
		uint64_t a = shard_token(validation, i - 1), b = shard_token(validation, i);

		sum -= log((double)(pairs[a * v + b] + 1) / (double)(firsts[a] + v));
	}
	free(pairs);
	free(firsts);
	*ret = sum / (double)(validation->header.count - 1);
	return 0;
}
