/*
 * Goal: every optimizer and form of its moments goes through the daemon's pipeline as AdamW in
 * fp32 does (t_daemon): bit for bit what the plain optimizer on plain arrays computes, wherever the
 * state lives. What is no optimizer is refused; numbers that are none harm nobody else.
 *
 * Method: a real dsoffloadd, driven through the client; daemon_bed.c has the reference. Sessions
 * are fed with random bits as master, moments and gradients, NaN and infinity among them, while a
 * witness beside them gets right results. Fixed seeds, printed.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/daemon_bed.h"

#define SEED 20261124u

static const char *const conf = "host: {memory: 1GiB, threads: 2}\n";

static const struct {
	enum optimizer_kind kind;
	enum optimizer_moments moments;
} forms[] = {
	{OPTIMIZER_ADAMW, MOMENTS_F32},   {OPTIMIZER_ADAMW, MOMENTS_BF16},
	{OPTIMIZER_ADAMW, MOMENTS_INT8},  {OPTIMIZER_LION, MOMENTS_F32},
	{OPTIMIZER_ADAGRAD, MOMENTS_F32}, {OPTIMIZER_SGD, MOMENTS_F32},
};

#define FORMS (sizeof(forms) / sizeof(forms[0]))

static struct bed_case form_case(size_t form, uint8_t param, uint8_t state, uint8_t grad)
{
	struct bed_case c = {.kind = forms[form].kind,
			     .moments = forms[form].moments,
			     .param_type = DTYPE_BF16,
			     .grad_type = DTYPE_BF16,
			     .engine = NVME_AUTO,
			     .chunk_buffers = 3,
			     .queue_depth = 4,
			     .path_count = 1};

	bed_case_homes(&c, param, state, grad);
	return c;
}

/* Hundreds of sessions with files of their own: in memory where that can be. */
static void daemon_start(struct bed_daemon *d)
{
	bed_start_in(d, access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", conf);
}

START_TEST(each_form_is_the_reference)
{
	static const uint8_t homes[][3] = {
		{PROTOCOL_HOME_MEMORY, PROTOCOL_HOME_MEMORY, PROTOCOL_HOME_MEMORY},
		{PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP},
		{PROTOCOL_HOME_MEMORY, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_NONE},
		{PROTOCOL_HOME_SWAP, PROTOCOL_HOME_MEMORY, PROTOCOL_HOME_NONE},
	};
	struct bed_daemon d;

	daemon_start(&d);
	for (size_t i = 0; i < sizeof(homes) / sizeof(homes[0]); i++) {
		struct bed_case c = form_case((size_t)_i, homes[i][0], homes[i][1], homes[i][2]);

		for (unsigned bits = 0; bits < 8; bits++) {
			c.param_type = bits & 1 ? DTYPE_BF16 : DTYPE_F32;
			c.grad_type = bits & 2 ? DTYPE_BF16 : DTYPE_F32;
			c.accumulate = bits & 4;
			if (!c.accumulate || homes[i][2] != PROTOCOL_HOME_NONE)
				bed_run(&d, &c);
		}
	}
	bed_stop(&d);
}
END_TEST

/* What a session takes is the form's: smaller moments, less memory and less swap. */
START_TEST(each_form_takes_its_bytes)
{
	uint64_t memory[FORMS], swap[FORMS];
	struct bed_daemon d;

	daemon_start(&d);
	for (uint8_t home = PROTOCOL_HOME_MEMORY; home <= PROTOCOL_HOME_SWAP; home++) {
		for (size_t i = 0; i < FORMS; i++) {
			struct bed_case c =
				form_case(i, PROTOCOL_HOME_MEMORY, home, PROTOCOL_HOME_NONE);
			struct bed_session s;
			struct err err;

			ck_assert_msg(bed_open(&s, &c, &d, &err) == 0, "%s", err.text);
			memory[i] = client_opened(s.client)->memory_bytes;
			swap[i] = client_opened(s.client)->swap_bytes;
			bed_close(&s);
		}
		/* fp32, bf16, int8; and one moment in fp32 is as much as two in bf16. */
		ck_assert_uint_gt(memory[0], memory[1]);
		ck_assert_uint_gt(memory[1], memory[2]);
		ck_assert_uint_eq(memory[1], memory[3]);
		if (home == PROTOCOL_HOME_SWAP) {
			ck_assert_uint_gt(swap[0], swap[1]);
			ck_assert_uint_gt(swap[1], swap[2]);
			ck_assert_uint_eq(swap[1], swap[3]);
		}
	}
	bed_stop(&d);
}
END_TEST

static const struct wrong {
	uint8_t kind, moments;
	double beta, eps, momentum, weight_decay;
	uint64_t position;
	const char *text;
} wrongs[] = {
	{OPTIMIZER_KINDS, 0, 0.9, 1e-8, 0.9, 0.1, 0, "optimizer 4 with moments 0 is not known"},
	{255, 255, 0.9, 1e-8, 0.9, 0.1, 0, "optimizer 255 with moments 255 is not known"},
	{0, MOMENTS_KINDS, 0.9, 1e-8, 0.9, 0.1, 0, "with moments 3 is not known"},
	{OPTIMIZER_LION, MOMENTS_BF16, 0.9, 1e-8, 0.9, 0.1, 0, "optimizer.moments: "},
	{OPTIMIZER_SGD, MOMENTS_INT8, 0.9, 1e-8, 0.9, 0.1, 0, "optimizer.moments: "},
	{OPTIMIZER_ADAMW, 0, 1, 1e-8, 0.9, 0.1, 0, "optimizer.betas: "},
	{OPTIMIZER_LION, 0, NAN, 1e-8, 0.9, 0.1, 0, "optimizer.betas: "},
	{OPTIMIZER_ADAGRAD, 0, 0.9, 0, 0.9, 0.1, 0, "optimizer.eps: "},
	{OPTIMIZER_ADAMW, 0, 0.9, INFINITY, 0.9, 0.1, 0, "optimizer.eps: "},
	{OPTIMIZER_SGD, 0, 0.9, 1e-8, -0.5, 0.1, 0, "optimizer.momentum: "},
	{OPTIMIZER_SGD, 0, 0.9, 1e-8, 0.9, NAN, 0, "optimizer.weight_decay: "},
	{OPTIMIZER_ADAMW, 0, 0.9, 1e-8, 0.9, 0.1, 100, "its position"},
	{OPTIMIZER_ADAMW, 0, 0.9, 1e-8, 0.9, 0.1, UINT64_MAX - PROTOCOL_ALIGN_ELEMS + 1,
	 "its position"},
};

START_TEST(no_optimizer_is_refused)
{
	const struct bed_case c =
		form_case(0, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP);
	struct bed_daemon d;

	daemon_start(&d);
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		struct protocol_unit units[BED_UNITS];
		struct bed_session shape = {.step = 0};
		struct client_config config;
		struct client *client;
		struct err err;

		bed_request(&shape, &c, &d, &config, units);
		config.open.optimizer = wrongs[i].kind;
		config.open.moments = wrongs[i].moments;
		config.open.beta1 = wrongs[i].beta;
		config.open.eps = wrongs[i].eps;
		config.open.momentum = wrongs[i].momentum;
		config.open.weight_decay = wrongs[i].weight_decay;
		units[1].position = wrongs[i].position;
		ck_assert_int_eq(client_open(&config, &client, &err), ERR_PROTOCOL);
		ck_assert_msg(strstr(err.text, wrongs[i].text) != NULL, "case %zu: '%s'", i,
			      err.text);
	}
	ck_assert_uint_eq(bed_status(&d, "memory.used_bytes"), 0);
	bed_stop(&d);
}
END_TEST

static void do_one(struct bed_session *v, struct protocol_submission sub)
{
	struct err err;
	uint32_t id;

	ck_assert_int_eq(client_submit(v->client, &sub, &id, &err), 0);
	ck_assert_msg(client_wait(v->client, id, NULL, &err) == 0, "%s", err.text);
}

/* All chunks of a unit in, or out, with what the arena has. */
static void transfer(struct bed_session *v, uint32_t op, unsigned unit)
{
	uint64_t chunks = (v->units[unit].elems + BED_CHUNK_ELEMS - 1) / BED_CHUNK_ELEMS;

	for (uint32_t chunk = 0; chunk < chunks; chunk++)
		do_one(v, (struct protocol_submission){.op = op,
						       .unit = unit,
						       .chunk = chunk,
						       .offset = v->transfer_offset});
}

/* A session is served with whatever bits the arena has. */
static void feed_random_bits(struct bed_session *v, uint64_t *random)
{
	uint64_t *words = (uint64_t *)(void *)(v->arena + client_data_offset(v->client));

	for (uint64_t i = 0; i < v->data_bytes / 8; i++)
		words[i] = bed_random(random);
	for (unsigned u = 0; u < BED_UNITS; u++) {
		transfer(v, PROTOCOL_OP_IMPORT, u);
		for (uint64_t step = 1; step <= 2; step++)
			do_one(v, (struct protocol_submission){.op = PROTOCOL_OP_STEP,
							       .unit = u,
							       .flags = PROTOCOL_FLAG_FROM_ARENA,
							       .offset = v->units[u].grad_offset[0],
							       .step = step,
							       .lr = 1e-3,
							       .grad_scale = 1});
		transfer(v, PROTOCOL_OP_EXPORT, u);
		/* And once more what came out. */
		transfer(v, PROTOCOL_OP_IMPORT, u);
	}
}

START_TEST(bits_that_are_no_numbers)
{
	const struct bed_case witness_case =
		form_case((size_t)_i, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP, PROTOCOL_HOME_SWAP);
	struct bed_session witness;
	struct bed_daemon d;
	uint64_t random = SEED;
	struct err err;

	daemon_start(&d);
	ck_assert_msg(bed_open(&witness, &witness_case, &d, &err) == 0, "%s", err.text);
	bed_import(&witness);
	for (uint8_t home = PROTOCOL_HOME_MEMORY; home <= PROTOCOL_HOME_SWAP; home++) {
		struct bed_case c = form_case((size_t)_i, home, home, PROTOCOL_HOME_NONE);
		struct bed_session v;

		ck_assert_msg(bed_open(&v, &c, &d, &err) == 0, "%s", err.text);
		for (int round = 0; round < 3; round++)
			feed_random_bits(&v, &random);
		bed_close(&v);
		bed_step(&witness);
	}
	bed_export(&witness);
	bed_close(&witness);
	bed_stop(&d);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("daemon optimizers");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	printf("seed 42, %u\n", SEED);
	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, each_form_is_the_reference, 0, FORMS);
	tcase_add_test(tc, each_form_takes_its_bytes);
	tcase_add_test(tc, no_optimizer_is_refused);
	tcase_add_loop_test(tc, bits_that_are_no_numbers, 0, FORMS);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
