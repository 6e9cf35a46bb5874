/*
 * Checkpoints of optimizers other than AdamW in fp32: a file holds as many vectors as the optimizer
 * has; another form of the moments is converted and told, another optimizer refused; and what was
 * written before there were others is read.
 *
 * Method. As t_checkpoint, which proves the rest. The old checkpoint is a new one whose version and
 * members are taken back, checksums and all.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/crc32c.h"
#include "common/file.h"
#include "tests/checkpoint_bed.h"

/* Of one moment there is one in the files, and nothing else is looked for. */
START_TEST(one_moment)
{
	for (int type = OPTIMIZER_ADAMW; type <= OPTIMIZER_SGD; type++) {
		char path[160];
		struct stat st;
		uint64_t elems = 0;

		config.optimizer.type = type;
		ok(save(1, 100000, 7));
		for (size_t u = 0; u < arch->unit_count; u++)
			elems += arch->units[u].elems;
		snprintf(path, sizeof(path), "%s/step-00000007/rank-0000.state", dir);
		ck_assert_int_eq(stat(path, &st), 0);
		ck_assert_uint_eq((uint64_t)st.st_size,
				  sizeof(struct checkpoint_head) +
					  arch->unit_count * sizeof(struct checkpoint_piece) +
					  elems * sizeof(float) *
						  (type == OPTIMIZER_ADAMW ? 3 : 2));
		ok(load(2, 1000, 7));
		ck_assert_str_eq(note, "");
		clean();
		prepare();
	}
	config.optimizer.type = OPTIMIZER_ADAMW;
}
END_TEST

/* Another form of the moments is no reason to refuse, and is told. */
START_TEST(moments_are_converted)
{
	config.optimizer.moments = MOMENTS_BF16;
	ok(save(2, 1000, 7));
	ok(load(1, 1000, 7));
	ck_assert_str_eq(note, "");
	config.optimizer.moments = MOMENTS_INT8;
	ok(load(1, 1000, 7));
	ck_assert_msg(strstr(note, "bf16") && strstr(note, "int8"), "%s", note);
	config.optimizer.moments = MOMENTS_F32;
}
END_TEST

/* A state file's head of version 1, and what the manifest then says of it. */
static uint32_t state_make_old(const char *path)
{
	struct checkpoint_head *head;
	struct checkpoint_piece piece;
	uint32_t crc = 0;
	char *text;
	size_t len, at = sizeof(*head);

	ok(file_load(path, 1u << 24, &text, &len, &err));
	head = (struct checkpoint_head *)(void *)text;
	head->version = 1;
	head->crc = crc32c(0, head, offsetof(struct checkpoint_head, crc));
	for (uint64_t i = 0; i < head->piece_count; i++) {
		memcpy(&piece, text + at, sizeof(piece));
		crc = crc32c(crc, &piece, sizeof(piece));
		at += sizeof(piece) + piece.count * 3 * sizeof(float);
	}
	crc = crc32c(crc, head, sizeof(*head));
	ok(file_replace(path, text, len, &err));
	free(text);
	return crc;
}

/* A checkpoint of one rank as this program wrote it before it knew of other optimizers. */
static void make_old(const char *manifest, const char *state)
{
	static const char *const members = "\"optimizer\":\"adamw\",\"moments\":\"fp32\",";
	char *text, *at, *out, *tail;
	size_t len;

	ok(file_load(manifest, 1u << 20, &text, &len, &err));
	at = strstr(text, members);
	ck_assert_ptr_nonnull(at);
	memmove(at, at + strlen(members), strlen(at + strlen(members)) + 1);
	at = strstr(text, "\"version\":2");
	ck_assert_ptr_nonnull(at);
	at[strlen("\"version\":")] = '1';
	tail = strstr(text, "\"crc32c\":");
	ck_assert_ptr_nonnull(tail);
	*tail = '\0';
	ck_assert_int_gt(asprintf(&out, "%s\"crc32c\":%u}]", text, state_make_old(state)), 0);
	free(text);
	ck_assert_int_gt(
		asprintf(&text, "%s,\"crc32c\":\"%08x\"}\n", out, crc32c(0, out, strlen(out))), 0);
	ok(file_replace(manifest, text, strlen(text), &err));
	free(text);
	free(out);
}

START_TEST(version_one_is_read)
{
	char manifest[160], state[160];

	snprintf(manifest, sizeof(manifest), "%s/step-00000007/manifest.json", dir);
	snprintf(state, sizeof(state), "%s/step-00000007/rank-0000.state", dir);
	ok(save(1, 1000, 7));
	make_old(manifest, state);
	ok(load(2, 1000, 7));
	ck_assert_str_eq(note, "");
	config.optimizer.moments = MOMENTS_BF16;
	ok(load(1, 1000, 7));
	ck_assert_msg(strstr(note, "fp32") && strstr(note, "bf16"), "%s", note);
	config.optimizer.type = OPTIMIZER_SGD;
	ck_assert_int_eq(load(1, 1000, 7), ERR_CONFIG);
	ck_assert_msg(strstr(err.text, "optimizer.type adamw"), "%s", err.text);
	config.optimizer.type = OPTIMIZER_ADAMW;
	config.optimizer.moments = MOMENTS_F32;
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("checkpoint forms");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	if (!bed_make())
		return EXIT_FAILURE;
	tcase_add_checked_fixture(tc, prepare, clean);
	tcase_add_test(tc, one_moment);
	tcase_add_test(tc, moments_are_converted);
	tcase_add_test(tc, version_one_is_read);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	bed_done();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
