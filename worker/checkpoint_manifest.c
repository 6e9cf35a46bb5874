/* The manifest of a checkpoint, to JSON and back. Called by checkpoint.c and checkpoint_read.c. */
#include "worker/checkpoint_manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "common/crc32c.h"
#include "common/file.h"
#include "common/json.h"

#define FORMAT     "dsrun checkpoint"
#define TAIL_BYTES (sizeof(",\"crc32c\":\"00000000\"}\n") - 1)

#define AT(field) .offset = offsetof(struct manifest, field)

static const char *const precision_names[] = {[PRECISION_FP32] = "fp32", [PRECISION_BF16] = "bf16"};

void manifest_state_name(char ret[STATE_NAME_BYTES], unsigned rank)
{
	snprintf(ret, STATE_NAME_BYTES, "rank-%04u.state", rank);
}

static void model_format(struct json *j, const struct train_config *c, const struct arch *arch)
{
	json_object_begin(j, "model");
	json_string(j, "arch", arch->name);
	json_u64(j, "layers", c->model.layers);
	json_u64(j, "hidden", c->model.hidden);
	json_u64(j, "heads", c->model.heads);
	json_u64(j, "vocab", c->model.vocab);
	json_u64(j, "context", c->model.context);
	json_object_end(j);
}

char *manifest_format(const struct checkpoint_job *job, const struct checkpoint_state *state,
		      const struct manifest_file *files)
{
	char *text = NULL;
	struct json j;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_string(&j, "format", FORMAT);
	json_u64(&j, "version", CHECKPOINT_VERSION);
	json_u64(&j, "step", state->step);
	json_u64(&j, "sequences", state->sequences);
	json_u64(&j, "world", job->world);
	json_u64(&j, "params", job->arch->params);
	model_format(&j, job->config, job->arch);
	json_string(&j, "precision", precision_names[job->config->precision]);
	json_string(&j, "optimizer", optimizer_kind_names[job->config->optimizer.type]);
	json_string(&j, "moments", optimizer_moments_names[job->config->optimizer.moments]);
	json_u64(&j, "sequence", job->config->data.sequence);
	json_u64(&j, "global", job->config->batch.global);
	json_u64(&j, "seed", job->config->seed);
	json_array_begin(&j, "files");
	for (unsigned r = 0; r < job->world; r++) {
		json_object_begin(&j, NULL);
		json_string(&j, "name", files[r].name);
		json_u64(&j, "bytes", files[r].bytes);
		json_u64(&j, "crc32c", files[r].crc);
		json_object_end(&j);
	}
	json_array_end(&j);
	/* The object stays open: its checksum is the last member. */
	if (json_text(&j) && asprintf(&text, "%s,\"crc32c\":\"%08" PRIx32 "\"}\n", json_text(&j),
				      crc32c(0, json_text(&j), strlen(json_text(&j)))) < 0)
		text = NULL;
	json_done(&j);
	return text;
}

static int check_crc(const char *path, const char *text, size_t len, struct err *err)
{
	char expected[TAIL_BYTES + 1];

	if (len < TAIL_BYTES)
		return err_set(err, ERR_DATA, "%s: truncated", path);
	snprintf(expected, sizeof(expected), ",\"crc32c\":\"%08" PRIx32 "\"}\n",
		 crc32c(0, text, len - TAIL_BYTES));
	if (memcmp(text + len - TAIL_BYTES, expected, TAIL_BYTES))
		return err_set(err, ERR_DATA, "%s: damaged: its checksum does not match", path);
	return 0;
}

static int parse(const char *path, const char *text, size_t len, struct manifest *ret,
		 struct conf_doc **ret_doc, struct err *err)
{
	struct outer {
		struct manifest m;
		const char *format, *crc;
	} outer = {0};
	static const struct conf_key file_keys[] = {
		{"name", CONF_STRING, .offset = offsetof(struct manifest_file, name),
		 .required = true},
		{"bytes", CONF_U64, .offset = offsetof(struct manifest_file, bytes),
		 .required = true},
		{"crc32c", CONF_U64, .offset = offsetof(struct manifest_file, crc),
		 .required = true},
		{.type = CONF_END},
	};
	static const struct conf_key model_keys[] = {
		{"arch", CONF_STRING, AT(arch), .required = true},
		{"layers", CONF_U64, AT(layers), .required = true},
		{"hidden", CONF_U64, AT(hidden), .required = true},
		{"heads", CONF_U64, AT(heads), .required = true},
		{"vocab", CONF_U64, AT(vocab), .required = true},
		{"context", CONF_U64, AT(context), .required = true},
		{.type = CONF_END},
	};
	static const struct conf_key keys[] = {
		{"format", CONF_STRING, .offset = offsetof(struct outer, format), .required = true},
		{"version", CONF_U64, AT(version), .required = true},
		{"step", CONF_U64, AT(step), .required = true},
		{"sequences", CONF_U64, AT(sequences), .required = true},
		{"world", CONF_U64, AT(world), .required = true, .min = 1, .max = COMM_WORLD_MAX},
		{"params", CONF_U64, AT(params), .required = true},
		{"model", CONF_SECTION, .required = true, .keys = model_keys},
		{"precision", CONF_STRING, AT(precision), .required = true},
		{"optimizer", CONF_STRING, AT(optimizer)},
		{"moments", CONF_STRING, AT(moments)},
		{"sequence", CONF_U64, AT(sequence), .required = true},
		{"global", CONF_U64, AT(global), .required = true},
		{"seed", CONF_U64, AT(seed), .required = true},
		{"files", CONF_SECTIONS, AT(files), .required = true, .keys = file_keys,
		 .item_bytes = sizeof(struct manifest_file)},
		{"crc32c", CONF_STRING, .offset = offsetof(struct outer, crc), .required = true},
		{.type = CONF_END},
	};
	int rc = conf_parse(path, text, len, keys, &outer, ret_doc, err);

	/* Whatever is wrong in there, it is no configuration of the user's. */
	if (rc == ERR_CONFIG)
		return err->code = ERR_DATA;
	if (rc < 0)
		return rc;
	*ret = outer.m;
	return 0;
}

/* Version 1 knew one optimizer. */
static int optimizer_set(struct manifest *m, const char *path, struct err *err)
{
	if (m->version == 1 && !m->optimizer && !m->moments) {
		m->optimizer = optimizer_kind_names[OPTIMIZER_ADAMW];
		m->moments = optimizer_moments_names[MOMENTS_F32];
	}
	if (!m->optimizer || !m->moments)
		return err_set(err, ERR_DATA, "%s: says nothing of the optimizer or its moments",
			       path);
	return 0;
}

static int check(const struct manifest *m, const char *path, uint64_t step, struct err *err)
{
	const struct manifest_file *files = m->files.at;

	if (m->version < 1 || m->version > CHECKPOINT_VERSION)
		return err_set(err, ERR_DATA, "%s: of version %ju, this program reads 1 to %u",
			       path, (uintmax_t)m->version, CHECKPOINT_VERSION);
	if (m->step != step)
		return err_set(err, ERR_DATA, "%s: of step %ju, in the directory of step %ju", path,
			       (uintmax_t)m->step, (uintmax_t)step);
	if (m->files.count != m->world)
		return err_set(err, ERR_DATA, "%s: %zu files of %ju ranks", path, m->files.count,
			       (uintmax_t)m->world);
	for (unsigned r = 0; r < m->world; r++) {
		char name[STATE_NAME_BYTES];

		manifest_state_name(name, r);
		if (strcmp(files[r].name, name))
			return err_set(err, ERR_DATA, "%s: file %u is %s, expected %s", path, r,
				       files[r].name, name);
	}
	return 0;
}

int manifest_load(const char *path, uint64_t step, struct manifest *ret, struct conf_doc **ret_doc,
		  struct err *err)
{
	struct conf_doc *doc = NULL;
	struct manifest m;
	char *text;
	size_t len;
	int rc = file_load(path, MANIFEST_BYTES_MAX, &text, &len, err);

	if (rc == ERR_NOINPUT)
		return err->code = ERR_DATA;
	if (rc < 0)
		return rc;
	rc = check_crc(path, text, len, err);
	if (!rc)
		rc = parse(path, text, len, &m, &doc, err);
	free(text);
	if (rc < 0)
		return rc;
	rc = check(&m, path, step, err);
	if (!rc)
		rc = optimizer_set(&m, path, err);
	if (rc < 0) {
		conf_free(doc);
		return rc;
	}
	*ret = m;
	*ret_doc = doc;
	return 0;
}

int manifest_fits(const struct manifest *m, const char *path, const struct train_config *c,
		  struct err *err)
{
	const struct {
		const char *key;
		uint64_t now, then;
	} numbers[] = {
		{"model.layers", c->model.layers, m->layers},
		{"model.hidden", c->model.hidden, m->hidden},
		{"model.heads", c->model.heads, m->heads},
		{"model.vocab", c->model.vocab, m->vocab},
		{"model.context", c->model.context, m->context},
		{"data.sequence", c->data.sequence, m->sequence},
		{"seed", c->seed, m->seed},
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (numbers[i].now != numbers[i].then)
			return err_set(err, ERR_CONFIG,
				       "%s: was made with %s %ju, the configuration says %ju", path,
				       numbers[i].key, (uintmax_t)numbers[i].then,
				       (uintmax_t)numbers[i].now);
	if (strcmp(m->precision, precision_names[c->precision]))
		return err_set(err, ERR_CONFIG,
			       "%s: was made with precision %s, the configuration says %s", path,
			       m->precision, precision_names[c->precision]);
	if (strcmp(m->optimizer, optimizer_kind_names[c->optimizer.type]))
		return err_set(err, ERR_CONFIG,
			       "%s: was made with optimizer.type %s, the configuration says %s: "
			       "its moments are of no use to another",
			       path, m->optimizer, optimizer_kind_names[c->optimizer.type]);
	return 0;
}

void manifest_note(const struct manifest *m, const struct train_config *c,
		   char ret[CHECKPOINT_NOTE_BYTES])
{
	ret[0] = '\0';
	if (strcmp(m->moments, optimizer_moments_names[c->optimizer.moments]))
		snprintf(ret, CHECKPOINT_NOTE_BYTES,
			 "the checkpoint's moments, %s, are converted to %s", m->moments,
			 optimizer_moments_names[c->optimizer.moments]);
}
