/*
 * A table of predictions for people and for programs. Called by `dsrun --plan`; pure but for the
 * stream it writes, whose errors its owner looks at.
 */
#include <inttypes.h>

#include "common/units.h"
#include "offload/predict.h"

static const char *choice_name(int place)
{
	return place == PLACE_COUNT ? "as asked" : placement_name(place);
}

static void print_rates(const struct predict_rates *r, FILE *out)
{
	char copy[UNITS_TEXT_BYTES], read[UNITS_TEXT_BYTES], write[UNITS_TEXT_BYTES],
		mixed[UNITS_TEXT_BYTES];

	fprintf(out,
		"measured    a micro-batch: forward %.4g s and %.4g s a block, with backward %.4g "
		"s "
		"and %.4g s\n",
		r->forward.rest, r->forward.block, r->pass.rest, r->pass.block);
	fprintf(out,
		"            optimizer: %.4g s on the device, %.4g million parameters/s a core of "
		"the "
		"host\n",
		r->step.rest + r->step.block, r->adam / 1e6);
	fprintf(out, "            copies %s/s a core", units_format_bytes(copy, (uint64_t)r->copy));
	if (r->mixed > 0)
		fprintf(out, "; disk: read %s/s, write %s/s, both %s/s",
			units_format_bytes(read, (uint64_t)r->read),
			units_format_bytes(write, (uint64_t)r->write),
			units_format_bytes(mixed, (uint64_t)r->mixed));
	fputc('\n', out);
}

void predict_print(const struct predict_table *table, const struct predict_rates *rates, FILE *out)
{
	print_rates(rates, out);
	fprintf(out, "\n  %-12s%-12s%12s%12s%12s%12s\n", "parameters", "optimizer", "step s",
		"compute s", "cores s", "disk s");
	for (size_t i = 0; i < table->count; i++) {
		const struct predict_choice *c = &table->choices[i];

		fprintf(out, "%c %-12s%-12s", i == table->best ? '*' : ' ', choice_name(c->param),
			choice_name(c->optimizer));
		if (c->fits)
			fprintf(out, "%12.4g%12.4g%12.4g%12.4g\n", c->step.seconds, c->step.compute,
				c->step.cpu, c->step.disk);
		else
			fprintf(out, "%12s\n", "too large");
	}

	const struct predict_choice *best = &table->choices[table->best];
	char read[UNITS_TEXT_BYTES], written[UNITS_TEXT_BYTES];

	fprintf(out, "chosen      parameters %s, optimizer %s: bound by %s",
		choice_name(best->param), choice_name(best->optimizer), best->step.bound);
	if (best->step.read_bytes || best->step.written_bytes)
		fprintf(out, "; reads %s and writes %s in a step",
			units_format_bytes(read, best->step.read_bytes),
			units_format_bytes(written, best->step.written_bytes));
	fputs("\n\n", out);
}

static void json_choice(const struct predict_choice *c, struct json *json)
{
	json_object_begin(json, NULL);
	json_string(json, "offload_param", choice_name(c->param));
	json_string(json, "offload_optimizer", choice_name(c->optimizer));
	json_bool(json, "fits", c->fits);
	if (c->fits) {
		json_double(json, "seconds", c->step.seconds);
		json_double(json, "compute_seconds", c->step.compute);
		json_double(json, "cores_seconds", c->step.cpu);
		json_double(json, "disk_seconds", c->step.disk);
		json_double(json, "optimizer_seconds", c->step.optimizer);
		json_string(json, "bound", c->step.bound);
	}
	json_object_end(json);
}

void predict_json(const struct predict_table *table, const struct predict_rates *r,
		  struct json *json)
{
	json_object_begin(json, "auto");
	json_object_begin(json, "rates");
	json_double(json, "forward_rest_seconds", r->forward.rest);
	json_double(json, "forward_block_seconds", r->forward.block);
	json_double(json, "pass_rest_seconds", r->pass.rest);
	json_double(json, "pass_block_seconds", r->pass.block);
	json_double(json, "step_rest_seconds", r->step.rest);
	json_double(json, "step_block_seconds", r->step.block);
	json_u64(json, "cores", r->cores);
	json_double(json, "copy_bytes_per_s", r->copy);
	json_double(json, "adam_params_per_s", r->adam);
	json_double(json, "checksum_bytes_per_s", r->checksum);
	json_double(json, "read_bytes_per_s", r->read);
	json_double(json, "write_bytes_per_s", r->write);
	json_double(json, "mixed_bytes_per_s", r->mixed);
	json_object_end(json);
	json_array_begin(json, "choices");
	for (size_t i = 0; i < table->count; i++)
		json_choice(&table->choices[i], json);
	json_array_end(json);
	json_u64(json, "best", table->best);
	json_object_end(json);
}
