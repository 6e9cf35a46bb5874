/*
 * The table of architectures, and the end of one. Called by the launcher (to plan), the planner's
 * tests and the worker, from any thread; nothing here is shared.
 */
#include "offload/arch.h"

#include <stdlib.h>

#include "offload/arch_gpt2.h"

typedef int arch_make_fn(const struct train_config *config, struct arch **ret, struct err *err);

static arch_make_fn *const arch_table[] = {
	[ARCH_GPT2] = arch_gpt2_make,
};

int arch_make(const struct train_config *config, struct arch **ret, struct err *err)
{
	size_t count = sizeof(arch_table) / sizeof(arch_table[0]);

	if (config->model.arch < 0 || (size_t)config->model.arch >= count)
		return err_set(err, ERR_INTERNAL, "no architecture number %d", config->model.arch);
	return arch_table[config->model.arch](config, ret, err);
}

struct arch *arch_free(struct arch *arch)
{
	if (!arch)
		return NULL;
	for (size_t i = 0; arch->units && i < arch->unit_count; i++)
		free(arch->units[i].tensors);
	free(arch->units);
	free(arch->train);
	free(arch->eval);
	free(arch);
	return NULL;
}
