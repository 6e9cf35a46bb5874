/*
 * Export of weights: an 8-byte header length, a JSON header padded with spaces to a multiple of 8,
 * then the tensors without gaps, in the order of the units. Called by rank 0's main thread.
 *
 * A unit's tensors lie behind each other from its start and its padding behind them, so a unit is
 * one write. The head is tied to wte and has no entry, as in the files of others.
 */
#include "worker/safetensors.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "worker/outfile.h"

static void tensor_entry(struct json *j, const struct arch_tensor *t, enum dtype type, uint64_t *at)
{
	char name[sizeof(t->name) + sizeof("transformer.")];
	uint64_t bytes = t->count * dtype_bytes(type);

	snprintf(name, sizeof(name), "transformer.%s", t->name);
	json_object_begin(j, name);
	json_string(j, "dtype", type == DTYPE_BF16 ? "BF16" : "F32");
	json_array_begin(j, "shape");
	if (t->rows)
		json_u64(j, NULL, t->rows);
	json_u64(j, NULL, t->cols);
	json_array_end(j);
	json_array_begin(j, "data_offsets");
	json_u64(j, NULL, *at);
	json_u64(j, NULL, *at + bytes);
	json_array_end(j);
	json_object_end(j);
	*at += bytes;
}

static int write_header(struct outfile *f, const struct arch *arch, enum dtype type,
			struct err *err)
{
	static const char spaces[] = "        ";
	uint8_t len_le[8];
	uint64_t at = 0, len, padded;
	struct json j;
	int rc;

	json_init(&j);
	json_object_begin(&j, NULL);
	json_object_begin(&j, "__metadata__");
	json_string(&j, "format", "pt");
	json_object_end(&j);
	for (size_t u = 0; u < arch->unit_count; u++)
		for (size_t t = 0; t < arch->units[u].tensor_count; t++)
			tensor_entry(&j, &arch->units[u].tensors[t], type, &at);
	json_object_end(&j);
	if (!json_text(&j)) {
		json_done(&j);
		return err_sys(err, -ENOMEM, "header of %s", f->path);
	}
	len = strlen(json_text(&j));
	padded = (len + 7) / 8 * 8;
	for (unsigned i = 0; i < 8; i++)
		len_le[i] = (uint8_t)(padded >> 8 * i);
	rc = outfile_write(f, len_le, sizeof(len_le), err);
	if (!rc)
		rc = outfile_write(f, json_text(&j), len, err);
	if (!rc)
		rc = outfile_write(f, spaces, padded - len, err);
	json_done(&j);
	return rc;
}

int safetensors_write(const char *path, const struct arch *arch, enum dtype type,
		      safetensors_read_fn *read, void *ctx, struct err *err)
{
	struct outfile f;
	int rc = outfile_open(&f, path, err);

	if (rc < 0)
		return rc;
	rc = write_header(&f, arch, type, err);
	for (size_t u = 0; !rc && u < arch->unit_count; u++) {
		const void *unit;

		rc = read(ctx, u, &unit, err);
		if (!rc)
			rc = outfile_write(&f, unit, arch->units[u].elems * dtype_bytes(type), err);
	}
	if (!rc)
		rc = outfile_commit(&f, err);
	outfile_abort(&f);
	return rc;
}
