/*
 * Goal: workers get whole cores, neighbours, within one NUMA node where that can be.
 * Method: synthetic machines, whose expected cuts are written out; on each all cuts up to twice
 * its cores are checked for being equal, disjoint and complete where that is possible. The machine
 * itself only has to bind a thread to what was cut for it.
 */
#include "common/topo.h"

#include <check.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static struct topo *open_synthetic(const char *text)
{
	struct topo *topo = NULL;
	struct err err = {0};

	ck_assert_int_eq(setenv("DSRUN_TOPOLOGY", text, 1), 0);
	ck_assert_msg(topo_open(&topo, &err) == 0, "%s", err.text);
	ck_assert(topo_is_synthetic(topo));
	return topo;
}

static const struct {
	const char *machine;
	unsigned index, parts;
	const char *set;
	unsigned cores;
} cuts[] = {
	{"numa:2 core:4 pu:2", 0, 1, "0-15", 8},
	{"numa:2 core:4 pu:2", 0, 2, "0-7", 4},
	{"numa:2 core:4 pu:2", 1, 2, "8-15", 4},
	{"numa:2 core:4 pu:2", 2, 4, "8-11", 2},
	{"numa:2 core:4 pu:2", 7, 8, "14-15", 1},
	{"numa:2 core:4 pu:2", 15, 16, "14-15", 1},
	{"numa:2 core:4 pu:2", 14, 16, "14-15", 1},
	{"numa:2 core:4 pu:2", 1, 3, "4-7", 2},
	{"numa:2 core:4 pu:2", 2, 3, "8-15", 4},
	{"numa:4 core:2 pu:1", 0, 2, "0-3", 4},
	{"numa:4 core:2 pu:1", 1, 3, "2-3", 2},
	{"numa:2 core:3 pu:1", 1, 4, "1-2", 2},
	{"numa:2 core:3 pu:1", 3, 4, "4-5", 2},
	{"core:4 pu:2", 1, 4, "2-3", 1},
	{"pu:3", 1, 3, "1", 1},
	{"pu:1", 3, 4, "0", 1},
	/* Hardware threads of a core numbered far apart, as most two-way machines do. */
	{"core:2 pu:2(indexes=0,2,1,3)", 0, 2, "0,2", 1},
	{"core:2 pu:2(indexes=0,2,1,3)", 1, 2, "1,3", 1},
};

START_TEST(parts_are_as_expected)
{
	struct topo *topo = open_synthetic(cuts[_i].machine);
	char set[TOPO_SET_TEXT_BYTES];
	struct err err = {0};
	unsigned cores;

	ck_assert_int_eq(topo_split(topo, cuts[_i].index, cuts[_i].parts, set, &cores, &err), 0);
	ck_assert_str_eq(set, cuts[_i].set);
	ck_assert_uint_eq(cores, cuts[_i].cores);
	topo_free(topo);
}
END_TEST

START_TEST(parts_are_fair)
{
	static const char *const machines[] = {"numa:2 core:4 pu:2", "numa:3 core:5 pu:1",
					       "numa:4 core:2 pu:2", "core:6 pu:1", "pu:2"};
	char set[TOPO_SET_TEXT_BYTES];
	unsigned cores, all, sum;
	struct topo *topo;

	for (size_t m = 0; m < sizeof(machines) / sizeof(machines[0]); m++) {
		topo = open_synthetic(machines[m]);
		all = topo_cores(topo);
		for (unsigned parts = 1; parts <= 2 * all; parts++) {
			sum = 0;
			for (unsigned i = 0; i < parts; i++) {
				ck_assert_int_eq(topo_split(topo, i, parts, set, &cores, NULL), 0);
				ck_assert_uint_ge(cores, 1);
				sum += cores;
				if (all % parts == 0 && parts % topo_numa_nodes(topo) == 0)
					ck_assert_uint_eq(cores, all / parts);
			}
			if (parts <= all)
				ck_assert_uint_eq(sum, all);
			else
				ck_assert_uint_eq(sum, parts);
		}
		topo_free(topo);
	}
}
END_TEST

/* A node's cores, for the parts that are to run there. */
START_TEST(parts_of_a_node)
{
	static const struct {
		const char *machine;
		unsigned node, index, parts;
		const char *set;
		unsigned cores;
	} of[] = {
		{"numa:2 core:4 pu:2", 0, 0, 1, "0-7", 4},
		{"numa:2 core:4 pu:2", 1, 0, 1, "8-15", 4},
		{"numa:2 core:4 pu:2", 1, 1, 2, "12-15", 2},
		{"numa:2 core:4 pu:2", 1, 2, 3, "12-15", 2},
		{"numa:2 core:4 pu:2", 1, 7, 8, "14-15", 1},
		{"numa:4(indexes=3,1,2,0) core:2 pu:1", 3, 0, 2, "0", 1},
		{"numa:4(indexes=3,1,2,0) core:2 pu:1", 0, 1, 2, "7", 1},
		{"core:4 pu:1", 0, 1, 2, "2-3", 2},
	};
	char set[TOPO_SET_TEXT_BYTES];
	struct err err = {0};
	unsigned cores;

	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		struct topo *topo = open_synthetic(of[i].machine);

		ck_assert_msg(topo_split_node(topo, of[i].node, of[i].index, of[i].parts, set,
					      &cores, &err) == 0,
			      "%s", err.text);
		ck_assert_str_eq(set, of[i].set);
		ck_assert_uint_eq(cores, of[i].cores);
		ck_assert_int_eq(topo_split_node(topo, 7, 0, 1, set, &cores, &err), -ENOENT);
		ck_assert_int_eq(topo_split_node(topo, of[i].node, 2, 2, set, &cores, &err),
				 -EINVAL);
		topo_free(topo);
	}
}
END_TEST

START_TEST(counts_and_refusals)
{
	struct topo *topo = open_synthetic("numa:2 core:4 pu:2");
	char set[TOPO_SET_TEXT_BYTES];
	struct err err = {0};
	unsigned cores;

	ck_assert_uint_eq(topo_cores(topo), 8);
	ck_assert_uint_eq(topo_numa_nodes(topo), 2);
	ck_assert_int_lt(topo_split(topo, 2, 2, set, &cores, &err), 0);
	ck_assert_int_eq(topo_bind_thread(topo, "0-3", &err), 0);
	topo_free(topo);
	topo = NULL;
	ck_assert_int_eq(setenv("DSRUN_TOPOLOGY", "nonsense", 1), 0);
	ck_assert_int_eq(topo_open(&topo, &err), ERR_CONFIG);
	ck_assert_str_eq(err.text, "DSRUN_TOPOLOGY: 'nonsense' describes no machine");
	ck_assert_ptr_null(topo_free(NULL));
}
END_TEST

START_TEST(this_machine)
{
	struct topo *topo = NULL;
	char set[TOPO_SET_TEXT_BYTES];
	struct err err = {0};
	cpu_set_t bound, one;
	unsigned cores;
	int first = 0;

	ck_assert_int_eq(unsetenv("DSRUN_TOPOLOGY"), 0);
	ck_assert_msg(topo_open(&topo, &err) == 0, "%s", err.text);
	ck_assert(!topo_is_synthetic(topo));
	ck_assert_uint_ge(topo_numa_nodes(topo), 1);
	ck_assert_int_eq(topo_split(topo, 0, topo_cores(topo), set, &cores, &err), 0);
	ck_assert_uint_eq(cores, 1);
	ck_assert_msg(topo_bind_thread(topo, set, &err) == 0, "%s", err.text);
	ck_assert_int_eq(sched_getaffinity(0, sizeof(bound), &bound), 0);
	ck_assert_int_ge(CPU_COUNT(&bound), 1);
	ck_assert_int_lt(topo_bind_thread(topo, "", &err), 0);
	ck_assert_int_lt(topo_bind_thread(topo, "x", &err), 0);
	topo_free(topo);

	/* A process bound to less sees less. */
	while (!CPU_ISSET(first, &bound))
		first++;
	CPU_ZERO(&one);
	CPU_SET(first, &one);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
	ck_assert_int_eq(topo_open(&topo, &err), 0);
	ck_assert_uint_eq(topo_cores(topo), 1);
	topo_free(topo);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("topo");
	TCase *tcase = tcase_create("topo");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, parts_are_as_expected, 0, sizeof(cuts) / sizeof(cuts[0]));
	tcase_add_test(tcase, parts_are_fair);
	tcase_add_test(tcase, parts_of_a_node);
	tcase_add_test(tcase, counts_and_refusals);
	tcase_add_test(tcase, this_machine);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
