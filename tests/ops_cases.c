/* What the cases of t_ops share; see ops_cases.h. */
#include "tests/ops_cases.h"

#include <assert.h>
#include <math.h>

static const struct ops_table *const tables[] = {&ops_linear, &ops_layers, &ops_ends};

#define TABLES (sizeof(tables) / sizeof(tables[0]))

size_t ops_case_count(void)
{
	size_t count = 0;

	for (size_t t = 0; t < TABLES; t++)
		count += tables[t]->count;
	return count;
}

const struct ops_case *ops_case_at(size_t i)
{
	size_t t = 0;

	while (i >= tables[t]->count) {
		i -= tables[t++]->count;
		assert(t < TABLES);
	}
	return &tables[t]->cases[i];
}

void ops_output(struct ops_run *r, const char *name, const float *got, double *want, size_t count,
		double tolerance)
{
	struct ops_output *o = &r->outputs[r->output_count++];

	assert(r->output_count <= OPS_OUTPUTS_MAX);
	*o = (struct ops_output){name, got, count, count * sizeof(*got), want, tolerance};
}

double ops_product_tolerance(size_t n)
{
	return 4e-7 * (1 + sqrt((double)n) / 4);
}
