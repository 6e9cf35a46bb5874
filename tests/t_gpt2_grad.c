/*
 * The gradient of the whole model: GPT-2 as the worker runs it, through the engine, against finite
 * differences of its own loss.
 *
 * Method. One rank, nothing offloaded, weights drawn large enough that attention and the GELU are
 * far from linear. Gradients are copied out after each unit's last contribution. For each tensor
 * the derivative of the loss along its own gradient, and along random directions, by a stencil of
 * fourth order, must be what the gradient says. One configuration is tiny, the other long and wide
 * enough that MLP rows and logits go through in several chunks. In bf16, at weights that bf16
 * holds exactly, loss and gradient must be those of fp32 but for the order of summation. A pass of
 * fewer sequences than the micro-batch, and one without a loss, are what evaluation and sampling
 * use.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "common/rng.h"
#include "common/shm.h"
#include "worker/gpt2.h"

#define SEED 20240607u

struct bed {
	struct train_config config;
	struct conf_doc *doc;
	struct arch *arch;
	struct plan *plan;
	struct device *device;
	struct comm *comm;
	int comm_fd;
	struct engine *engine;
	struct gpt2 gpt2;
	uint32_t *ids, *targets;
	double loss_sum;
	float *logits;
	float **weights, **grads; /* per unit */
};

static struct err err;

static void ok(int rc)
{
	ck_assert_msg(rc >= 0, "%s", err.text);
}

static void bed_config(struct bed *b, const char *model, const char *batch, const char *precision)
{
	char text[1024];
	int len = snprintf(text, sizeof(text),
			   "model: %s\n"
			   "data: {train: [a.bin]}\n"
			   "batch: %s\n"
			   "optimizer: {lr: 1e-3}\n"
			   "schedule: {steps: 10}\n"
			   "precision: %s\n"
			   "zero: {stage: 0}\n"
			   "device: {memory: 128MiB}\n",
			   model, batch, precision);

	ok(train_config_parse("test", text, (size_t)len, &b->config, &b->doc, &err));
	ok(arch_make(&b->config, &b->arch, &err));
	ok(plan_make(&b->config, b->doc, b->arch, 1, &b->plan, &err));
}

/* Random weights that bf16 holds exactly; gains around 1. */
static void weights_make(struct bed *b)
{
	uint64_t n = 0;

	for (size_t u = 0; u < b->arch->unit_count; u++) {
		const struct arch_unit *unit = &b->arch->units[u];

		b->weights[u] = calloc(unit->elems, sizeof(float));
		b->grads[u] = calloc(b->plan->units[u].padded, sizeof(float));
		for (size_t t = 0; t < unit->tensor_count; t++) {
			const struct arch_tensor *tensor = &unit->tensors[t];
			double scale = tensor->rows ? 0.9 / sqrt((double)tensor->rows) : 0.3;
			double centre = tensor->init == ARCH_INIT_ONE ? 1 : 0;

			if (u == 0 && tensor->rows)
				scale = 0.5;
			for (uint64_t i = 0; i < tensor->count; i++, n++) {
				float w = (float)(centre + scale * rng_normal(SEED, 1, n));

				b->weights[u][tensor->offset + i] =
					bf16_to_float(bf16_from_float(w));
			}
		}
	}
}

static void bed_open(struct bed *b, const char *model, const char *batch, const char *precision)
{
	struct device_config device = {.memory_bytes = 128u << 20, .threads = 2};
	struct comm_config comm = {.world = 1};
	struct engine_config engine = {0};
	size_t tokens;

	memset(b, 0, sizeof(*b));
	bed_config(b, model, batch, precision);
	ok(device_open(&device, &b->device, &err));
	b->comm_fd = shm_create("t_gpt2_grad", comm_shm_bytes(1), &err);
	ok(b->comm_fd);
	comm.shm_fd = b->comm_fd;
	ok(comm_open(&comm, &b->comm, &err));
	engine.config = &b->config;
	engine.arch = b->arch;
	engine.plan = b->plan;
	engine.device = b->device;
	engine.comm = b->comm;
	engine.job = "t_gpt2_grad";
	ok(engine_open(&engine, &b->engine, &err));
	gpt2_init(&b->gpt2, &b->config, b->arch, b->plan->device.kept_blocks,
		  engine_compute(b->engine));
	tokens = b->gpt2.layout.tokens;
	b->ids = calloc(tokens, sizeof(*b->ids));
	b->targets = calloc(tokens, sizeof(*b->targets));
	b->logits = calloc(b->config.model.vocab, sizeof(*b->logits));
	for (size_t i = 0; i < tokens; i++) {
		b->ids[i] = (uint32_t)rng_below(SEED, 2, i, b->config.model.vocab);
		b->targets[i] = (uint32_t)rng_below(SEED, 3, i, b->config.model.vocab);
	}
	b->weights = calloc(b->arch->unit_count, sizeof(*b->weights));
	b->grads = calloc(b->arch->unit_count, sizeof(*b->grads));
	weights_make(b);
}

static void bed_close(struct bed *b)
{
	engine_free(b->engine);
	comm_free(b->comm);
	device_free(b->device);
	close(b->comm_fd);
	for (size_t u = 0; u < b->arch->unit_count; u++) {
		free(b->weights[u]);
		free(b->grads[u]);
	}
	free(b->weights);
	free(b->grads);
	free(b->ids);
	free(b->targets);
	free(b->logits);
	plan_free(b->plan);
	arch_free(b->arch);
	conf_free(b->doc);
}

static void import(struct bed *b)
{
	for (size_t u = 0; u < b->arch->unit_count; u++)
		for (size_t i = 0; i < engine_import_pieces(b->engine, u); i++) {
			struct engine_piece p;

			ok(engine_import_begin(b->engine, u, i, &p, &err));
			memset(p.master, 0, p.count * sizeof(float));
			memset(p.m, 0, p.count * sizeof(float));
			memset(p.v, 0, p.count * sizeof(float));
			for (uint64_t k = 0; k < p.count; k++)
				if (p.first + k < b->arch->units[u].elems)
					p.master[k] = b->weights[u][p.first + k];
			ok(engine_import_end(b->engine, &p, &err));
		}
	ok(engine_import_done(b->engine, &err));
}

static void run(struct bed *b, enum engine_pass kind, const struct gpt2_pass *pass)
{
	const struct arch_phase *phases = kind == ENGINE_TRAIN ? b->arch->train : b->arch->eval;
	size_t count = kind == ENGINE_TRAIN ? b->arch->train_count : b->arch->eval_count;
	struct device_stream *s = engine_compute(b->engine);

	ok(engine_pass_begin(b->engine, kind, &err));
	for (size_t i = 0; i < count; i++) {
		struct engine_io io;

		ok(engine_phase_begin(b->engine, &io, &err));
		gpt2_phase(&b->gpt2, pass, &phases[i], &io);
		if (phases[i].grad_last) {
			int u = phases[i].grad_unit;

			device_copy(s, b->grads[u], io.grad,
				    b->plan->units[u].padded * sizeof(float), DEVICE_COPY_OUT);
		}
		ok(engine_phase_end(b->engine, &err));
	}
	ok(engine_pass_end(b->engine, &err));
	ok(device_stream_sync(s, &err));
}

static struct gpt2_pass whole(struct bed *b)
{
	return (struct gpt2_pass){
		.batch = b->gpt2.layout.batch,
		.seq = b->gpt2.layout.seq,
		.ids = b->ids,
		.targets = b->targets,
		.first = true,
		.grad_scale = 1,
		.loss_sum = &b->loss_sum,
	};
}

/* The summed loss at the weights as they are. */
static double loss(struct bed *b)
{
	struct gpt2_pass pass = whole(b);

	import(b);
	run(b, ENGINE_EVAL, &pass);
	return b->loss_sum;
}

static double train(struct bed *b)
{
	struct gpt2_pass pass = whole(b);
	double norm;

	import(b);
	ok(engine_step_begin(b->engine, 1, 1e-3, &err));
	run(b, ENGINE_TRAIN, &pass);
	ok(engine_step_end(b->engine, &norm, &err));
	ok(engine_sync(b->engine, &err));
	return b->loss_sum;
}

/* d loss / d h of weights + h * direction, by a stencil of fourth order. */
static double slope(struct bed *b, size_t u, const struct arch_tensor *t, const float *direction,
		    double h)
{
	static const double at[] = {-2, -1, 1, 2}, weight[] = {1, -8, 8, -1};
	float *w = b->weights[u] + t->offset, *saved = malloc(t->count * sizeof(float));
	double sum = 0;

	memcpy(saved, w, t->count * sizeof(float));
	for (size_t k = 0; k < 4; k++) {
		for (uint64_t i = 0; i < t->count; i++)
			w[i] = (float)((double)saved[i] + at[k] * h * (double)direction[i]);
		sum += weight[k] * loss(b);
	}
	memcpy(w, saved, t->count * sizeof(float));
	free(saved);
	return sum / (12 * h);
}

static double norm_of(const float *x, uint64_t count)
{
	double sum = 0;

	for (uint64_t i = 0; i < count; i++)
		sum += (double)x[i] * (double)x[i];
	return sqrt(sum);
}

/* Along the gradient itself (which = 0) or a random direction of length 1. */
static void check_direction(struct bed *b, size_t u, const struct arch_tensor *t, unsigned which)
{
	const float *grad = b->grads[u] + t->offset;
	float *direction = malloc(t->count * sizeof(float));
	double gnorm = norm_of(grad, t->count), length, expected = 0, found;

	ck_assert_msg(gnorm > 0, "%s: no gradient", t->name);
	for (uint64_t i = 0; i < t->count; i++)
		direction[i] = which ? (float)rng_normal(SEED, 10 + which, t->offset + i) : grad[i];
	length = norm_of(direction, t->count);
	for (uint64_t i = 0; i < t->count; i++) {
		direction[i] = (float)((double)direction[i] / length);
		expected += (double)direction[i] * (double)grad[i];
	}
	found = slope(b, u, t, direction, 0.02);
	/* Rounding of the loss, some 1e-7 of it, divided by the step, and the stencil's h^4. */
	ck_assert_msg(fabs(found - expected) <= 1e-4 * gnorm + 2e-3,
		      "%s, direction %u, seed %u: %.9g by differences, %.9g by the gradient",
		      t->name, which, SEED, found, expected);
	free(direction);
}

static void check_gradients(const char *model, const char *batch, unsigned directions)
{
	struct bed b;
	double trained, evaluated;

	bed_open(&b, model, batch, "fp32");
	trained = train(&b);
	evaluated = loss(&b);
	ck_assert_msg(trained == evaluated, "training's loss %.17g, evaluation's %.17g", trained,
		      evaluated);
	for (size_t u = 0; u < b.arch->unit_count; u++)
		for (size_t t = 0; t < b.arch->units[u].tensor_count; t++)
			for (unsigned d = 0; d < directions; d++)
				check_direction(&b, u, &b.arch->units[u].tensors[t], d);
	bed_close(&b);
}

START_TEST(gradients_match_finite_differences)
{
	check_gradients("{layers: 2, hidden: 24, heads: 3, vocab: 37, context: 13}",
			"{global: 3, micro: 3}", 3);
}
END_TEST

/* 544 tokens: two chunks of MLP rows; 16384 logits a row: nine chunks of at most 64 rows. */
START_TEST(chunks_match_finite_differences)
{
	struct bed b;

	bed_open(&b, "{layers: 1, hidden: 8, heads: 2, vocab: 16384, context: 32}",
		 "{global: 17, micro: 17}", "fp32");
	ck_assert_uint_lt(b.gpt2.layout.mlp_rows, b.gpt2.layout.tokens);
	ck_assert_uint_lt(b.gpt2.layout.logits_rows, b.gpt2.layout.tokens);
	bed_close(&b);
	check_gradients("{layers: 1, hidden: 8, heads: 2, vocab: 16384, context: 32}",
			"{global: 17, micro: 17}", 1);
}
END_TEST

START_TEST(bf16_is_fp32_at_weights_it_holds)
{
	static const char model[] = "{layers: 2, hidden: 24, heads: 3, vocab: 37, context: 13}";
	struct bed a, b;
	double fp32, bf16;

	bed_open(&a, model, "{global: 3, micro: 3}", "fp32");
	bed_open(&b, model, "{global: 3, micro: 3}", "bf16");
	fp32 = train(&a);
	bf16 = train(&b);
	ck_assert_double_eq_tol(fp32, bf16, 1e-5 * fp32);
	for (size_t u = 0; u < a.arch->unit_count; u++)
		for (size_t t = 0; t < a.arch->units[u].tensor_count; t++) {
			const struct arch_tensor *tensor = &a.arch->units[u].tensors[t];
			double size = norm_of(a.grads[u] + tensor->offset, tensor->count), off = 0;

			for (uint64_t i = tensor->offset; i < tensor->offset + tensor->count; i++)
				off += pow((double)a.grads[u][i] - (double)b.grads[u][i], 2);
			ck_assert_msg(sqrt(off) <= 1e-5 * size + 1e-6, "%s: off by %g of %g",
				      tensor->name, sqrt(off), size);
		}
	bed_close(&a);
	bed_close(&b);
}
END_TEST

/* The loss of a batch is the sum over passes of its sequences, whatever the passes' sizes. */
START_TEST(smaller_passes_add_up)
{
	struct gpt2_pass pass;
	struct bed b;
	double all;

	bed_open(&b, "{layers: 2, hidden: 24, heads: 3, vocab: 37, context: 13}",
		 "{global: 3, micro: 3}", "bf16");
	all = loss(&b);
	pass = whole(&b);
	pass.batch = 2;
	pass.loss_sum = NULL;
	run(&b, ENGINE_EVAL, &pass);
	pass.first = false;
	pass.batch = 1;
	pass.ids += 2 * pass.seq;
	pass.targets = NULL; /* a pass that does not count */
	run(&b, ENGINE_EVAL, &pass);
	pass.targets = b.targets + 2 * pass.seq;
	pass.loss_sum = &b.loss_sum;
	run(&b, ENGINE_EVAL, &pass);
	ck_assert_double_eq_tol(b.loss_sum, all, 1e-6 * all);
	bed_close(&b);
}
END_TEST

/* Logits behind the last token give the loss of predicting it. */
START_TEST(logits_agree_with_the_loss)
{
	struct gpt2_pass pass;
	double before, after, sum = 0;
	struct bed b;

	bed_open(&b, "{layers: 2, hidden: 24, heads: 3, vocab: 37, context: 13}",
		 "{global: 3, micro: 3}", "bf16");
	import(&b);
	pass = whole(&b);
	pass.batch = 1;
	pass.seq = 6;
	run(&b, ENGINE_EVAL, &pass);
	before = b.loss_sum;
	pass.seq = 7;
	pass.logits = b.logits;
	run(&b, ENGINE_EVAL, &pass);
	after = b.loss_sum;
	for (size_t i = 0; i < b.config.model.vocab; i++)
		sum += exp((double)b.logits[i]);
	ck_assert_double_eq_tol(after - before, log(sum) - (double)b.logits[b.targets[6]], 1e-4);
	bed_close(&b);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("gpt2_grad");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, gradients_match_finite_differences);
	tcase_add_test(tc, chunks_match_finite_differences);
	tcase_add_test(tc, bf16_is_fp32_at_weights_it_holds);
	tcase_add_test(tc, smaller_passes_add_up);
	tcase_add_test(tc, logits_agree_with_the_loss);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
