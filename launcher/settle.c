/*
 * What a configuration leaves to the machine: host.memory and placements, where they are auto.
 * Called by dsrun between reading the configuration and planning, from its one thread.
 *
 * The launcher alone looks, and hands on what it chose: so all ranks plan from the same figures,
 * whatever the host's are when they start. A run that is resumed may get others. Its numbers are
 * the same, since placement changes none.
 */
#include "launcher/settle.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/spare.h"
#include "offload/client.h"
#include "offload/plan.h"

/* Of a daemon's memory. A quota of 0: there is none. */
struct quota {
	uint64_t quota, used;
};

/*
 * The object `name` within a daemon's status, which holds no other. The rest of a status is not
 * ours to know: it may grow.
 */
static const char *object_of(const char *status, const char *name, size_t *ret_len)
{
	const char *begin = strstr(status, name), *end;

	begin = begin ? strchr(begin, '{') : NULL;
	end = begin ? strchr(begin, '}') : NULL;
	*ret_len = end ? (size_t)(end - begin) + 1 : 0;
	return end ? begin : NULL;
}

/* Lowers *bytes to what the daemon's quota has left; a daemon that is not there has none. */
static int quota_left(const char *socket, uint64_t *bytes, struct err *err)
{
	static const struct conf_key keys[] = {
		{"quota_bytes", CONF_U64, .offset = offsetof(struct quota, quota)},
		{"used_bytes", CONF_U64, .offset = offsetof(struct quota, used), .required = true},
		{.type = CONF_END},
	};
	struct quota q = {0};
	struct conf_doc *doc;
	struct err absent = {0};
	const char *memory;
	char *text;
	size_t len;
	int rc;

	if (!socket || client_query(socket, PROTOCOL_QUERY_STATUS, &text, &absent) < 0)
		return 0;
	memory = object_of(text, "\"memory\":", &len);
	rc = memory ? conf_parse("the daemon's memory", memory, len, keys, &q, &doc, err)
		    : err_set(err, ERR_PROTOCOL, "%s: a status without its memory", socket);
	free(text);
	if (rc < 0)
		return rc;
	conf_free(doc);
	if (q.quota && q.quota - (q.used < q.quota ? q.used : q.quota) < *bytes)
		*bytes = q.quota - (q.used < q.quota ? q.used : q.quota);
	return 0;
}

static int settle_memory(const struct train_config *config, const struct conf_doc *doc,
			 const struct arch *arch, const char *socket, uint64_t *ret,
			 struct err *err)
{
	uint64_t spare, lent;
	int rc = spare_memory(&spare, err);

	if (rc == 0)
		rc = plan_host_auto(config, doc, arch, (unsigned)config->device.count, spare, &lent,
				    err);
	if (rc == 0)
		rc = quota_left(socket, &lent, err);
	if (rc < 0)
		return rc;
	if (!lent)
		return conf_error(doc, "host.memory", err,
				  "auto, but the daemon at %s has nothing left to lend", socket);
	*ret = lent;
	return 0;
}

/* The memory of a host is lent before it is known what goes there: as much as with least on the
 * device, since what of the model is on a cpu device is within that device's budget anyway. */
static struct train_config least_on_device(const struct train_config *config)
{
	struct train_config c = *config;
	const uint64_t away = 1 + (c.nvme.paths.count ? PLACE_NVME : PLACE_CPU);

	train_config_settle(
		&c, &(struct train_settled){
			    .param = placement_is_auto(c.zero.offload_param) ? away : 0,
			    .optimizer = placement_is_auto(c.zero.offload_optimizer) ? away : 0});
	return c;
}

static int settle_places(const struct settle *s, struct settle_result *ret, struct err *err)
{
	const struct predict_choice *best;
	int rc = s->measure(s->context, &ret->rates, err);

	if (rc == 0)
		rc = predict_choose(s->config, s->doc, s->arch, (unsigned)s->config->device.count,
				    &ret->rates, &ret->table, err);
	if (rc < 0)
		return rc;
	best = &ret->table.choices[ret->table.best];
	ret->predicted = true;
	if (best->param < PLACE_COUNT)
		ret->settled.param = 1 + (uint64_t)best->param;
	if (best->optimizer < PLACE_COUNT)
		ret->settled.optimizer = 1 + (uint64_t)best->optimizer;
	return 0;
}

int settle(const struct settle *s, struct settle_result *ret, struct err *err)
{
	const bool places = placement_is_auto(s->config->zero.offload_param) ||
			    placement_is_auto(s->config->zero.offload_optimizer);
	const struct train_config least = least_on_device(s->config);
	struct settle_result result = {.predicted = false};
	int rc = 0;

	if (s->config->host.memory == CONF_AUTO)
		rc = settle_memory(&least, s->doc, s->arch, s->socket, &result.settled.host_memory,
				   err);
	if (rc < 0)
		return rc;
	train_config_settle(s->config, &result.settled);
	if (places)
		rc = settle_places(s, &result, err);
	if (rc < 0)
		return rc;
	train_config_settle(s->config, &result.settled);
	*ret = result;
	return 0;
}
