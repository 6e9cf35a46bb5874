/*
 * The optimizer of a train.yaml: each type has its own keys and defaults, a key of another type is
 * an error at its place, and a cuda device is asked for what it has a kernel for.
 *
 * Method. A small job with the section, and some more lines, put in. A '^' marks where the message
 * must point, and is taken out before parsing.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "offload/train_config.h"

#define TEXT_BYTES 2048

/* The job; its optimizer stands in line 1. *ret_column is the mark's, 0 without one. */
static int parse(const char *optimizer, const char *more, const char *device,
		 struct train_config *c, struct conf_doc **doc, size_t *ret_column, struct err *err)
{
	char text[TEXT_BYTES], *mark;

	snprintf(text, sizeof(text),
		 "optimizer: %s\n"
		 "model: {layers: 1, hidden: 8, heads: 1, vocab: 256, context: 8}\n"
		 "data: {train: [a.bin]}\n"
		 "batch: {global: 1}\n"
		 "schedule: {steps: 10}\n"
		 "nvme: {paths: [/tmp]}\n"
		 "host: {memory: 64MiB}\n"
		 "device: {type: %s, memory: 64MiB}\n"
		 "%s\n",
		 optimizer, device, more);
	mark = strchr(text, '^');
	*ret_column = mark ? (size_t)(mark - text) + 1 : 0;
	if (mark)
		memmove(mark, mark + 1, strlen(mark));
	*doc = NULL;
	*err = (struct err){0};
	return train_config_parse("t.yaml", text, strlen(text), c, doc, err);
}

static const struct {
	const char *optimizer, *says;
} wrong[] = {
	{"{type: ^adam, lr: 1}", "adamw, lion, adagrad, sgd (did you mean 'adamw'?)"},
	{"{moments: ^fp16, lr: 1}", "fp32, bf16, int8"},
	{"{lr: 1, momentum: ^0.9}", "optimizer.momentum: does not apply to adamw"},
	{"{type: lion, lr: 1, eps: ^1e-8}", "optimizer.eps: does not apply to lion"},
	{"{type: lion, lr: 1, momentum: ^0}", "optimizer.momentum: does not apply to lion"},
	{"{type: lion, lr: 1, moments: ^bf16}", "optimizer.moments: does not apply to lion"},
	{"{type: lion, lr: 1, moments: ^fp32}", "optimizer.moments: does not apply to lion"},
	{"{type: lion, lr: 1, betas: ^[0.9, 1]}", "below 1"},
	{"{type: adagrad, lr: 1, betas: ^[0.9, 0.95]}",
	 "optimizer.betas: does not apply to adagrad"},
	{"{type: adagrad, lr: 1, momentum: ^0.9}", "optimizer.momentum: does not apply to adagrad"},
	{"{type: adagrad, lr: 1, moments: ^int8}", "optimizer.moments: does not apply to adagrad"},
	{"{type: adagrad, lr: 1, eps: ^0}", "above 0"},
	{"{type: sgd, lr: 1, betas: ^[0.9, 0.95]}", "optimizer.betas: does not apply to sgd"},
	{"{type: sgd, lr: 1, eps: ^1e-8}", "optimizer.eps: does not apply to sgd"},
	{"{type: sgd, lr: 1, moments: ^bf16}", "optimizer.moments: does not apply to sgd"},
	{"{type: sgd, lr: 1, momentum: ^1}", "from 0 to below 1"},
	{"{type: sgd, lr: 1, momentum: ^-0.1}", "out of range"},
	{"{type: sgd, lr: ^0}", "above 0"},
};

START_TEST(wrong_is_named)
{
	struct train_config c;
	struct conf_doc *doc;
	struct err err;
	char place[32];
	size_t column;

	ck_assert_int_eq(parse(wrong[_i].optimizer, "", "cpu", &c, &doc, &column, &err),
			 ERR_CONFIG);
	snprintf(place, sizeof(place), "t.yaml:1:%zu: ", column);
	ck_assert_msg(!strncmp(err.text, place, strlen(place)) && strstr(err.text, wrong[_i].says),
		      "%s: %s\nexpected it at %s with \"%s\"", wrong[_i].optimizer, err.text, place,
		      wrong[_i].says);
}
END_TEST

static const struct {
	const char *optimizer;
	int type, moments;
	double beta1, beta2, eps, momentum, weight_decay;
} right[] = {
	{"{lr: 1}", OPTIMIZER_ADAMW, MOMENTS_F32, 0.9, 0.95, 1e-8, 0, 0.1},
	{"{type: adamw, lr: 1, moments: int8}", OPTIMIZER_ADAMW, MOMENTS_INT8, 0.9, 0.95, 1e-8, 0,
	 0.1},
	{"{lr: 1, moments: bf16, eps: 1e-6}", OPTIMIZER_ADAMW, MOMENTS_BF16, 0.9, 0.95, 1e-6, 0,
	 0.1},
	{"{lr: 1, moments: fp32, weight_decay: 0}", OPTIMIZER_ADAMW, MOMENTS_F32, 0.9, 0.95, 1e-8,
	 0, 0},
	{"{type: lion, lr: 1}", OPTIMIZER_LION, MOMENTS_F32, 0.9, 0.99, 0, 0, 0.1},
	{"{type: lion, lr: 1, betas: [0.5, 0.6], weight_decay: 2}", OPTIMIZER_LION, MOMENTS_F32,
	 0.5, 0.6, 0, 0, 2},
	{"{type: adagrad, lr: 1}", OPTIMIZER_ADAGRAD, MOMENTS_F32, 0, 0, 1e-10, 0, 0},
	{"{type: adagrad, lr: 1, eps: 1e-3, weight_decay: 0.5}", OPTIMIZER_ADAGRAD, MOMENTS_F32, 0,
	 0, 1e-3, 0, 0.5},
	{"{type: sgd, lr: 1}", OPTIMIZER_SGD, MOMENTS_F32, 0, 0, 0, 0.9, 0},
	{"{type: sgd, lr: 1, momentum: 0}", OPTIMIZER_SGD, MOMENTS_F32, 0, 0, 0, 0, 0},
};

/* What is left out is the type's own default, what is said arrives. */
START_TEST(each_type_has_its_defaults)
{
	struct train_config c;
	struct conf_doc *doc;
	struct err err;
	size_t column;
	int rc = parse(right[_i].optimizer, "", "cpu", &c, &doc, &column, &err);

	ck_assert_msg(rc == 0, "%s", err.text);
	ck_assert_int_eq(c.optimizer.type, right[_i].type);
	ck_assert_int_eq(c.optimizer.moments, right[_i].moments);
	ck_assert_uint_eq(c.optimizer.betas.count, 2);
	ck_assert(c.optimizer.betas.at[0] == right[_i].beta1 &&
		  c.optimizer.betas.at[1] == right[_i].beta2);
	ck_assert(c.optimizer.eps == right[_i].eps && c.optimizer.momentum == right[_i].momentum);
	ck_assert(c.optimizer.weight_decay == right[_i].weight_decay && c.optimizer.clip == 1.0);
	conf_free(doc);
}
END_TEST

static const struct {
	const char *optimizer, *zero;
	bool cuda_too;
} stepped[] = {
	{"{lr: 1e-3}", "zero: {stage: 3}", true},
	{"^{moments: bf16, lr: 1e-3}", "zero: {stage: 3}", false},
	{"^{moments: int8, lr: 1e-3}", "zero: {offload_optimizer: {cpu: 0.9}}", false},
	{"^{type: lion, lr: 1e-3}", "zero: {stage: 3}", false},
	{"{type: lion, lr: 1e-3}", "zero: {offload_optimizer: cpu}", true},
	{"{moments: bf16, lr: 1e-3}", "zero: {offload_optimizer: nvme}", true},
};

/* The cpu device steps any; a build without cuda has its say first. */
START_TEST(a_cuda_device_steps_adamw_in_fp32)
{
	for (int cuda = 0; cuda <= device_built(DEVICE_CUDA); cuda++) {
		bool good = !cuda || stepped[_i].cuda_too;
		struct train_config c;
		struct conf_doc *doc;
		struct err err;
		size_t column;
		int rc = parse(stepped[_i].optimizer, stepped[_i].zero, cuda ? "cuda" : "cpu", &c,
			       &doc, &column, &err);

		ck_assert_msg(rc == (good ? 0 : ERR_CONFIG), "%s", err.text);
		if (!good)
			ck_assert_msg(strstr(err.text, "zero.offload_optimizer has to be cpu"),
				      "%s", err.text);
		conf_free(doc);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("train_optimizer");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tc, wrong_is_named, 0, sizeof(wrong) / sizeof(wrong[0]));
	tcase_add_loop_test(tc, each_type_has_its_defaults, 0, sizeof(right) / sizeof(right[0]));
	tcase_add_loop_test(tc, a_cuda_device_steps_adamw_in_fp32, 0,
			    sizeof(stepped) / sizeof(stepped[0]));
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
