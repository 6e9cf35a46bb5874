/*
 * The shape of GPT-2.
 *
 * Method. For several models: tensors tile their unit with the decayed ones first; the number of
 * parameters is that of the formula; phases read only what an earlier one wrote, give each
 * activation and gradient up at its last use and no earlier; the parts of the workspace that live
 * at the same time do not overlap, and all of it lies within workspace_bytes.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/device.h"
#include "offload/arch_gpt2.h"

static struct err err;

static const struct train_config models[] = {
	{.model = {.layers = 1, .hidden = 8, .heads = 2, .vocab = 2, .context = 4},
	 .data.sequence = 4,
	 .batch = {.global = 1, .micro = 1},
	 .precision = PRECISION_FP32},
	{.model = {.layers = 3, .hidden = 96, .heads = 3, .vocab = 257, .context = 48},
	 .data.sequence = 31,
	 .batch = {.global = 4, .micro = 2},
	 .precision = PRECISION_BF16},
	{.model = {.layers = 12, .hidden = 768, .heads = 12, .vocab = 50257, .context = 1024},
	 .data.sequence = 1024,
	 .batch = {.global = 4, .micro = 4},
	 .precision = PRECISION_BF16},
	{.model = {.layers = 2, .hidden = 64, .heads = 1, .vocab = 4000000, .context = 8},
	 .data.sequence = 8,
	 .batch = {.global = 1, .micro = 1},
	 .precision = PRECISION_FP32},
	{.model = {.layers = 12, .hidden = 768, .heads = 12, .vocab = 50257, .context = 1024},
	 .data.sequence = 1024,
	 .batch = {.global = 32, .micro = 32},
	 .precision = PRECISION_BF16,
	 .device.type = DEVICE_CUDA},
	{.model = {.layers = 3, .hidden = 96, .heads = 3, .vocab = 257, .context = 48},
	 .data.sequence = 31,
	 .batch = {.global = 4, .micro = 2},
	 .precision = PRECISION_FP32,
	 .device.type = DEVICE_CUDA},
};
#define MODELS (int)(sizeof(models) / sizeof(models[0]))

static struct arch *make(int i)
{
	struct arch *arch;

	ck_assert_msg(arch_make(&models[i], &arch, &err) == 0, "%s", err.text);
	return arch;
}

START_TEST(tensors_tile_units)
{
	struct arch *arch = make(_i);
	uint64_t params = 0;

	ck_assert_uint_eq(arch->unit_count, models[_i].model.layers + 1);
	for (size_t u = 0; u < arch->unit_count; u++) {
		const struct arch_unit *unit = &arch->units[u];
		uint64_t at = 0;

		for (size_t t = 0; t < unit->tensor_count; t++) {
			const struct arch_tensor *x = &unit->tensors[t];

			ck_assert_uint_eq(x->offset, at);
			ck_assert_uint_eq(x->count, x->rows ? x->rows * x->cols : x->cols);
			ck_assert(x->decay == (x->rows > 0));
			ck_assert(x->decay == (at < unit->decay_elems));
			ck_assert(!x->decay || x->init == ARCH_INIT_NORMAL);
			at += x->count;
		}
		ck_assert_uint_eq(unit->elems, at);
		params += at;
	}
	ck_assert_uint_eq(arch->params, params);
	arch_free(arch);
}
END_TEST

START_TEST(parameters_are_counted_right)
{
	const struct train_config *c = &models[_i];
	uint64_t h = c->model.hidden;
	struct arch *arch = make(_i);

	/* Per block: matrices 12 h^2, their biases 9 h, two norms 4 h. GPT-2 small: 124439808. */
	ck_assert_uint_eq(arch->params, (c->model.vocab + c->model.context) * h + 2 * h +
						c->model.layers * (12 * h * h + 13 * h));
	if (_i == 2)
		ck_assert_uint_eq(arch->params, 124439808);
	arch_free(arch);
}
END_TEST

START_TEST(names_and_init_are_gpt2s)
{
	struct arch *arch = make(2);
	const struct arch_tensor *t = &arch->units[4].tensors[GPT2_MLP_PROJ_W];

	ck_assert_str_eq(t->name, "h.3.mlp.c_proj.weight");
	ck_assert_uint_eq(t->rows, 4 * 768);
	ck_assert_uint_eq(t->cols, 768);
	ck_assert_double_eq_tol(t->std, 0.02 / sqrt(24), 1e-12);
	ck_assert_str_eq(arch->units[0].tensors[GPT2_LNF_BIAS].name, "ln_f.bias");
	ck_assert_str_eq(arch->units[12].tensors[GPT2_FC_B].name, "h.11.mlp.c_fc.bias");
	ck_assert_int_eq(arch->units[1].tensors[GPT2_LN2_GAIN].init, ARCH_INIT_ONE);
	ck_assert_double_eq_tol(arch->units[0].tensors[GPT2_WTE].std, 0.02, 1e-12);
	arch_free(arch);
}
END_TEST

/* Every activation is written before it is read, once, and given up behind its last reader. */
static void check_activations(const struct arch *arch, const struct arch_phase *p, size_t count)
{
	int *state = calloc(arch->act_count, sizeof(*state)); /* 0 unwritten, 1 live, 2 gone */

	for (size_t i = 0; i < count; i++) {
		if (p[i].act_in >= 0) {
			ck_assert_int_eq(state[p[i].act_in], 1);
			if (p[i].act_in_last)
				state[p[i].act_in] = 2;
		}
		if (p[i].act_out >= 0)
			ck_assert_int_eq(state[p[i].act_out]++, 0);
	}
	for (size_t i = 0; i < arch->act_count; i++)
		ck_assert_int_eq(state[i], 2);
	free(state);
}

START_TEST(phases_use_what_is_there)
{
	struct arch *arch = make(_i);
	int *complete = calloc(arch->unit_count, sizeof(*complete));

	check_activations(arch, arch->train, arch->train_count);
	check_activations(arch, arch->eval, arch->eval_count);
	for (size_t i = 0; i < arch->train_count; i++) {
		const struct arch_phase *p = &arch->train[i];

		ck_assert(p->unit >= 0 || p->kind == GPT2_EMBED_BACKWARD);
		if (p->grad_unit >= 0) {
			ck_assert_int_eq(complete[p->grad_unit], 0);
			complete[p->grad_unit] = p->grad_last;
		}
	}
	for (size_t u = 0; u < arch->unit_count; u++)
		ck_assert_int_eq(complete[u], 1);
	for (size_t i = 0; i < arch->eval_count; i++)
		ck_assert_int_eq(arch->eval[i].grad_unit, -1);
	free(complete);
	arch_free(arch);
}
END_TEST

struct part {
	uint64_t at, bytes;
};

static void check_disjoint(const struct part *parts, size_t count, uint64_t total)
{
	for (size_t i = 0; i < count; i++) {
		ck_assert_uint_eq(parts[i].at % GPT2_WORKSPACE_ALIGN, 0);
		ck_assert_uint_le(parts[i].at + parts[i].bytes, total);
		for (size_t k = 0; k < i; k++)
			ck_assert(parts[i].at + parts[i].bytes <= parts[k].at ||
				  parts[k].at + parts[k].bytes <= parts[i].at);
	}
}

START_TEST(workspace_parts_do_not_overlap)
{
	const struct train_config *c = &models[_i];
	uint64_t h = c->model.hidden;
	struct arch *arch = make(_i);
	struct gpt2_layout l;

	gpt2_layout_make(c, &l);
	ck_assert_uint_eq(l.bytes, arch->workspace_bytes);
	ck_assert_uint_eq(l.carry_bytes, arch->carry_bytes);
	ck_assert_uint_eq(arch->act_bytes, 4 * l.tokens * h);

	const struct gpt2_area *r = &l.recomputed;
	const uint64_t act = dtype_bytes(l.act);
	struct part carried[] = {
		{l.ids, 4 * l.tokens},
		{l.targets, 4 * l.tokens},
		{l.dres, 4 * l.tokens * h},
		{l.dres_act, 2 * l.tokens * h},
	};
	struct part always[] = {
		{l.loss_sum, 8},
		{l.norm, act * l.tokens * h},
		{l.mean, 4 * l.tokens},
		{l.rstd, 4 * l.tokens},
		{l.scratch, 4 * l.scratch_count},
	};
	struct part block[] = {
		{l.area + r->lse, 4 * l.tokens * c->model.heads},
		{l.area + r->qkv, act * 3 * l.tokens * h},
		{l.area + r->attn, act * l.tokens * h},
		{l.area + r->res, 4 * l.tokens * h},
		{l.area + r->hidden, act * 4 * l.mlp_rows * h},
		{l.area + r->gelu, act * 4 * l.mlp_rows * h},
	};
	struct part attention[] = {
		{l.area + r->lse, 4 * l.tokens * c->model.heads},
		{l.area + r->qkv, act * 3 * l.tokens * h},
		{l.area + r->attn, act * l.tokens * h},
		{l.area + r->res, 4 * l.tokens * h},
		{l.area + r->dqkv, act * 3 * l.tokens * h},
	};
	struct part head[] = {{l.logits, act * l.logits_rows * l.logits_row}};
	const struct {
		const struct part *parts;
		size_t count;
	} phases[] = {{block, 6}, {attention, 5}, {head, 1}};

	if (l.act == DTYPE_F32)
		ck_assert_uint_eq(l.dres_act, l.dres);
	check_disjoint(carried, l.act == DTYPE_BF16 ? 4 : 3, l.carry_bytes);
	for (size_t k = 0; k < 3; k++) {
		struct part all[17];
		size_t n = sizeof(always) / sizeof(always[0]);

		memcpy(all, always, sizeof(always));
		memcpy(all + n, phases[k].parts, phases[k].count * sizeof(struct part));
		check_disjoint(all, n + phases[k].count, l.bytes);
	}
	arch_free(arch);
}
END_TEST

START_TEST(kept_blocks_hold_all_rows)
{
	const struct train_config *c = &models[_i];
	uint64_t h = c->model.hidden, act;
	struct arch *arch = make(_i);
	struct gpt2_layout l;

	gpt2_layout_make(c, &l);
	act = dtype_bytes(l.act);

	const struct gpt2_area *k = &l.kept;
	struct part forward[] = {
		{k->lse, 4 * l.tokens * c->model.heads}, {k->qkv, act * 3 * l.tokens * h},
		{k->attn, act * l.tokens * h},           {k->res, 4 * l.tokens * h},
		{k->hidden, act * 4 * l.tokens * h},     {k->gelu, act * 4 * l.tokens * h},
	};

	ck_assert_uint_eq(k->mlp_rows, l.tokens);
	check_disjoint(forward, sizeof(forward) / sizeof(forward[0]), k->bytes);
	/* By then the MLP is through. */
	ck_assert_uint_eq(k->dqkv, k->hidden);
	ck_assert_uint_eq(arch->kept_bytes, k->bytes);
	ck_assert_uint_eq(arch->kept_max, c->model.layers);
	arch_free(arch);
}
END_TEST

START_TEST(workspace_is_tight)
{
	const struct train_config *c = &models[_i];
	const bool cuda = c->device.type == DEVICE_CUDA;
	struct gpt2_layout l;

	gpt2_layout_make(c, &l);
	ck_assert_uint_ge(l.logits_rows, 1);
	ck_assert_uint_le(l.logits_rows, l.tokens);
	ck_assert(l.logits_rows <= (cuda ? 1 : GPT2_LOGITS_ROWS_MIN) ||
		  dtype_bytes(l.act) * l.logits_rows * l.logits_row <=
			  (cuda ? GPT2_LOGITS_BYTES_MAX_CUDA : GPT2_LOGITS_BYTES_MAX));
	ck_assert_uint_ge(l.scratch_count,
			  attention_scratch_count((enum device_type)c->device.type, l.batch, l.seq,
						  c->model.heads, c->model.hidden / c->model.heads,
						  GPT2_THREADS_MAX));
	if (!cuda && c->precision == PRECISION_BF16) {
		ck_assert_uint_ge(l.scratch_count, 4 * c->model.hidden);
		ck_assert_uint_ge(l.scratch_count, c->model.vocab);
	}
}
END_TEST

START_TEST(impossible_shapes)
{
	struct train_config c = models[1];
	struct arch *arch;

	c.model.heads = 7;
	ck_assert_int_eq(arch_make(&c, &arch, &err), ERR_CONFIG);
	c = models[1];
	c.model.layers = 100000;
	ck_assert_int_eq(arch_make(&c, &arch, &err), ERR_CONFIG);
	c = models[1];
	c.model.vocab = UINT64_C(1) << 60;
	ck_assert_int_eq(arch_make(&c, &arch, &err), ERR_CONFIG);
	c = models[1];
	c.data.sequence = UINT64_C(1) << 62;
	ck_assert_int_eq(arch_make(&c, &arch, &err), ERR_CONFIG);
	c = models[1];
	c.batch.micro = 0;
	ck_assert_int_eq(arch_make(&c, &arch, &err), ERR_CONFIG);
	c = models[1];
	c.model.arch = 99;
	ck_assert_int_eq(arch_make(&c, &arch, &err), ERR_INTERNAL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("arch");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_loop_test(tc, tensors_tile_units, 0, MODELS);
	tcase_add_loop_test(tc, parameters_are_counted_right, 0, MODELS);
	tcase_add_test(tc, names_and_init_are_gpt2s);
	tcase_add_loop_test(tc, phases_use_what_is_there, 0, MODELS);
	tcase_add_loop_test(tc, workspace_parts_do_not_overlap, 0, MODELS);
	tcase_add_loop_test(tc, kept_blocks_hold_all_rows, 0, MODELS);
	tcase_add_loop_test(tc, workspace_is_tight, 0, MODELS);
	tcase_add_test(tc, impossible_shapes);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
