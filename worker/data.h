/*
 * Token shards and what is drawn from them.
 *
 * A shard is a header of SHARD_HEADER_BYTES, little-endian, and `count` tokens of `token_bytes`:
 *
 *	offset  0  "DSTK"
 *		4  u32 version, 1
 *		8  u32 token_bytes: 1, 2 or 4
 *	       12  u32 vocab: every token is below it
 *	       16  u64 count
 *	       24  u32 CRC-32C of the tokens
 *	       28  u32 CRC-32C of bytes 0..27
 *	       32  zeros
 *
 * Sampling. A training sequence of S tokens is a window of S + 1 tokens of one shard: inputs are
 * the first S, targets the last S. Shard i, of c tokens, has
 *
 *	n_i = 0 when c < S + 1, else max(1, floor((c - S) / S)) windows
 *
 * and W is their sum. Sequence g of a run (from 0; step s draws batch.global of them in order)
 * belongs to epoch e = floor(g / W) and is window w = perm(e, g mod W). With k = w less the
 * windows of the shards before its shard i, it begins at token
 *
 *	k * S + rng_below(seed, 2^33 + i, e, slack_i + 1), slack_i = min(S - 1, c - 1 - n_i * S)
 *
 * so that windows do not overlap within an epoch, and lie differently in the next.
 *
 * perm is a Feistel network of four rounds over 2b bits, b the least number >= 1 with 4^b >= W,
 * walked until it lands below W: for x = L * 2^b + R, round j in 0..3 is
 *
 *	(L, R) = (R, L xor (rng_u64(seed, 2^32 + j, e * 2^32 + R) mod 2^b))
 *
 * All of it is a function of (seed, g) alone. rng.h has the generator.
 *
 * Validation takes windows of S + 1 tokens from offset 0 in steps of S, shard after shard, in
 * order.
 */
#ifndef WORKER_DATA_H
#define WORKER_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define SHARD_MAGIC        "DSTK"
#define SHARD_VERSION      1u
#define SHARD_HEADER_BYTES 64u

struct shard_header {
	uint32_t token_bytes, vocab;
	uint64_t count;
	uint32_t crc;
};

/* Into and out of the bytes on disk. Decoding names `path` in what it refuses: ERR_DATA. */
void shard_header_encode(const struct shard_header *header, uint8_t ret[SHARD_HEADER_BYTES]);
int shard_header_decode(const uint8_t bytes[SHARD_HEADER_BYTES], const char *path,
			struct shard_header *ret, struct err *err);

struct shard {
	const char *path; /* borrowed */
	struct shard_header header;
	const uint8_t *tokens; /* mapped, read-only */
	size_t map_bytes;
};

/*
 * Maps a shard. Header and size are always checked, with `verify` also the checksum and that
 * every token is below vocab, which reads all of it. ERR_NOINPUT, ERR_DATA.
 */
int shard_open(const char *path, bool verify, struct shard *ret, struct err *err);
void shard_close(struct shard *shard);

uint32_t shard_token(const struct shard *shard, uint64_t index);

/* Gives up the memory that tokens [first, first + count) are mapped to, until their next use. */
int shard_release(const struct shard *shard, uint64_t first, uint64_t count, struct err *err);

struct data; /* several shards and their windows; reading is for any thread */

/*
 * `vocab` is the model's: a shard's must not be larger. ERR_DATA as well when no shard has a
 * window. `paths` stay the caller's until data_close.
 */
int data_open(const char *const *paths, size_t count, uint64_t sequence, uint64_t vocab,
	      uint64_t seed, bool verify, struct data **ret, struct err *err);
struct data *data_close(struct data *data);

uint64_t data_tokens(const struct data *data);

/* Training: windows of an epoch; sequence g of the run, [sequence] each. ERR_DATA on a token that
 * is not below its shard's vocab. */
uint64_t data_train_windows(const struct data *data);
int data_train_sequence(const struct data *data, uint64_t g, uint32_t *ids, uint32_t *targets,
			struct err *err);

/* Where sequence g lies: for tests. */
void data_train_locate(const struct data *data, uint64_t g, size_t *ret_shard, uint64_t *ret_first);

/* Validation: window i of data_validation_windows. */
uint64_t data_validation_windows(const struct data *data);
int data_validation_sequence(const struct data *data, uint64_t i, uint32_t *ids, uint32_t *targets,
			     struct err *err);

#endif
