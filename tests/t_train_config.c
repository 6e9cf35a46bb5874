/*
 * train.yaml: that every mistake is named where it stands, and that what is right arrives as meant.
 *
 * Method. The example of the issue is the base. A wrong config replaces one or two of its lines; a
 * '^' in the replacement marks where the message must point, and is taken out before parsing. Each
 * message must begin with file:line:column of the mark and contain a given text. Then the base's
 * values, the defaults, and the learning rate against figures worked out by hand.
 */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/optimizer.h"
#include "nvme/nvme.h"
#include "offload/train_config.h"

#define TEXT_BYTES 16384

static const char *const base[] = {
	"model:     {arch: gpt2, layers: 12, hidden: 768, heads: 12, vocab: 256, context: 1024}",
	"data:      {train: [a.bin], validation: [b.bin], sequence: 256}",
	"batch:     {global: 16, micro: 4}",
	"optimizer: {type: adamw, lr: 3e-4, betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, "
	"clip: 1.0}",
	"schedule:  {type: cosine, warmup: 100, steps: 1000, min_lr: 3e-5, order: layer}",
	"precision: bf16",
	"zero:      {stage: 3, offload_param: nvme, offload_optimizer: nvme, "
	"offload_activations: none, prefetch: 2}",
	"nvme:      {paths: [/local_nvme], engine: auto, extent: 4MiB, queue_depth: 32}",
	"host:      {memory: 512MiB, threads: 2}",
	"device:    {type: cpu, count: 2, memory: 64MiB}",
	"checkpoint: {dir: ckpt, every: 500, keep: 2}",
	"evaluate:  {every: 100, batches: 10}",
	"log:       {every: 10, file: metrics.jsonl}",
	"seed: 1",
};

#define LINES (sizeof(base) / sizeof(base[0]))

enum {
	MODEL,
	DATA,
	BATCH,
	OPTIMIZER,
	SCHEDULE,
	PRECISION,
	ZERO,
	NVME,
	HOST,
	DEVICE,
	CHECKPOINT,
	EVALUATE,
	LOG,
	SEED,
	NOTHING
};

struct edit {
	int line;
	const char *text;
};

static const struct wrong {
	struct edit edit;
	const char *says;
	struct edit also;
} wrongs[] = {
	{{MODEL, "model: {arch: ^gpt3, layers: 1, hidden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "gpt3",
	 {0}},
	{{MODEL, "model: {layers: ^0, hidden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "model.layers",
	 {0}},
	{{MODEL, "model: {layers: ^1001, hidden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "1001",
	 {0}},
	{{MODEL, "model: {layers: ^many, hidden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "many",
	 {0}},
	{{MODEL, "model: {layers: ^-1, hidden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "-1",
	 {0}},
	{{MODEL, "model: {layers: ^1.5, hidden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "1.5",
	 {0}},
	{{MODEL, "model: {layers: ^[1], hidden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "model.layers",
	 {0}},
	{{MODEL, "model: {layers: 1, ^layers: 2, hidden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "layers",
	 {0}},
	{{MODEL, "model: ^{hidden: 8, heads: 1, vocab: 256, context: 1024}"}, "layers", {0}},
	{{MODEL, "model: ^{layers: 1, heads: 1, vocab: 256, context: 1024}"}, "hidden", {0}},
	{{MODEL, "model: ^{layers: 1, hidden: 8, vocab: 256, context: 1024}"}, "heads", {0}},
	{{MODEL, "model: ^{layers: 1, hidden: 8, heads: 1, context: 1024}"}, "vocab", {0}},
	{{MODEL, "model: ^{layers: 1, hidden: 8, heads: 1, vocab: 256}"}, "context", {0}},
	{{MODEL, "model: {layers: 1, hidden: ^0, heads: 1, vocab: 256, context: 1024}"},
	 "model.hidden",
	 {0}},
	{{MODEL, "model: {layers: 1, hidden: ^65537, heads: 1, vocab: 256, context: 1024}"},
	 "65537",
	 {0}},
	{{MODEL, "model: {layers: 1, hidden: 8, heads: ^0, vocab: 256, context: 1024}"},
	 "model.heads",
	 {0}},
	{{MODEL, "model: {layers: 1, hidden: 770, heads: ^12, vocab: 256, context: 1024}"},
	 "12 heads do not divide model.hidden, 770",
	 {0}},
	{{MODEL, "model: {layers: 1, hidden: 8, heads: ^16, vocab: 256, context: 1024}"},
	 "16 heads do not divide",
	 {0}},
	{{MODEL, "model: {layers: 1, hidden: 8, heads: 1, vocab: ^1, context: 1024}"},
	 "model.vocab",
	 {0}},
	{{MODEL, "model: {layers: 1, hidden: 8, heads: 1, vocab: ^1048577, context: 1024}"},
	 "1048577",
	 {0}},
	{{MODEL, "model: {layers: 1, hidden: 8, heads: 1, vocab: 256, context: ^0}"},
	 "model.context",
	 {0}},
	{{MODEL, "model: {layers: 1, ^hiden: 8, heads: 1, vocab: 256, context: 1024}"},
	 "hidden",
	 {0}},
	{{MODEL, "model: ^12"}, "model", {0}},
	{{DATA, "data: {train: [a.bin], sequence: ^256}"},
	 "256 is more than model.context, 128",
	 {MODEL, "model: {layers: 1, hidden: 8, heads: 1, vocab: 256, context: 128}"}},
	{{DATA, "data: {train: ^[]}"}, "data.train", {0}},
	{{DATA, "data: {train: [a.bin], validation: ^[]}"}, "data.validation", {0}},
	{{DATA, "data: {train: ^{a: b}}"}, "data.train", {0}},
	{{DATA, "data: ^{validation: [b.bin]}"}, "train", {0}},
	{{DATA, "data: {train: [a.bin], sequence: ^0}"}, "data.sequence", {0}},
	{{DATA, "data: {train: [a.bin], sequence: ^2048}"},
	 "2048 is more than model.context, 1024",
	 {0}},
	{{DATA, "data: {train: [a.bin], ^sequnce: 128}"}, "sequence", {0}},
	{{BATCH, "batch: {global: ^0}"}, "batch.global", {0}},
	{{BATCH, "batch: {global: ^15}"},
	 "15 is not a multiple of 2: batch.micro, 1, on 2 devices",
	 {0}},
	{{BATCH, "batch: {global: ^16, micro: 16}"}, "16 is not a multiple of 32", {0}},
	{{BATCH, "batch: {global: ^16, micro: 4}"},
	 "16 is not a multiple of 12: batch.micro, 4, on 3 devices",
	 {DEVICE, "device: {count: 3, memory: 64MiB}"}},
	{{BATCH, "batch: {global: 16, micro: ^0}"}, "batch.micro", {0}},
	{{BATCH, "batch: ^{micro: 4}"}, "global", {0}},
	{{OPTIMIZER, "optimizer: {type: ^adam, lr: 1e-3}"}, "adamw", {0}},
	{{OPTIMIZER, "optimizer: ^{type: adamw}"}, "lr", {0}},
	{{OPTIMIZER, "optimizer: {lr: ^0}"}, "above 0", {SCHEDULE, "schedule: {steps: 10}"}},
	{{OPTIMIZER, "optimizer: {lr: ^-1e-3}"}, "optimizer.lr", {0}},
	{{OPTIMIZER, "optimizer: {lr: ^fast}"}, "fast", {0}},
	{{OPTIMIZER, "optimizer: {lr: ^.nan}"}, "optimizer.lr", {0}},
	{{OPTIMIZER, "optimizer: {lr: ^.inf}"}, "optimizer.lr", {0}},
	{{OPTIMIZER, "optimizer: {lr: ^1e40}"}, "optimizer.lr", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, betas: ^[0.9]}"}, "optimizer.betas", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, betas: [0.9, 0.95, ^0.99]}"}, "optimizer.betas", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, betas: ^[0.9, 1]}"}, "below 1", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, betas: ^[-0.1, 0.9]}"}, "from 0", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, betas: [^a, 0.9]}"}, "optimizer.betas", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, eps: ^0}"}, "above 0", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, weight_decay: ^-0.1}"}, "optimizer.weight_decay", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, clip: ^-1}"}, "optimizer.clip", {0}},
	{{OPTIMIZER, "optimizer: {lr: 1e-3, ^beta: [0.9, 0.95]}"}, "betas", {0}},
	{{SCHEDULE, "schedule: {type: ^step, steps: 10}"}, "cosine", {0}},
	{{SCHEDULE, "schedule: {steps: 10, order: ^layers}"}, "micro-batch", {0}},
	{{SCHEDULE, "schedule: {steps: 10, order: ^layer}"},
	 "a step is one micro-batch a device",
	 {BATCH, "batch: {global: 8, micro: 4}"}},
	{{SCHEDULE, "schedule: ^{warmup: 1}"}, "steps", {0}},
	{{SCHEDULE, "schedule: {steps: ^0}"}, "schedule.steps", {0}},
	{{SCHEDULE, "schedule: {steps: 10, warmup: ^11}"},
	 "11 is more than schedule.steps, 10",
	 {0}},
	{{SCHEDULE, "schedule: {steps: 10, min_lr: ^1e-3}"},
	 "0.001 is more than optimizer.lr, 0.0003",
	 {0}},
	{{SCHEDULE, "schedule: {steps: 10, min_lr: ^-1}"}, "schedule.min_lr", {0}},
	{{SCHEDULE, "schedule: {type: constant, steps: 10, warmup: ^0}"},
	 "does not apply to a constant",
	 {0}},
	{{SCHEDULE, "schedule: {type: constant, steps: 10, min_lr: ^0}"},
	 "does not apply to a constant",
	 {0}},
	{{PRECISION, "precision: ^fp16"}, "fp32", {0}},
	{{PRECISION, "precision: ^[bf16]"}, "precision", {0}},
	{{ZERO, "zero: {stage: ^4}"}, "zero.stage", {0}},
	{{ZERO, "zero: {offload_param: ^disk}"}, "nvme", {0}},
	{{ZERO, "zero: {offload_param: ^nvme}"}, "needs nvme.paths", {NVME, ""}},
	{{ZERO, "zero: {offload_optimizer: ^nvme}"}, "needs nvme.paths", {NVME, ""}},
	{{ZERO, "zero: {offload_activations: ^nvme}"}, "needs nvme.paths", {NVME, ""}},
	{{ZERO, "zero: {offload_param: ^cpu}"}, "cpu needs host.memory", {HOST, ""}},
	{{ZERO, "zero: {offload_optimizer: ^nvme}"},
	 "nvme needs host.memory",
	 {HOST, "host: {threads: 2}"}},
	{{ZERO, "zero: {offload_activations: ^cpu}"},
	 "cpu needs host.memory",
	 {HOST, "host: {threads: 2}"}},
	{{ZERO, "zero: {offload_optimizer: ^disk}"}, "one of none, cpu, nvme", {0}},
	{{ZERO, "zero: {offload_param: ^{cpu: 0.7, nvme: 0.4}}"}, "add up to 1.1", {0}},
	{{ZERO, "zero: {offload_param: {nvme: ^0.5}}"}, "needs nvme.paths", {NVME, ""}},
	{{ZERO, "zero: {offload_param: {cpu: ^0.5}}"}, "cpu needs host.memory", {HOST, ""}},
	{{ZERO, "zero: {offload_optimizer: ^0.5}"}, "one of none, cpu, nvme", {0}},
	{{ZERO, "zero: {offload_optimizer: ^[cpu, nvme]}"}, "a word or a mapping of shares", {0}},
	{{ZERO, "zero: {offload_optimizer: {cpu: 0.5, ^nvem: 0.3}}"}, "did you mean 'nvme'", {0}},
	{{ZERO, "zero: {offload_optimizer: ^{cpu: 0.5, none: 0.4}}"}, "expected 1", {0}},
	{{ZERO, "zero: {offload_optimizer: {cpu: 0.5, ^cpu: 0.3}}"}, "given twice", {0}},
	{{ZERO, "zero: {offload_optimizer: cpu, ^offload_optimizer: {cpu: 1}}"},
	 "given twice",
	 {0}},
	{{ZERO, "zero: {offload_optimizer: ^{cpu: 0.7, nvme: 0.4}}"}, "add up to 1.1", {0}},
	{{ZERO, "zero: {offload_optimizer: {cpu: ^-0.5}}"}, "offload_optimizer.cpu: -0.5", {0}},
	{{ZERO, "zero: {offload_optimizer: {cpu: ^1.5}}"}, "out of range (0..1)", {0}},
	{{ZERO, "zero: {offload_optimizer: {nvme: ^.nan}}"}, "'.nan' is not a number", {0}},
	{{ZERO, "zero: {offload_optimizer: {nvme: ^50%}}"}, "'50%' is not a number", {0}},
	{{ZERO, "zero: {offload_optimizer: ^{cpu: 0, nvme: 0}}"}, "write 'none'", {0}},
	{{ZERO, "zero: {offload_optimizer: ^{}}"}, "write 'none'", {0}},
	{{ZERO, "zero: {offload_optimizer: {cpu: 0.5, nvme: ^0.1}}"},
	 "needs nvme.paths",
	 {NVME, ""}},
	{{ZERO, "zero: {offload_optimizer: {cpu: ^0.5}}"}, "cpu needs host.memory", {HOST, ""}},
	{{ZERO, "zero: {offload_optimizer: {nvme: ^0.5}}"}, "nvme needs host.memory", {HOST, ""}},
	{{ZERO, "zero: {prefetch: ^0}"}, "zero.prefetch", {0}},
	{{ZERO, "zero: {prefetch: ^65}"}, "zero.prefetch", {0}},
	{{ZERO, "zero: {^offload_params: cpu}"}, "offload_param", {0}},
	{{NVME, "nvme: {paths: ^[]}"}, "nvme.paths", {0}},
	{{NVME, "nvme: ^{engine: libaio}"}, "paths", {0}},
	{{NVME, "nvme: {paths: [/a], engine: ^uring}"}, "io_uring", {0}},
	{{NVME, "nvme: {paths: [/a], extent: ^4MB}"},
	 "4000000 bytes) is not a multiple of 4096",
	 {0}},
	{{NVME, "nvme: {paths: [/a], extent: ^32KiB}"}, "nvme.extent", {0}},
	{{NVME, "nvme: {paths: [/a], extent: ^128MiB}"}, "nvme.extent", {0}},
	{{NVME, "nvme: {paths: [/a], extent: ^big}"}, "big", {0}},
	{{NVME, "nvme: {paths: [/a], queue_depth: ^0}"}, "nvme.queue_depth", {0}},
	{{NVME, "nvme: {paths: [/a], queue_depth: ^automatic}"}, "auto", {0}},
	{{NVME, "nvme: {paths: [/a], tuned: ^''}"}, "nvme.tuned", {0}},
	{{NVME, "nvme: {paths: [/a], queue_depth: ^4097}"}, "nvme.queue_depth", {0}},
	{{NVME, "nvme: {paths: ^[/a, /b, /a]}"}, "/a is there twice", {0}},
	{{NVME, "nvme: {paths: ^[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]}"},
	 "17 paths",
	 {0}},
	{{NVME, "nvme: {paths: ^/"
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		"aaaaaaaaaaaaaaaa"
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		"aaaaaaaaaaaaaaaa"
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		"aaaaaa}"},
	 "less than 256",
	 {0}},
	{{HOST, "host: {memory: ^512}"}, "host.memory", {0}},
	{{HOST, "host: {memory: ^lots}"}, "lots", {0}},
	{{HOST, "host: {memory: 1GiB, threads: ^0}"}, "host.threads", {0}},
	{{DEVICE, "device: {type: ^tpu, count: 2, memory: 64MiB}"}, "cuda", {0}},
	{{DEVICE, "device: {count: ^0, memory: 64MiB}"}, "device.count", {0}},
	{{DEVICE, "device: {count: ^1025, memory: 64MiB}"}, "device.count", {0}},
	{{DEVICE, "device: ^{count: 2}"}, "memory", {0}},
	{{DEVICE, "device: {memory: ^64}"}, "device.memory", {0}},
	{{CHECKPOINT, "checkpoint: {every: ^5}"}, "does not apply without checkpoint.dir", {0}},
	{{CHECKPOINT, "checkpoint: {keep: ^5}"}, "does not apply without checkpoint.dir", {0}},
	{{CHECKPOINT, "checkpoint: {dir: a, keep: ^0}"}, "checkpoint.keep", {0}},
	{{CHECKPOINT, "checkpoint: {dir: ^\"\"}"}, "checkpoint.dir", {0}},
	{{EVALUATE, "evaluate: {every: ^5}"},
	 "does not apply without data.validation",
	 {DATA, "data: {train: a.bin}"}},
	{{EVALUATE, "evaluate: {batches: ^5}"},
	 "does not apply without data.validation",
	 {DATA, "data: {train: a.bin}"}},
	{{EVALUATE, "evaluate: {batches: ^0}"}, "evaluate.batches", {0}},
	{{LOG, "log: {every: ^0}"}, "log.every", {0}},
	{{LOG, "log: {file: ^[a, b]}"}, "log.file", {0}},
	{{SEED, "seed: ^-1"}, "seed", {0}},
	{{SEED, "seed: ^18446744073709551616"}, "seed", {0}},
	{{SEED, "^sede: 1"}, "seed", {0}},
	{{SEED, "^model: {}"}, "model", {0}},
	{{SEED, "seed: ^&anchor 1"}, "anchor", {0}},
};

/* The base with edits; returns the line and column of the mark, which is taken out. */
static void text_make(char *text, const struct edit *edits, size_t count, unsigned *ret_line,
		      unsigned *ret_column)
{
	size_t len = 0;

	*ret_line = *ret_column = 0;
	for (size_t i = 0; i < LINES; i++) {
		const char *line = base[i], *mark;

		for (size_t e = 0; e < count; e++)
			if (edits[e].text && edits[e].line == (int)i)
				line = edits[e].text;
		mark = strchr(line, '^');
		if (mark) {
			*ret_line = (unsigned)i + 1;
			*ret_column = (unsigned)(mark - line) + 1;
			len += (size_t)snprintf(text + len, TEXT_BYTES - len, "%.*s%s\n",
						(int)(mark - line), line, mark + 1);
		} else {
			len += (size_t)snprintf(text + len, TEXT_BYTES - len, "%s\n", line);
		}
		ck_assert_uint_lt(len, TEXT_BYTES);
	}
}

static bool shares_are(const double *shares, double none, double cpu, double nvme)
{
	return shares[PLACE_NONE] == none && shares[PLACE_CPU] == cpu && shares[PLACE_NVME] == nvme;
}

static struct conf_doc *parse(const char *text, struct train_config *ret)
{
	struct conf_doc *doc = NULL;
	struct err err = {0};
	int rc = train_config_parse("t.yaml", text, strlen(text), ret, &doc, &err);

	ck_assert_msg(rc == 0, "%s\n%s", err.text, text);
	return doc;
}

START_TEST(wrong_is_named)
{
	const struct wrong *w = &wrongs[_i];
	const struct edit edits[] = {w->edit, w->also};
	static const struct train_config untouched;
	struct train_config config = {0};
	struct conf_doc *doc = NULL;
	struct err err = {0};
	char text[TEXT_BYTES], at[64];
	unsigned line, column;
	int rc;

	text_make(text, edits, 2, &line, &column);
	rc = train_config_parse("t.yaml", text, strlen(text), &config, &doc, &err);
	snprintf(at, sizeof(at), "t.yaml:%u:%u: ", line, column);
	ck_assert_msg(rc == ERR_CONFIG, "case %d, %s: %d, expected an error", _i, w->edit.text, rc);
	ck_assert_msg(!strncmp(err.text, at, strlen(at)), "case %d: %s\nexpected at %s", _i,
		      err.text, at);
	ck_assert_msg(strstr(err.text + strlen(at), w->says), "case %d: %s\nexpected \"%s\"", _i,
		      err.text, w->says);
	ck_assert_ptr_null(doc);
	ck_assert_mem_eq(&config, &untouched, sizeof(config));
}
END_TEST

/* Documents as a whole. */
START_TEST(wrong_document)
{
	static const char *const texts[] = {
		"",
		"# nothing\n",
		"12\n",
		"[model]\n",
		"model: {\n",
		"model:\n\tlayers: 2\n",
		"seed: 1\n---\nseed: 2\n",
		"seed: \x01\n",
		"seed: \xff\n",
	};
	struct train_config config;
	struct conf_doc *doc = NULL;
	struct err err = {0};

	ck_assert_int_eq(
		train_config_parse("t.yaml", texts[_i], strlen(texts[_i]), &config, &doc, &err),
		ERR_CONFIG);
	ck_assert_msg(!strncmp(err.text, "t.yaml:", 7), "%s", err.text);
	ck_assert_ptr_null(doc);
}
END_TEST

START_TEST(example_means_what_it_says)
{
	struct train_config c;
	char text[TEXT_BYTES];
	unsigned line, column;
	struct conf_doc *doc;

	text_make(text, NULL, 0, &line, &column);
	doc = parse(text, &c);
	ck_assert_int_eq(c.model.arch, ARCH_GPT2);
	ck_assert_uint_eq(c.model.layers, 12);
	ck_assert_uint_eq(c.model.hidden, 768);
	ck_assert_uint_eq(c.model.heads, 12);
	ck_assert_uint_eq(c.model.vocab, 256);
	ck_assert_uint_eq(c.model.context, 1024);
	ck_assert_uint_eq(c.data.train.count, 1);
	ck_assert_str_eq(c.data.train.at[0], "a.bin");
	ck_assert_uint_eq(c.data.validation.count, 1);
	ck_assert_str_eq(c.data.validation.at[0], "b.bin");
	ck_assert_uint_eq(c.data.sequence, 256);
	ck_assert_uint_eq(c.batch.global, 16);
	ck_assert_uint_eq(c.batch.micro, 4);
	ck_assert_int_eq(c.optimizer.type, OPTIMIZER_ADAMW);
	ck_assert(c.optimizer.lr == 3e-4 && c.optimizer.eps == 1e-8);
	ck_assert(c.optimizer.weight_decay == 0.1 && c.optimizer.clip == 1.0);
	ck_assert_uint_eq(c.optimizer.betas.count, 2);
	ck_assert(c.optimizer.betas.at[0] == 0.9 && c.optimizer.betas.at[1] == 0.95);
	ck_assert_int_eq(c.schedule.type, SCHEDULE_COSINE);
	ck_assert_uint_eq(c.schedule.warmup, 100);
	ck_assert_uint_eq(c.schedule.steps, 1000);
	ck_assert(c.schedule.min_lr == 3e-5);
	ck_assert_int_eq(c.schedule.order, ORDER_LAYER);
	ck_assert_int_eq(c.precision, PRECISION_BF16);
	ck_assert_uint_eq(c.zero.stage, 3);
	ck_assert(c.zero.offload_param[PLACE_NVME] == 1);
	ck_assert(shares_are(c.zero.offload_optimizer, 0, 0, 1));
	ck_assert_int_eq(c.zero.offload_activations, PLACE_NONE);
	ck_assert_uint_eq(c.zero.prefetch, 2);
	ck_assert_uint_eq(c.nvme.paths.count, 1);
	ck_assert_str_eq(c.nvme.paths.at[0], "/local_nvme");
	ck_assert_int_eq(c.nvme.engine, NVME_AUTO);
	ck_assert_uint_eq(c.nvme.extent, 4 << 20);
	ck_assert_uint_eq(c.nvme.queue_depth, 32);
	ck_assert(!c.nvme.extent_auto && !c.nvme.queue_depth_auto);
	ck_assert_uint_eq(c.host.memory, 512 << 20);
	ck_assert_uint_eq(c.host.threads, 2);
	ck_assert_int_eq(c.device.type, DEVICE_CPU);
	ck_assert_uint_eq(c.device.count, 2);
	ck_assert_uint_eq(c.device.memory, 64 << 20);
	ck_assert_str_eq(c.checkpoint.dir, "ckpt");
	ck_assert_uint_eq(c.checkpoint.every, 500);
	ck_assert_uint_eq(c.checkpoint.keep, 2);
	ck_assert_uint_eq(c.evaluate.every, 100);
	ck_assert_uint_eq(c.evaluate.batches, 10);
	ck_assert_uint_eq(c.log.every, 10);
	ck_assert_str_eq(c.log.file, "metrics.jsonl");
	ck_assert_uint_eq(c.seed, 1);
	conf_free(doc);
}
END_TEST

static const char least[] = "model: {layers: 2, hidden: 64, heads: 2, vocab: 256, context: 32}\n"
			    "data: {train: text.bin}\n"
			    "batch: {global: 8}\n"
			    "optimizer: {lr: 1e-3}\n"
			    "schedule: {steps: 100}\n"
			    "device: {memory: 64MiB}\n";

START_TEST(defaults_are_documented)
{
	struct train_config c;
	struct conf_doc *doc = parse(least, &c);

	ck_assert_int_eq(c.model.arch, ARCH_GPT2);
	ck_assert_uint_eq(c.data.sequence, 32);
	ck_assert_uint_eq(c.data.validation.count, 0);
	ck_assert_uint_eq(c.batch.micro, 1);
	ck_assert(c.optimizer.betas.count == 2 && c.optimizer.betas.at[0] == 0.9 &&
		  c.optimizer.betas.at[1] == 0.95);
	ck_assert(c.optimizer.type == OPTIMIZER_ADAMW && c.optimizer.moments == MOMENTS_F32);
	ck_assert(c.optimizer.eps == 1e-8 && c.optimizer.weight_decay == 0.1 &&
		  c.optimizer.clip == 1.0);
	ck_assert_int_eq(c.schedule.type, SCHEDULE_COSINE);
	ck_assert(c.schedule.warmup == 0 && c.schedule.min_lr == 0);
	ck_assert_int_eq(c.schedule.order, ORDER_MICRO_BATCH);
	ck_assert_int_eq(c.precision, PRECISION_BF16);
	ck_assert(c.zero.stage == 3 && c.zero.prefetch == 2);
	ck_assert(c.zero.offload_param[PLACE_NONE] == 1);
	ck_assert(c.zero.offload_activations == PLACE_NONE);
	ck_assert(shares_are(c.zero.offload_optimizer, 1, 0, 0));
	ck_assert(c.nvme.paths.count == 0 && c.nvme.engine == NVME_AUTO);
	ck_assert(c.nvme.extent == 4 << 20 && c.nvme.queue_depth == 32);
	ck_assert(c.nvme.extent_auto && c.nvme.queue_depth_auto && !c.nvme.tuned);
	ck_assert(c.host.memory == 0 && c.host.threads == 1);
	ck_assert(c.device.type == DEVICE_CPU && c.device.count == 1);
	ck_assert_ptr_null(c.checkpoint.dir);
	ck_assert(c.checkpoint.every == 0 && c.checkpoint.keep == 2);
	ck_assert(c.evaluate.every == 0 && c.evaluate.batches == 10);
	ck_assert(c.log.every == 10 && !c.log.file);
	ck_assert_uint_eq(c.seed, 1);
	conf_free(doc);
}
END_TEST

/* What the build has, and only that; this program, which opens no device, links no CUDA. */
START_TEST(a_cuda_device_is_as_built)
{
	const struct edit edits[] = {{DEVICE, "device: {type: ^cuda, count: 2, memory: 64MiB}"}};
	const struct device_config device = {.type = DEVICE_CUDA, .memory_bytes = 1 << 20};
	struct device *opened = NULL;
	struct conf_doc *doc = NULL;
	struct train_config c = {0};
	struct err err = {0};
	char text[TEXT_BYTES];
	unsigned line, column;
	int rc;

	text_make(text, edits, 1, &line, &column);
	rc = train_config_parse("t.yaml", text, strlen(text), &c, &doc, &err);
	if (device_built(DEVICE_CUDA)) {
		ck_assert_msg(rc == 0, "%s", err.text);
		ck_assert_int_eq(c.device.type, DEVICE_CUDA);
	} else {
		ck_assert_int_eq(rc, ERR_CONFIG);
		ck_assert_msg(strstr(err.text, "this build has no cuda device"), "%s", err.text);
		ck_assert_uint_eq(strtoul(strchr(err.text, ':') + 1, NULL, 10), line);
	}
	conf_free(doc);
	ck_assert_int_eq(device_open(&device, &opened, &err), ERR_CONFIG);
	ck_assert_str_eq(err.text, "this build has no cuda device");
}
END_TEST

/* The cpu device has any; a build without cuda has its say first. */
START_TEST(a_cuda_device_has_heads_of_256_at_most)
{
	static const struct {
		const char *model;
		bool good;
	} cases[] = {
		{"model: {layers: 2, hidden: 1024, heads: ^4, vocab: 256, context: 1024}", true},
		{"model: {layers: 2, hidden: 1024, heads: ^2, vocab: 256, context: 1024}", false},
	};

	for (size_t i = 0; i < 4; i++) {
		bool cuda = i / 2, good = !cuda || cases[i % 2].good;
		const struct edit edits[] = {
			{MODEL, cases[i % 2].model},
			{DEVICE, cuda ? "device: {type: cuda, count: 2, memory: 64MiB}"
				      : "device: {type: cpu, count: 2, memory: 64MiB}"},
		};
		struct conf_doc *doc = NULL;
		struct train_config c = {0};
		struct err err = {0};
		char text[TEXT_BYTES];
		unsigned line, column;
		int rc;

		if (cuda && !device_built(DEVICE_CUDA))
			continue;
		text_make(text, edits, 2, &line, &column);
		rc = train_config_parse("t.yaml", text, strlen(text), &c, &doc, &err);
		ck_assert_msg(rc == (good ? 0 : ERR_CONFIG), "case %zu: %s", i, err.text);
		if (!good)
			ck_assert_msg(strstr(err.text, "2 heads of 512"), "%s", err.text);
		conf_free(doc);
	}
}
END_TEST

/* One representation, whatever was written: a word is all of it, the device has the rest. */
START_TEST(shares_of_units)
{
	static const struct {
		const char *text;
		double none, cpu, nvme;
	} cases[] = {
		{"none", 1, 0, 0},
		{"cpu", 0, 1, 0},
		{"{cpu: 1}", 0, 1, 0},
		{"{nvme: 1.0, cpu: 0}", 0, 0, 1},
		{"{cpu: 0.5}", 0.5, 0.5, 0},
		{"{nvme: 0.25, cpu: 0.5}", 0.25, 0.5, 0.25},
		{"{none: 0.25, nvme: 0.25, cpu: 0.5}", 0.25, 0.5, 0.25},
		{"{cpu: 0.7, nvme: 0.3}", 0, 0.7, 0.3},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char line[128], text[TEXT_BYTES];
		struct train_config c;
		unsigned at_line, at_column;
		struct conf_doc *doc;

		snprintf(line, sizeof(line), "zero: {offload_optimizer: %s}", cases[i].text);
		text_make(text, &(struct edit){ZERO, line}, 1, &at_line, &at_column);
		doc = parse(text, &c);
		ck_assert_msg(shares_are(c.zero.offload_optimizer, cases[i].none, cases[i].cpu,
					 cases[i].nvme),
			      "%s", line);
		conf_free(doc);
		snprintf(line, sizeof(line), "zero: {offload_param: %s}", cases[i].text);
		text_make(text, &(struct edit){ZERO, line}, 1, &at_line, &at_column);
		doc = parse(text, &c);
		ck_assert_msg(shares_are(c.zero.offload_param, cases[i].none, cases[i].cpu,
					 cases[i].nvme),
			      "%s", line);
		conf_free(doc);
	}
}
END_TEST

/* Sections that say what a job may use are no error where nothing needs them. */
START_TEST(lending_is_no_order)
{
	const struct edit edits[] = {{ZERO, "zero: {stage: 0, prefetch: 3}"},
				     {SEED, "seed: 18446744073709551615"}};
	struct train_config c;
	char text[TEXT_BYTES];
	unsigned line, column;
	struct conf_doc *doc;

	text_make(text, edits, 2, &line, &column);
	doc = parse(text, &c);
	ck_assert_uint_eq(c.seed, UINT64_MAX);
	ck_assert_uint_eq(c.zero.prefetch, 3);
	conf_free(doc);
}
END_TEST

/* The host's memory may be left to the launcher, which settles it. */
START_TEST(memory_auto)
{
	const struct edit edit = {HOST, "host: {memory: auto}"};
	struct train_config c;
	char text[TEXT_BYTES];
	unsigned line, column;
	struct conf_doc *doc;

	text_make(text, &edit, 1, &line, &column);
	doc = parse(text, &c);
	ck_assert(c.host.automatic && c.host.memory == CONF_AUTO);
	train_config_settle(&c, &(struct train_settled){.host_memory = 5 << 20});
	ck_assert(c.host.automatic && c.host.memory == 5 << 20);
	conf_free(doc);
	doc = parse(least, &c);
	ck_assert(!c.host.automatic && c.host.memory == 0);
	train_config_settle(&c, &(struct train_settled){0});
	ck_assert(c.host.memory == 0);
	conf_free(doc);
}
END_TEST

START_TEST(accumulation_follows)
{
	struct train_config c;
	struct conf_doc *doc = parse(least, &c);
	struct err err = {0};
	uint64_t n = 7;

	c.batch.global = 48;
	c.batch.micro = 4;
	ck_assert_int_eq(train_config_accumulation(&c, doc, 1, &n, &err), 0);
	ck_assert_uint_eq(n, 12);
	ck_assert_int_eq(train_config_accumulation(&c, doc, 4, &n, &err), 0);
	ck_assert_uint_eq(n, 3);
	ck_assert_int_eq(train_config_accumulation(&c, doc, 5, &n, &err), ERR_CONFIG);
	ck_assert_uint_eq(n, 3);
	ck_assert_msg(!strncmp(err.text, "t.yaml:3:17: batch.global: 48 is not a multiple of 20",
			       strlen("t.yaml:3:17: batch.global: 48 is not a multiple of 20")),
		      "%s", err.text);
	conf_free(doc);
}
END_TEST

static void lr_is(const struct train_config *c, uint64_t step, double expected)
{
	double lr = train_config_lr(c, step);

	ck_assert_msg(fabs(lr - expected) <= 1e-15, "step %ju: %.17g, expected %.17g",
		      (uintmax_t)step, lr, expected);
}

START_TEST(rate_by_hand)
{
	struct train_config c = {
		.optimizer.lr = 1e-2,
		.schedule = {.type = SCHEDULE_LINEAR, .warmup = 4, .steps = 12, .min_lr = 2e-3}};

	lr_is(&c, 1, 2.5e-3);
	lr_is(&c, 3, 7.5e-3);
	lr_is(&c, 4, 1e-2);
	lr_is(&c, 6, 8e-3);
	lr_is(&c, 12, 2e-3);
	lr_is(&c, 13, 2e-3);
	c.schedule.type = SCHEDULE_COSINE;
	lr_is(&c, 2, 5e-3);
	lr_is(&c, 4, 1e-2);
	lr_is(&c, 8, 6e-3);
	lr_is(&c, 6, 2e-3 + 8e-3 * 0.5 * (1 + sqrt(0.5)));
	lr_is(&c, 12, 2e-3);
	c.schedule.warmup = 0;
	lr_is(&c, 6, 6e-3);
	c.schedule.warmup = c.schedule.steps;
	lr_is(&c, 12, 1e-2);
	c = (struct train_config){.optimizer.lr = 1e-2,
				  .schedule = {.type = SCHEDULE_CONSTANT, .steps = 12}};
	lr_is(&c, 1, 1e-2);
	lr_is(&c, 12, 1e-2);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("train_config");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_loop_test(tc, wrong_is_named, 0, sizeof(wrongs) / sizeof(wrongs[0]));
	tcase_add_loop_test(tc, wrong_document, 0, 9);
	tcase_add_test(tc, example_means_what_it_says);
	tcase_add_test(tc, defaults_are_documented);
	tcase_add_test(tc, a_cuda_device_is_as_built);
	tcase_add_test(tc, a_cuda_device_has_heads_of_256_at_most);
	tcase_add_test(tc, shares_of_units);
	tcase_add_test(tc, lending_is_no_order);
	tcase_add_test(tc, memory_auto);
	tcase_add_test(tc, accumulation_follows);
	tcase_add_test(tc, rate_by_hand);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
