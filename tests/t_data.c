/*
 * Token shards and sampling.
 *
 * Method. A good shard is written and damaged in every way a file can be; each damage has one
 * message that names the file. Sampling is compared with data.h's definition spelled out here a
 * second time, and checked for what it is for: each window once an epoch, no overlap, another
 * order and place in the next epoch, nothing that depends on who asks. Two drawn sequences are
 * known answers, since a change of the definition would break the resuming of old runs.
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "common/rng.h"
#include "worker/bigram.h"
#include "worker/data.h"

#define COUNT 1000u

static char dir[] = "/tmp/t_data.XXXXXX";
static char path[64];
static struct err err;

/* Token i of the test's shards. */
static uint32_t token(uint64_t i)
{
	return (uint32_t)(i * 7 % 251);
}

static void save(const char *to, const uint8_t *bytes, size_t len)
{
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(file_write_all(fd, bytes, len, &err), 0);
	close(fd);
}

/* A shard of COUNT tokens as bytes; returns its size. */
static size_t make(uint8_t **ret, uint32_t token_bytes, uint64_t count)
{
	struct shard_header h = {.token_bytes = token_bytes, .vocab = 251, .count = count};
	size_t len = SHARD_HEADER_BYTES + count * token_bytes;
	uint8_t *bytes = calloc(1, len);

	for (uint64_t i = 0; i < count; i++)
		bytes[SHARD_HEADER_BYTES + i * token_bytes] = (uint8_t)token(i);
	h.crc = crc32c(0, bytes + SHARD_HEADER_BYTES, count * token_bytes);
	shard_header_encode(&h, bytes);
	*ret = bytes;
	return len;
}

static void write_shard(const char *to, uint32_t token_bytes, uint64_t count)
{
	uint8_t *bytes;
	size_t len = make(&bytes, token_bytes, count);

	save(to, bytes, len);
	free(bytes);
}

START_TEST(good_shards)
{
	uint32_t token_bytes[] = {1, 2, 4};
	struct shard s;

	for (size_t k = 0; k < 3; k++) {
		write_shard(path, token_bytes[k], COUNT);
		ck_assert_msg(shard_open(path, true, &s, &err) == 0, "%s", err.text);
		ck_assert_uint_eq(s.header.count, COUNT);
		ck_assert_uint_eq(s.header.vocab, 251);
		for (uint64_t i = 0; i < COUNT; i++)
			ck_assert_uint_eq(shard_token(&s, i), token(i));
		shard_close(&s);
	}
}
END_TEST

/* How to damage, and a part of the message. */
struct damage {
	const char *name;
	long truncate_to; /* -1: keep; -2: one byte more */
	long at;          /* overwritten with value, header checksum made right where fix */
	uint8_t value;
	bool fix;
	const char *message;
};

static const struct damage damages[] = {
	{"empty file", 0, -1, 0, false, "no token shard"},
	{"half a header", 30, -1, 0, false, "no token shard"},
	{"header only", 64, -1, 0, false, "truncated"},
	{"one byte short", 64 + COUNT - 1, -1, 0, false, "truncated"},
	{"one byte long", -2, -1, 0, false, "too long"},
	{"wrong magic", -1, 0, 'X', false, "not a token shard"},
	{"another version", -1, 4, 2, true, "version 2"},
	{"a bit of the header", -1, 12, 0xfa, false, "header is damaged"},
	{"tokens of 3 bytes", -1, 8, 3, true, "tokens of 3 bytes"},
	{"vocabulary of none", -1, 12, 0, true, "vocabulary of 0"},
	{"vocabulary too large", -1, 14, 1, true, "vocabulary of 65787"},
	{"no tokens", -1, 16, 0, true, "expected"},
	{"count near 2^64", -1, 23, 0xff, true, "more than a file can hold"},
	{"a bit of a token", -1, 64 + 500, 3, false, "checksum"},
	{"a token beyond the vocabulary", -1, 64 + 500, 252, true, "vocabulary is 251"},
};

START_TEST(damaged_shards)
{
	const struct damage *d = &damages[_i];
	uint8_t *bytes;
	size_t len = make(&bytes, 1, COUNT);
	struct shard s;
	int rc;

	bytes = realloc(bytes, len + 1);
	bytes[len] = 0;
	if (d->truncate_to >= 0)
		len = (size_t)d->truncate_to;
	else if (d->truncate_to == -2)
		len++;
	if (d->at >= 0)
		bytes[d->at] = d->value;
	if (d->fix) {
		uint32_t crc = crc32c(0, bytes + SHARD_HEADER_BYTES, COUNT);

		if (d->at >= (long)SHARD_HEADER_BYTES)
			memcpy(bytes + 24, &crc, 4);
		crc = crc32c(0, bytes, 28);
		memcpy(bytes + 28, &crc, 4);
	}
	save(path, bytes, len);
	free(bytes);
	rc = shard_open(path, true, &s, &err);
	ck_assert_msg(rc == ERR_DATA, "%s: %d", d->name, rc);
	ck_assert_msg(strstr(err.text, path) && strstr(err.text, d->message), "%s: %s", d->name,
		      err.text);
}
END_TEST

START_TEST(an_empty_shard)
{
	struct shard_header h = {.token_bytes = 1, .vocab = 256};
	uint8_t bytes[SHARD_HEADER_BYTES];
	struct shard s;

	shard_header_encode(&h, bytes);
	save(path, bytes, sizeof(bytes));
	ck_assert_int_eq(shard_open(path, false, &s, &err), ERR_DATA);
	ck_assert_msg(strstr(err.text, "empty"), "%s", err.text);
}
END_TEST

START_TEST(shards_that_are_not_there)
{
	struct shard s;

	ck_assert_int_eq(shard_open("/nonexistent/a.bin", true, &s, &err), ERR_NOINPUT);
	ck_assert_int_eq(shard_open(dir, true, &s, &err), ERR_DATA);
	ck_assert_msg(strstr(err.text, "not a regular file"), "%s", err.text);
}
END_TEST

/* Three shards: one that has slack, one too short for a window, one with a single window. */
static const uint64_t counts[] = {1000, 9, 25};
static char paths[3][64];
static const char *path_list[3];
#define SEQUENCE 16u

static struct data *open_data(uint64_t seed)
{
	struct data *d;

	for (size_t i = 0; i < 3; i++) {
		snprintf(paths[i], sizeof(paths[i]), "%s/%zu.bin", dir, i);
		path_list[i] = paths[i];
		write_shard(paths[i], 1, counts[i]);
	}
	ck_assert_msg(data_open(path_list, 3, SEQUENCE, 256, seed, true, &d, &err) == 0, "%s",
		      err.text);
	return d;
}

START_TEST(each_window_once_an_epoch)
{
	struct data *d = open_data(_i);
	uint64_t windows = data_train_windows(d);

	/* (1000 - 16) / 16 = 61, none, and one although 25 is less than two sequences. */
	ck_assert_uint_eq(windows, 62);
	for (uint64_t epoch = 0; epoch < 5; epoch++) {
		uint8_t *used[3] = {calloc(1, counts[0]), calloc(1, counts[1]),
				    calloc(1, counts[2])};

		for (uint64_t g = epoch * windows; g < (epoch + 1) * windows; g++) {
			uint64_t first;
			size_t shard;

			data_train_locate(d, g, &shard, &first);
			ck_assert_uint_le(first + SEQUENCE + 1, counts[shard]);
			for (uint64_t i = first; i < first + SEQUENCE; i++) {
				ck_assert_uint_eq(used[shard][i], 0);
				used[shard][i] = 1;
			}
		}
		for (size_t i = 0; i < 3; i++)
			free(used[i]);
	}
	data_close(d);
}
END_TEST

/* data.h's words, once more. */
static void expected_place(uint64_t seed, uint64_t g, size_t *ret_shard, uint64_t *ret_first)
{
	const uint64_t n[] = {61, 0, 1}, slack[] = {15, 0, 8};
	uint64_t e = g / 62, x = g % 62;
	size_t i;

	do {
		uint64_t l = x >> 3, r = x & 7; /* 4^3 = 64 >= 62 */

		for (unsigned j = 0; j < 4; j++) {
			uint64_t f = rng_u64(seed, (UINT64_C(1) << 32) + j, (e << 32) + r) % 8;
			uint64_t swap = l ^ f;

			l = r;
			r = swap;
		}
		x = l * 8 + r;
	} while (x >= 62);
	i = x < n[0] ? 0 : 2;
	*ret_shard = i;
	*ret_first = (i ? x - n[0] : x) * SEQUENCE +
		     rng_below(seed, (UINT64_C(1) << 33) + i, e, slack[i] + 1);
}

START_TEST(places_are_as_defined)
{
	struct data *d = open_data(42);

	for (uint64_t g = 0; g < 1000; g++) {
		uint64_t first, expected_first;
		size_t shard, expected_shard;

		data_train_locate(d, g, &shard, &first);
		expected_place(42, g, &expected_shard, &expected_first);
		ck_assert_uint_eq(shard, expected_shard);
		ck_assert_uint_eq(first, expected_first);
	}
	data_close(d);
}
END_TEST

START_TEST(epochs_and_seeds_differ)
{
	struct data *a = open_data(1), *b = open_data(2);
	unsigned same_epoch = 0, same_seed = 0;

	for (uint64_t g = 0; g < 62; g++) {
		uint64_t first, next, other;
		size_t shard;

		data_train_locate(a, g, &shard, &first);
		data_train_locate(a, g + 62, &shard, &next);
		data_train_locate(b, g, &shard, &other);
		same_epoch += first == next;
		same_seed += first == other;
	}
	ck_assert_uint_lt(same_epoch, 10);
	ck_assert_uint_lt(same_seed, 10);
	data_close(a);
	data_close(b);
}
END_TEST

START_TEST(sequences_hold_the_tokens)
{
	uint32_t ids[SEQUENCE], targets[SEQUENCE];
	struct data *d = open_data(3);

	for (uint64_t g = 0; g < 200; g++) {
		uint64_t first;
		size_t shard;

		data_train_locate(d, g, &shard, &first);
		ck_assert_int_eq(data_train_sequence(d, g, ids, targets, &err), 0);
		for (uint64_t i = 0; i < SEQUENCE; i++) {
			ck_assert_uint_eq(ids[i], token(first + i));
			ck_assert_uint_eq(targets[i], token(first + i + 1));
		}
	}
	data_close(d);
}
END_TEST

/* The numbers below were drawn once and stay: old runs resume by them. */
START_TEST(known_answers)
{
	struct data *d = open_data(1);
	uint64_t first;
	size_t shard;

	data_train_locate(d, 0, &shard, &first);
	ck_assert_uint_eq(shard, 0);
	ck_assert_uint_eq(first, 566);
	data_train_locate(d, 1000, &shard, &first);
	ck_assert_uint_eq(shard, 0);
	ck_assert_uint_eq(first, 184);
	data_close(d);
}
END_TEST

START_TEST(validation_is_in_order)
{
	uint32_t ids[SEQUENCE], targets[SEQUENCE];
	struct data *d = open_data(9);

	/* 999 / 16 = 62, 8 / 16 = 0, 24 / 16 = 1 */
	ck_assert_uint_eq(data_validation_windows(d), 63);
	for (uint64_t w = 0; w < 63; w++) {
		uint64_t first = w < 62 ? w * SEQUENCE : 0;

		ck_assert_int_eq(data_validation_sequence(d, w, ids, targets, &err), 0);
		ck_assert_uint_eq(ids[0], token(first));
		ck_assert_uint_eq(targets[SEQUENCE - 1], token(first + SEQUENCE));
	}
	data_close(d);
}
END_TEST

START_TEST(data_refused)
{
	uint32_t ids[SEQUENCE], targets[SEQUENCE];
	const char *const list[] = {path};
	struct data *d;
	uint8_t *bytes;
	size_t len;

	write_shard(path, 1, SEQUENCE);
	ck_assert_int_eq(data_open(list, 1, SEQUENCE, 256, 1, true, &d, &err), ERR_DATA);
	ck_assert_msg(strstr(err.text, path) && strstr(err.text, "too short"), "%s", err.text);
	write_shard(path, 1, COUNT);
	ck_assert_int_eq(data_open(list, 1, SEQUENCE, 250, 1, true, &d, &err), ERR_DATA);
	ck_assert_msg(strstr(err.text, path) && strstr(err.text, "model.vocab"), "%s", err.text);

	/* A rank that did not verify finds the bad token when it draws it. */
	len = make(&bytes, 1, SEQUENCE + 1);
	bytes[SHARD_HEADER_BYTES + 5] = 255;
	save(path, bytes, len);
	free(bytes);
	ck_assert_int_eq(data_open(list, 1, SEQUENCE, 251, 1, false, &d, &err), 0);
	ck_assert_int_eq(data_train_sequence(d, 0, ids, targets, &err), ERR_DATA);
	ck_assert_msg(strstr(err.text, path) && strstr(err.text, "token 5 is 255"), "%s", err.text);
	data_close(d);
}
END_TEST

static uint64_t resident_file_kib(void)
{
	char *text, *line;
	uint64_t kib;
	size_t len;

	ck_assert_int_eq(file_load("/proc/self/status", 65536, &text, &len, &err), 0);
	line = strstr(text, "RssFile:");
	ck_assert_ptr_nonnull(line);
	kib = strtoull(line + 8, NULL, 10);
	free(text);
	return kib;
}

/* However much is drawn, what is resident of a shard stays a window. */
START_TEST(shards_stay_out_of_memory)
{
	struct shard_header h = {.token_bytes = 1, .vocab = 256, .count = 64u << 20};
	static uint32_t ids[4096], targets[4096];
	const char *const list[] = {path};
	uint8_t bytes[SHARD_HEADER_BYTES];
	struct data *d;
	uint64_t before;

	shard_header_encode(&h, bytes);
	save(path, bytes, sizeof(bytes));
	ck_assert_int_eq(truncate(path, SHARD_HEADER_BYTES + (off_t)h.count), 0);
	ck_assert_int_eq(data_open(list, 1, 4096, 256, 1, false, &d, &err), 0);
	before = resident_file_kib();
	for (uint64_t g = 0; g < data_train_windows(d); g++)
		ck_assert_int_eq(data_train_sequence(d, g, ids, targets, &err), 0);
	ck_assert_uint_le(resident_file_kib(), before + 1024);
	data_close(d);
}
END_TEST

/* Feistel networks of many sizes are permutations. */
START_TEST(every_size_is_permuted)
{
	const char *const list[] = {path};

	for (uint64_t windows = 1; windows < 70; windows++) {
		uint64_t seen[2] = {0};
		struct data *d;

		write_shard(path, 1, windows * SEQUENCE + SEQUENCE);
		ck_assert_int_eq(data_open(list, 1, SEQUENCE, 256, 5, true, &d, &err), 0);
		ck_assert_uint_eq(data_train_windows(d), windows);
		for (uint64_t g = 0; g < windows; g++) {
			uint64_t first, w;
			size_t shard;

			data_train_locate(d, g, &shard, &first);
			w = first / SEQUENCE;
			/* An offset moves all windows alike, none past the next one's place. */
			ck_assert_uint_lt(w, windows);
			ck_assert_uint_eq(seen[w / 64] >> w % 64 & 1, 0);
			seen[w / 64] |= UINT64_C(1) << w % 64;
		}
		data_close(d);
	}
}
END_TEST

/* Two tokens in turn: after each the other, so add-one leaves -log((n + 1) / (n + 251)). */
START_TEST(bigrams_of_a_cycle)
{
	struct shard train, validation;
	double loss;

	write_shard(path, 1, 251 * 100 + 1);
	ck_assert_int_eq(shard_open(path, true, &train, &err), 0);
	ck_assert_int_eq(shard_open(path, true, &validation, &err), 0);
	ck_assert_int_eq(bigram_loss(&train, &validation, &loss, &err), 0);
	ck_assert_double_eq_tol(loss, 1.2453, 1e-3); /* log(351 / 101) */
	shard_close(&train);
	shard_close(&validation);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("data");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	if (!mkdtemp(dir))
		return EXIT_FAILURE;
	snprintf(path, sizeof(path), "%s/a.bin", dir);
	tcase_add_test(tc, good_shards);
	tcase_add_loop_test(tc, damaged_shards, 0, sizeof(damages) / sizeof(damages[0]));
	tcase_add_test(tc, an_empty_shard);
	tcase_add_test(tc, shards_that_are_not_there);
	tcase_add_loop_test(tc, each_window_once_an_epoch, 0, 20);
	tcase_add_test(tc, places_are_as_defined);
	tcase_add_test(tc, epochs_and_seeds_differ);
	tcase_add_test(tc, sequences_hold_the_tokens);
	tcase_add_test(tc, known_answers);
	tcase_add_test(tc, validation_is_in_order);
	tcase_add_test(tc, data_refused);
	tcase_add_test(tc, shards_stay_out_of_memory);
	tcase_add_test(tc, every_size_is_permuted);
	tcase_add_test(tc, bigrams_of_a_cycle);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	if (file_remove_tree(dir, &err) < 0)
		fprintf(stderr, "%s\n", err.text);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
