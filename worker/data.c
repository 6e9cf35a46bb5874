/*
 * What is drawn from shards: the definition is data.h's. Called by the worker's main thread.
 *
 * 1. Where a sequence comes from is a function of (seed, number of the sequence): not of rank,
 *    world size, or what was drawn before. So a resumed run needs to remember one number.
 * 2. No token reaches the device that is not below the model's vocabulary, also where only another
 *    rank verified the shard, or somebody changed it since.
 * 3. A mapping keeps nothing resident but the window in work: what a worker takes of memory is in
 *    the plan, and shards are not.
 */
#include "worker/data.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "common/rng.h"

#define STREAM_FEISTEL (UINT64_C(1) << 32)
#define STREAM_OFFSET  (UINT64_C(1) << 33)
#define FEISTEL_ROUNDS 4

struct data {
	uint64_t sequence, seed;
	uint64_t vocab; /* the model's */
	size_t shard_count;
	struct shard *shards;
	uint64_t *train_first; /* windows of the shards before; [shard_count] is the sum */
	uint64_t *validation_first;
	unsigned half_bits;
};

static uint64_t train_windows_of(uint64_t count, uint64_t sequence)
{
	uint64_t n;

	if (count < sequence + 1)
		return 0;
	n = (count - sequence) / sequence;
	return n ? n : 1;
}

static unsigned half_bits_for(uint64_t windows)
{
	unsigned b = 1;

	while (b < 32 && windows > UINT64_C(1) << 2 * b)
		b++;
	return b;
}

static int shards_open(struct data *d, const char *const *paths, bool verify, struct err *err)
{
	for (size_t i = 0; i < d->shard_count; i++) {
		struct shard *s = &d->shards[i];
		uint64_t count;
		int rc = shard_open(paths[i], verify, s, err);

		if (rc < 0)
			return rc;
		if (s->header.vocab > d->vocab)
			return err_set(err, ERR_DATA,
				       "%s: its vocabulary, %u, is larger than model.vocab, %ju",
				       paths[i], s->header.vocab, (uintmax_t)d->vocab);
		count = s->header.count;
		d->train_first[i + 1] = d->train_first[i] + train_windows_of(count, d->sequence);
		d->validation_first[i + 1] = d->validation_first[i] + (count - 1) / d->sequence;
	}
	return 0;
}

int data_open(const char *const *paths, size_t count, uint64_t sequence, uint64_t vocab,
	      uint64_t seed, bool verify, struct data **ret, struct err *err)
{
	struct data *d = calloc(1, sizeof(*d));
	int rc;

	assert(count > 0 && sequence > 0);
	if (!d)
		return err_sys(err, -ENOMEM, "opening %zu shards", count);
	d->sequence = sequence;
	d->seed = seed;
	d->vocab = vocab;
	d->shard_count = count;
	d->shards = calloc(count, sizeof(*d->shards));
	d->train_first = calloc(count + 1, sizeof(*d->train_first));
	d->validation_first = calloc(count + 1, sizeof(*d->validation_first));
	if (!d->shards || !d->train_first || !d->validation_first)
		rc = err_sys(err, -ENOMEM, "opening %zu shards", count);
	else
		rc = shards_open(d, paths, verify, err);
	if (!rc && !d->train_first[count])
		rc = err_set(err, ERR_DATA,
			     "%s%s: too short for a sequence of %ju tokens and the one after",
			     paths[0], count > 1 ? " and the other shards" : "",
			     (uintmax_t)sequence);
	if (rc < 0) {
		data_close(d);
		return rc;
	}
	d->half_bits = half_bits_for(d->train_first[count]);
	*ret = d;
	return 0;
}

struct data *data_close(struct data *d)
{
	if (!d)
		return NULL;
	for (size_t i = 0; d->shards && i < d->shard_count; i++)
		shard_close(&d->shards[i]);
	free(d->shards);
	free(d->train_first);
	free(d->validation_first);
	free(d);
	return NULL;
}

uint64_t data_tokens(const struct data *d)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < d->shard_count; i++)
		sum += d->shards[i].header.count;
	return sum;
}

/* The shard whose window `w` is, by `first` as in struct data. */
static size_t shard_of(const struct data *d, const uint64_t *first, uint64_t w)
{
	size_t lo = 0, hi = d->shard_count;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (first[mid] <= w)
			lo = mid;
		else
			hi = mid;
	}
	/* Shards without windows share their `first` with the next: the last of them is it. */
	return lo;
}

static uint64_t permute(const struct data *d, uint64_t epoch, uint64_t x, uint64_t windows)
{
	const uint64_t mask = (UINT64_C(1) << d->half_bits) - 1;

	do {
		uint64_t left = x >> d->half_bits, right = x & mask;

		for (unsigned j = 0; j < FEISTEL_ROUNDS; j++) {
			uint64_t f = rng_u64(d->seed, STREAM_FEISTEL + j, epoch << 32 | right);
			uint64_t next = left ^ (f & mask);

			left = right;
			right = next;
		}
		x = left << d->half_bits | right;
	} while (x >= windows);
	return x;
}

uint64_t data_train_windows(const struct data *d)
{
	return d->train_first[d->shard_count];
}

void data_train_locate(const struct data *d, uint64_t g, size_t *ret_shard, uint64_t *ret_first)
{
	const uint64_t windows = data_train_windows(d), s = d->sequence;
	const uint64_t epoch = g / windows;
	const uint64_t w = permute(d, epoch, g % windows, windows);
	const size_t i = shard_of(d, d->train_first, w);
	const uint64_t n = d->train_first[i + 1] - d->train_first[i];
	uint64_t slack = d->shards[i].header.count - 1 - n * s;

	if (slack > s - 1)
		slack = s - 1;
	*ret_shard = i;
	*ret_first = (w - d->train_first[i]) * s +
		     rng_below(d->seed, STREAM_OFFSET + i, epoch, slack + 1);
}

static int copy_window(const struct data *d, size_t shard, uint64_t first, uint32_t *ids,
		       uint32_t *targets, struct err *err)
{
	const struct shard *s = &d->shards[shard];

	for (uint64_t i = 0; i <= d->sequence; i++) {
		uint32_t token = shard_token(s, first + i);

		if (token >= d->vocab)
			return err_set(err, ERR_DATA, "%s: token %ju is %u, model.vocab is %ju",
				       s->path, (uintmax_t)(first + i), token, (uintmax_t)d->vocab);
		if (i < d->sequence)
			ids[i] = token;
		if (i > 0)
			targets[i - 1] = token;
	}
	return shard_release(s, first, d->sequence + 1, err);
}

int data_train_sequence(const struct data *d, uint64_t g, uint32_t *ids, uint32_t *targets,
			struct err *err)
{
	uint64_t first;
	size_t shard;

	data_train_locate(d, g, &shard, &first);
	return copy_window(d, shard, first, ids, targets, err);
}

uint64_t data_validation_windows(const struct data *d)
{
	return d->validation_first[d->shard_count];
}

int data_validation_sequence(const struct data *d, uint64_t i, uint32_t *ids, uint32_t *targets,
			     struct err *err)
{
	size_t shard = shard_of(d, d->validation_first, i);

	assert(i < data_validation_windows(d));
	return copy_window(d, shard, (i - d->validation_first[shard]) * d->sequence, ids, targets,
			   err);
}
