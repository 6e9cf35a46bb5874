/*
 * Usage: reference_logits TRAIN.yaml WEIGHTS.safetensors OUT. The worker's own arithmetic on
 * exported weights: for each validation window the logits behind its last token, as fp32, window
 * after window. What tests/reference/check_export.py compares with the logits of others.
 *
 * One rank, so the configuration must offload nothing. Tensors are found by their names: a file in
 * which one is missing or has another size is refused.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "common/shm.h"
#include "worker/data.h"
#include "worker/gpt2.h"

struct bytes {
	char *at;
	size_t len;
};

struct bed {
	struct train_config config;
	struct conf_doc *doc;
	struct arch *arch;
	struct plan *plan;
	struct device *device;
	struct comm *comm;
	struct engine *engine;
	struct gpt2 gpt2;
	struct data *validation;
	int comm_fd;
};

static struct err err;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "reference_logits: %s\n", what);
	exit(1);
}

static void ok(int rc)
{
	if (rc < 0)
		die(err.text);
}

/* The whole file, with a NUL behind it. */
static struct bytes slurp(const char *path)
{
	FILE *f = fopen(path, "rb");
	struct bytes b = {0};
	long len;

	if (!f || fseek(f, 0, SEEK_END) < 0 || (len = ftell(f)) < 0 || fseek(f, 0, SEEK_SET) < 0)
		die(path);
	b.len = (size_t)len;
	b.at = malloc(b.len + 1);
	if (!b.at || fread(b.at, 1, b.len, f) != b.len || fclose(f) != 0)
		die(path);
	b.at[b.len] = '\0';
	return b;
}

/* Elements of one tensor of the file, as floats. */
static void tensor_read(const struct bytes *file, const struct arch_tensor *t, float *ret)
{
	uint64_t header_len, begin, end, data;
	char *header, *entry, *offsets, name[128], type[8];

	if (file->len < sizeof(header_len))
		die("no safetensors file");
	memcpy(&header_len, file->at, sizeof(header_len));
	if (header_len > file->len - sizeof(header_len))
		die("the header is longer than the file");
	data = sizeof(header_len) + header_len;
	header = strndup(file->at + sizeof(header_len), header_len);
	snprintf(name, sizeof(name), "\"transformer.%s\":{", t->name);
	entry = header ? strstr(header, name) : NULL;
	if (!entry || sscanf(entry + strlen(name), "\"dtype\":\"%7[A-Z0-9]\"", type) != 1)
		die(t->name);
	offsets = strstr(entry, "\"data_offsets\":[");
	if (!offsets || sscanf(offsets, "\"data_offsets\":[%ju,%ju]", &begin, &end) != 2)
		die(t->name);
	free(header);
	if (end < begin || end > file->len - data ||
	    end - begin != t->count * (strcmp(type, "BF16") ? 4 : 2))
		die(t->name);
	for (uint64_t i = 0; i < t->count; i++)
		if (!strcmp(type, "BF16")) {
			uint16_t h;

			memcpy(&h, file->at + data + begin + 2 * i, sizeof(h));
			ret[i] = bf16_to_float(h);
		} else {
			memcpy(&ret[i], file->at + data + begin + 4 * i, sizeof(*ret));
		}
}

static void weights_import(struct bed *b, const struct bytes *file)
{
	for (size_t u = 0; u < b->arch->unit_count; u++) {
		const struct arch_unit *unit = &b->arch->units[u];
		float *all = calloc(b->plan->units[u].padded, sizeof(*all));

		if (!all)
			die("memory");
		for (size_t t = 0; t < unit->tensor_count; t++)
			tensor_read(file, &unit->tensors[t], all + unit->tensors[t].offset);
		for (size_t i = 0; i < engine_import_pieces(b->engine, u); i++) {
			struct engine_piece p;

			ok(engine_import_begin(b->engine, u, i, &p, &err));
			memcpy(p.master, all + p.first, p.count * sizeof(*all));
			memset(p.m, 0, p.count * sizeof(*p.m));
			memset(p.v, 0, p.count * sizeof(*p.v));
			ok(engine_import_end(b->engine, &p, &err));
		}
		free(all);
	}
	ok(engine_import_done(b->engine, &err));
}

static void bed_open(struct bed *b, const char *config)
{
	struct bytes text = slurp(config);
	struct device_config device = {.threads = 1};
	struct comm_config comm = {.world = 1};
	struct engine_config engine = {.job = "reference_logits"};

	ok(train_config_parse(config, text.at, text.len, &b->config, &b->doc, &err));
	ok(arch_make(&b->config, &b->arch, &err));
	ok(plan_make(&b->config, b->doc, b->arch, 1, &b->plan, &err));
	ok(data_open(b->config.data.validation.at, b->config.data.validation.count,
		     b->config.data.sequence, b->config.model.vocab, b->config.seed, true,
		     &b->validation, &err));
	device.memory_bytes = b->config.device.memory;
	ok(device_open(&device, &b->device, &err));
	b->comm_fd = shm_create("reference_logits", comm_shm_bytes(1), &err);
	ok(b->comm_fd);
	comm.shm_fd = b->comm_fd;
	ok(comm_open(&comm, &b->comm, &err));
	engine.config = &b->config;
	engine.arch = b->arch;
	engine.plan = b->plan;
	engine.device = b->device;
	engine.comm = b->comm;
	ok(engine_open(&engine, &b->engine, &err));
	gpt2_init(&b->gpt2, &b->config, b->arch, b->plan->device.kept_blocks,
		  engine_compute(b->engine));
	free(text.at);
}

static void bed_close(struct bed *b)
{
	engine_free(b->engine);
	comm_free(b->comm);
	device_free(b->device);
	close(b->comm_fd);
	data_close(b->validation);
	plan_free(b->plan);
	arch_free(b->arch);
	conf_free(b->doc);
}

static void forward(struct bed *b, const struct gpt2_pass *pass)
{
	struct device_stream *s = engine_compute(b->engine);

	ok(engine_pass_begin(b->engine, ENGINE_EVAL, &err));
	for (size_t i = 0; i < b->arch->eval_count; i++) {
		struct engine_io io;

		ok(engine_phase_begin(b->engine, &io, &err));
		gpt2_phase(&b->gpt2, pass, &b->arch->eval[i], &io);
		ok(engine_phase_end(b->engine, &err));
	}
	ok(engine_pass_end(b->engine, &err));
	ok(device_stream_sync(s, &err));
}

int main(int argc, char **argv)
{
	struct bed b = {0};
	struct bytes weights;
	uint32_t *ids, *targets;
	float *logits;
	FILE *out;

	if (argc != 4)
		die("usage: reference_logits TRAIN.yaml WEIGHTS.safetensors OUT");
	bed_open(&b, argv[1]);
	weights = slurp(argv[2]);
	weights_import(&b, &weights);
	ids = calloc(b.config.data.sequence, sizeof(*ids));
	targets = calloc(b.config.data.sequence, sizeof(*targets));
	logits = calloc(b.config.model.vocab, sizeof(*logits));
	out = fopen(argv[3], "wb");
	if (!ids || !targets || !logits || !out)
		die(argv[3]);
	for (uint64_t i = 0; i < data_validation_windows(b.validation); i++) {
		struct gpt2_pass pass = {
			.batch = 1, .seq = b.config.data.sequence, .ids = ids, .logits = logits};

		ok(data_validation_sequence(b.validation, i, ids, targets, &err));
		forward(&b, &pass);
		if (fwrite(logits, sizeof(*logits), b.config.model.vocab, out) !=
		    b.config.model.vocab)
			die(argv[3]);
	}
	if (fclose(out) != 0)
		die(argv[3]);
	bed_close(&b);
	free(weights.at);
	free(ids);
	free(targets);
	free(logits);
	return 0;
}
