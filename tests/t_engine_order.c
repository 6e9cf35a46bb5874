/*
 * Goal: whatever the timing of streams, collectives and daemon, every read of a buffer sees the
 * last write before it: for whole training steps, with every placement; and what the engine does to
 * that end is not more than needed, but for what is listed here.
 *
 * Method. A small GPT-2 trains in this process on recording devices (record_device.c), which run
 * streams as inconveniently as their events allow, with real collectives and a real daemon: every
 * placement of parameters, optimizer and activations at every stage, and world size, accumulation,
 * clipping, precision, depth, budgets and schedule drawn for each. Losses, norms, optimizer state
 * and parameters must be the bits of a cpu device with nothing offloaded, and the log of each rank
 * must be in order (record_proof.h).
 *
 * Who says that the proof would notice? Each wait, record, sync and query of the engine is left out
 * of it: either something is then out of order, in one run at least, or the ordering is on the list
 * of spare ones below, with its reason. One test leaves waits out in earnest: the numbers must show
 * it, too.
 *
 * ORDER_DRAWS: draws of the rest for each placement (1). ORDER_STRIDE: of single calls, each so
 * manieth is left out by itself (a sample). Seeds are functions of the placement's number.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/rng.h"
#include "tests/order_bed.h"
#include "tests/order_edges.h"

#define SEED       20261124u
#define PLACEMENTS 300u /* 5 places of 2 things, 3 of activations, 4 stages */

static const char conf[] = "host: {memory: 1GiB, threads: 1}\n";

/* Orderings that others imply; the engine has them so that each buffer's rule stands by itself. */
static const struct {
	const char *what, *why;
} spare[] = {
	{"comm records part_buffer.free", "without a daemon a part buffer never leaves comm"},
	{"compute records mark_compute", "engine_step_end syncs comm, which is behind compute"},
	{"copy-in waits for mark_compute", "as above"},
	{"copy-out waits for mark_compute", "replica_written or ready is recorded behind Adam"},
	{"comm records mark_comm", "engine_step_end syncs comm"},
	{"copy-in waits for mark_comm", "as above"},
	{"comm waits for gather_slot.ready", "used, or what came by copy-in, is behind it"},
	{"comm waits for gather_slot.saved", "only copy-in fills slots that are written back"},
	{"copy-out records fetch_slot.free", "the STORE's end is behind it"},
	{"copy-out records act.saved", "an activation goes back to the buffer it left"},
	{"copy-in waits for act.saved", "as above"},
	{"the driving thread looks at act_slot.free", "the wait behind it would not block then"},
	{"copy-in waits for unit.replica_written", "the slot that was written back is behind it"},
	{"the driving thread waits for unit.replica_written", "engine_step_end syncs copy-out"},
	{"copy-out records unit.replica_written", "for the two above"},
	{"the driving thread waits for the daemon's PREPARE",
	 "it moves nothing: the id is wanted again"},
};

static unsigned number(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

/* The last two split one model: its units differ in where they are. */
static const char *const tiers[] = {"none", "cpu", "nvme", "{cpu: 0.4, nvme: 0.3}", "{nvme: 0.5}"};

static struct order_setup setup_of(unsigned placement, unsigned draw)
{
	uint64_t bits = rng_below(SEED, 1 + draw, placement, 1u << 16);
	bool layer_order = (bits >> 8 & 3) == 1;

	return (struct order_setup){
		.stage = placement / 75,
		.param = tiers[placement / 15 % 5],
		.optimizer = tiers[placement / 3 % 5],
		.activations = (int)(placement % 3),
		.world = 1 + (bits & 1),
		.accumulation = 1 + (bits >> 1 & 1) + layer_order,
		.layer_order = layer_order,
		.clip = bits >> 2 & 1,
		.form = bits >> 10 & 4 ? 0 : bits >> 10 & 3,
		.bf16 = (bits >> 3 & 3) != 0,
		/* A blob is a timeline of the proof, which has no more of them than this takes. */
		.layers = layer_order || bits >> 5 & 1 ? 3 : 6,
		.tight_device = bits >> 6 & 1,
		.tight_host = bits >> 7 & 1,
	};
}

static struct record_schedule schedule_of(unsigned placement, unsigned draw)
{
	uint64_t bits = rng_below(SEED, 1001 + draw, placement, 1u << 16);

	return (struct record_schedule){
		.policy = (enum record_policy)(bits % RECORD_POLICY_COUNT),
		.stream = bits >> 8 & 3,
		.seed = bits,
	};
}

/* What comes out with nothing offloaded on a cpu device, by what may change it. */
struct references {
	struct order_result at[ORDER_FORMS][2][3][2][2][2];
};

static const struct order_result *reference(struct references *refs, const struct order_setup *s,
					    const struct bed_daemon *d)
{
	const struct order_setup plain = {.world = s->world,
					  .accumulation = s->accumulation,
					  .form = s->form,
					  .clip = s->clip,
					  .bf16 = s->bf16,
					  .layers = s->layers};
	struct order_result *r = &refs->at[s->form][s->world - 1][s->accumulation - 1][s->clip]
					  [s->bf16][s->layers == 3];

	if (r->figure_count)
		return r;
	order_run(&plain, d, NULL, r);
	ck_assert_msg(r->rc == 0, "%s: %s", order_setup_text(&plain), r->err.text);
	return r;
}

static void references_done(struct references *refs)
{
	struct order_result *r = &refs->at[0][0][0][0][0][0];

	for (size_t i = 0; i < sizeof(*refs) / sizeof(*r); i++)
		order_result_done(&r[i]);
}

static void log_check(const struct order_setup *s, unsigned rank, const struct record_log *log)
{
	struct record_proof *proof = record_proof_open(log);
	struct record_fault fault;
	size_t entry, access;
	char text[1024];

	ck_assert_msg(record_within_bounds(log, &entry, &access),
		      "%s, rank %u, seed %u: access %zu of %s (%s) leaves its memory",
		      order_setup_text(s), rank, SEED, access, log->entries[entry].what,
		      log->labels[log->entries[entry].label]);
	if (!record_proof_holds(proof, NULL, &fault)) {
		record_fault_print(log, &fault, text, sizeof(text));
		ck_abort_msg("%s, rank %u, seed %u:\n%s", order_setup_text(s), rank, SEED, text);
	}
	record_proof_free(proof);
}

/* One run: right numbers, in order; its logs join those whose edges are left out. */
static void run_one(unsigned placement, unsigned draw, struct references *refs,
		    const struct bed_daemon *d, struct order_edges *edges, size_t stride)
{
	struct order_setup s = setup_of(placement, draw);
	struct record_schedule schedule = schedule_of(placement, draw);
	struct order_result r;
	const char *differs;

	order_run(&s, d, &schedule, &r);
	ck_assert_msg(r.rc == 0, "%s: %s", order_setup_text(&s), r.err.text);
	differs = order_result_differs(&r, reference(refs, &s, d));
	ck_assert_msg(!differs, "%s, policy %d, stream %u, seed %u: %s", order_setup_text(&s),
		      (int)schedule.policy, schedule.stream, SEED, differs);
	for (unsigned rank = 0; rank < s.world; rank++) {
		log_check(&s, rank, r.logs[rank]);
		order_edges_add(edges, r.logs[rank], placement % stride, stride);
	}
	order_result_done(&r);
}

/* Is it needed anywhere, at whatever place in the source? */
static bool text_needed(const struct order_edges *edges, const char *text)
{
	for (size_t i = 0; i < edges->count; i++)
		if (edges->at[i].needed && strcmp(edges->at[i].text, text) == 0)
			return true;
	return false;
}

static bool text_spare(const char *text)
{
	for (size_t i = 0; i < sizeof(spare) / sizeof(spare[0]); i++)
		if (strcmp(spare[i].what, text) == 0)
			return true;
	return false;
}

/* Every ordering is needed or spare. With `places`, prints all that no run needed. */
static void edges_check(const struct order_edges *edges, bool places)
{
	unsigned unknown = 0;

	printf("single calls left out: %lu noticed, %lu dominated by others, %lu without use\n",
	       edges->noticed, edges->dominated, edges->unused);
	for (size_t i = 0; i < edges->count; i++) {
		const char *text = edges->at[i].text;

		if (places && !edges->at[i].needed)
			printf("never needed: %s, in %lu calls at %s\n", text, edges->at[i].calls,
			       order_edge_place(&edges->at[i]));
		if (text_needed(edges, text) || text_spare(text))
			continue;
		printf("never needed, and not in the list of tests/t_engine_order.c: %s\n", text);
		unknown++;
	}
	fflush(stdout);
	ck_assert_msg(unknown == 0, "%u orderings, listed above, depend on nothing", unknown);
	ck_assert_uint_gt(edges->noticed, 0);
}

START_TEST(every_placement)
{
	const unsigned draws = number("ORDER_DRAWS", 1);
	const size_t stride = number("ORDER_STRIDE", 199);
	struct references *refs = calloc(1, sizeof(*refs));
	struct order_edges edges = {.spare = draws > 1 ? NULL : text_spare};
	struct bed_daemon d;

	ck_assert_ptr_nonnull(refs);
	bed_start(&d, conf);
	for (unsigned draw = 0; draw < draws; draw++)
		for (unsigned p = 0; p < PLACEMENTS; p++)
			run_one(p, draw, refs, &d, &edges, stride);
	bed_stop(&d);
	edges_check(&edges, draws > 1);
	order_edges_done(&edges);
	references_done(refs);
	free(refs);
}
END_TEST

/* State that went out and came in again goes on as if it had not. */
START_TEST(import_goes_on)
{
	const struct order_setup s = {.world = 2,
				      .stage = 3,
				      .accumulation = 2,
				      .layers = 3,
				      .param = "cpu",
				      .optimizer = "cpu",
				      .clip = true,
				      .bf16 = true};
	struct order_result r;
	struct bed_daemon d;

	bed_start(&d, conf);
	order_run(&s, &d, NULL, &r);
	bed_stop(&d);
	ck_assert_msg(r.rc == 0, "%s", r.err.text);
	/* Step 4's norm and loss, before and after. */
	for (size_t i = ORDER_STEP_4; i < ORDER_STEP_4 + 2; i++)
		ck_assert_msg(r.figures[i] == r.figures[i + 2], "figure %zu: %.17g, then %.17g", i,
			      r.figures[i], r.figures[i + 2]);
	order_result_done(&r);
}
END_TEST

/* Does one run, with the calls of this edge doing nothing, go wrong, and is it known for it? */
static bool shows(const struct order_setup *s, const struct order_edge *edge,
		  struct record_schedule schedule, const struct bed_daemon *d,
		  const struct order_result *expected)
{
	struct order_result r;
	struct record_proof *proof;
	struct record_fault fault;
	bool wrong;

	schedule.drop_site = edge->site;
	schedule.drop_kind = edge->kind;
	order_run(s, d, &schedule, &r);
	wrong = r.rc < 0 || order_result_differs(&r, expected);
	proof = record_proof_open(r.logs[0]);
	ck_assert_msg(r.rc < 0 || !record_proof_holds(proof, NULL, &fault),
		      "%s: left out, and the proof holds", edge->text);
	record_proof_free(proof);
	order_result_done(&r);
	return wrong;
}

/*
 * The waits of streams that a run needs, in earnest: at least half of them must spoil its numbers
 * under one of the schedules that starve or favour a stream. (One that protects what is only
 * overwritten by the same bits cannot.)
 */
START_TEST(left_out_in_earnest)
{
	const struct order_setup s = {.world = 1,
				      .stage = 3,
				      .accumulation = 2,
				      .layers = 3,
				      .param = "nvme",
				      .optimizer = "cpu",
				      .activations = PLACE_CPU,
				      .bf16 = true,
				      .tight_device = true,
				      .tight_host = true};
	struct record_schedule schedule = {.policy = RECORD_LAZY, .seed = SEED};
	struct order_edges edges = {0};
	struct order_result good;
	struct bed_daemon d;
	unsigned tried = 0, shown = 0;

	bed_start(&d, conf);
	order_run(&s, &d, &schedule, &good);
	ck_assert_msg(good.rc == 0, "%s", good.err.text);
	order_edges_add(&edges, good.logs[0], 0, 0);
	for (size_t i = 0; i < edges.count; i++) {
		bool wrong = false;

		if (!edges.at[i].needed || edges.at[i].kind != RECORD_WAIT)
			continue;
		for (unsigned k = 0; k < 8 && !wrong; k++) {
			schedule.policy = k % 2 ? RECORD_FAVOUR : RECORD_STARVE;
			schedule.stream = k / 2;
			wrong = shows(&s, &edges.at[i], schedule, &d, &good);
		}
		printf("%s: %s\n", edges.at[i].text, wrong ? "shown" : "not shown");
		tried++;
		shown += wrong;
	}
	bed_stop(&d);
	ck_assert_uint_ge(tried, 8);
	ck_assert_uint_ge(2 * shown, tried);
	order_edges_done(&edges);
	order_result_done(&good);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine_order");
	TCase *tc = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tc, 1800);
	tcase_add_test(tc, every_placement);
	tcase_add_test(tc, import_goes_on);
	tcase_add_test(tc, left_out_in_earnest);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
