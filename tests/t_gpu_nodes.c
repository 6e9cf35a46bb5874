/*
 * Goal: each rank's GPU is found on the NUMA node that sysfs says, with the ordinals that CUDA
 * would give, and no guess is made where CUDA might see something else.
 *
 * Method: trees of files as a machine's /sys/bus/pci/devices and /dev show them, made in TMPDIR:
 * one as an eight-GPU server of two sockets has it, with the network cards, switches and the
 * baseboard's own VGA that stand between; then what is odd about others.
 */
#include "launcher/gpu.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file.h"
#include "launcher/internal.h"

struct function {
	const char *place, *vendor, *class, *driver, *node; /* NULL: no such file */
};

/* In the order of a directory, which is no order. */
static const struct function server[] = {
	{"0000:e0:00.0", "0x10de", "0x030200", "nvidia", "1"},
	{"0000:03:00.0", "0x1a03", "0x030000", "ast", "0"},
	{"0000:18:00.0", "0x10de", "0x030200", "nvidia", "0"},
	{"0000:ca:00.0", "0x10de", "0x030200", "nvidia", "1"},
	{"0000:15:00.0", "0x15b3", "0x020700", "mlx5_core", "0"},
	{"0000:2a:00.0", "0x10de", "0x030200", "nvidia", "0"},
	{"0000:5d:00.0", "0x10de", "0x030200", "nvidia", "0"},
	{"0000:07:00.0", "0x10de", "0x068000", "nvidia-nvswitch", "0"},
	{"0000:9a:00.0", "0x10de", "0x030200", "nvidia", "1"},
	{"0000:3a:00.0", "0x10de", "0x030200", "nvidia", "0"},
	{"0000:ab:00.0", "0x10de", "0x030200", "nvidia", "1"},
	{"0000:18:00.1", "0x10de", "0x040300", "snd_hda_intel", "0"},
};

static char root[PATH_MAX];

static void put(const char *dir, const char *name, const char *text)
{
	char path[PATH_MAX + 64];
	struct err err = {0};

	if (!text)
		return;
	ck_assert_int_lt(snprintf(path, sizeof(path), "%s/%s", dir, name), (int)sizeof(path));
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(file_write_all(fd, text, strlen(text), &err), 0);
	ck_assert_int_eq(file_write_all(fd, "\n", 1, &err), 0);
	close(fd);
}

static void make(const char *path)
{
	ck_assert(mkdir(path, 0755) == 0 || errno == EEXIST);
}

static void plant(const struct function *f)
{
	char dir[PATH_MAX + 64], driver[128], path[PATH_MAX + 128];

	snprintf(dir, sizeof(dir), "%s/sys/bus/pci/devices/%s", root, f->place);
	make(dir);
	put(dir, "vendor", f->vendor);
	put(dir, "class", f->class);
	put(dir, "numa_node", f->node);
	snprintf(path, sizeof(path), "%s/driver", dir);
	snprintf(driver, sizeof(driver), "../../../../bus/pci/drivers/%s",
		 f->driver ? f->driver : "");
	if (f->driver)
		ck_assert_int_eq(symlink(driver, path), 0);
}

static void plant_tree(const struct function *f, size_t count, unsigned files)
{
	static const char *const dirs[] = {
		"", "/sys", "/sys/bus", "/sys/bus/pci", "/sys/bus/pci/devices", "/dev"};
	static const char *const others[] = {"nvidiactl", "nvidia-uvm", "nvidia", "nvidia0a",
					     "null"};
	static unsigned serial;
	char path[PATH_MAX + 64], name[32];

	snprintf(root, sizeof(root), "%s/gpu-%d-%u", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
		 (int)getpid(), serial++);
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", root, dirs[i]);
		make(path);
	}
	for (size_t i = 0; i < count; i++)
		plant(&f[i]);
	snprintf(path, sizeof(path), "%s/dev", root);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		put(path, others[i], "");
	for (unsigned i = 0; i < files; i++) {
		snprintf(name, sizeof(name), "nvidia%u", i);
		put(path, name, "");
	}
}

static void remove_tree(void)
{
	struct err err = {0};

	ck_assert_msg(file_remove_tree(root, &err) == 0, "%s", err.text);
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct {
	const char *visible;
	unsigned count;
	int nodes[8];
	const char *refused; /* part of the reason; NULL: none */
} views[] = {
	{NULL, 8, {0, 0, 0, 0, 1, 1, 1, 1}, NULL},
	{NULL, 1, {0}, NULL},
	{"0,1,2,3,4,5,6,7", 8, {0, 0, 0, 0, 1, 1, 1, 1}, NULL},
	{"7,0,4", 3, {1, 0, 1}, NULL},
	{"7,0,4", 2, {1, 0}, NULL},
	{" 4, 5", 2, {1, 1}, NULL},
	{"0,99,4", 1, {0}, NULL},
	{"0,99,4", 2, {0}, "1 GPUs are to be seen, 2 are wanted"},
	{"0,-1,4", 2, {0}, "1 GPUs are to be seen"},
	{"", 1, {0}, "0 GPUs are to be seen"},
	{NULL, 9, {0}, "8 GPUs are to be seen, 9 are wanted"},
	{"GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1, {0}, "not a list of ordinals"},
	{"0,MIG-4be44b2f", 1, {0}, "not a list of ordinals"},
	{"0;1", 1, {0}, "not a list of ordinals"},
	{"0x1", 1, {0}, "not a list of ordinals"},
};

START_TEST(a_server)
{
	int nodes[9] = {0};
	struct err err = {0};

	plant_tree(server, COUNT(server), 8);
	int rc = gpu_nodes(root, views[_i].visible, views[_i].count, nodes, &err);
	if (views[_i].refused) {
		ck_assert_int_eq(rc, ERR_UNAVAILABLE);
		ck_assert_msg(strstr(err.text, views[_i].refused), "%s", err.text);
	} else {
		ck_assert_msg(rc == 0, "%s", err.text);
		for (unsigned i = 0; i < views[_i].count; i++)
			ck_assert_int_eq(nodes[i], views[_i].nodes[i]);
	}
	remove_tree();
}
END_TEST

/* A container that shows the host's /sys and two of its GPUs: which two, nobody says. */
START_TEST(fewer_files_than_gpus)
{
	int nodes[2];
	struct err err = {0};

	plant_tree(server, COUNT(server), 2);
	ck_assert_int_eq(gpu_nodes(root, NULL, 2, nodes, &err), ERR_UNAVAILABLE);
	ck_assert_msg(strstr(err.text, "/sys shows 8 GPUs and /dev 2"), "%s", err.text);
	remove_tree();
}
END_TEST

/* Longer domains sort by number; nodes that are unknown, missing or nonsense are -1. */
START_TEST(odd_devices)
{
	static const struct function odd[] = {
		{"10000:01:00.0", "0x10de", "0x030200", "nvidia", "1"},
		{"0000:01:00.0", "0x10de", "0x030000", "nvidia", "-1"},
		{"0000:02:00.0", "0x10de", "0x030200", "nvidia", NULL},
		{"0000:02:01.0", "0x10de", "0x030200", "nvidia", "one"},
		{"0000:02:01.1", "0x10de", "0x030200", "nvidia", "99999999999999999999"},
		{"0000:02:02.0", "0x10de", "0x030200", "vfio-pci", "0"},
		{"0000:02:03.0", "0x10de", "0x030200", NULL, "0"},
		{"0000:02:04.0", "0x10de", NULL, "nvidia", "0"},
		{"0000:02:05.0", NULL, "0x030200", "nvidia", "0"},
		{"0000:02:06.0", "0x10de", "display", "nvidia", "0"},
		{"not a device", "0x10de", "0x030200", "nvidia", "0"},
		{"0000:02:07.0.5", "0x10de", "0x030200", "nvidia", "0"},
	};
	static const int want[] = {-1, -1, -1, -1, 1};
	int nodes[5];
	struct err err = {0};

	plant_tree(odd, COUNT(odd), 5);
	ck_assert_msg(gpu_nodes(root, NULL, 5, nodes, &err) == 0, "%s", err.text);
	for (unsigned i = 0; i < 5; i++)
		ck_assert_int_eq(nodes[i], want[i]);
	remove_tree();
}
END_TEST

START_TEST(no_tree)
{
	int nodes[1];
	struct err err = {0};

	ck_assert_int_eq(gpu_nodes("/nowhere", NULL, 1, nodes, &err), ERR_UNAVAILABLE);
	ck_assert_msg(strstr(err.text, "/nowhere/sys/bus/pci/devices"), "%s", err.text);
	plant_tree(NULL, 0, 0);
	ck_assert_int_eq(gpu_nodes(root, NULL, 0, nodes, &err), 0);
	remove_tree();
}
END_TEST

/* ---- what the agent makes of it, on two nodes with eight cores of two threads each ---- */

static const struct {
	bool cuda;
	const char *visible, *order;
	unsigned world;
	const char *cores[8];
} places[] = {
	{true, NULL, NULL, 8, {"0-3", "4-7", "8-11", "12-15", "16-19", "20-23", "24-27", "28-31"}},
	{true, "7,0,4", "PCI_BUS_ID", 3, {"16-23", "0-15", "24-31"}},
	{true, "5,6", NULL, 2, {"16-23", "24-31"}},
	{true, NULL, NULL, 1, {"0-15"}},
	/* Not known, or no matter: as on the cpu device. */
	{false, NULL, NULL, 1, {"0-31"}},
	{true, "GPU-8932f937", NULL, 1, {"0-31"}},
	{true, "5,6", "FASTEST_FIRST", 2, {"0-15", "16-31"}},
};

static void set_or_not(const char *name, const char *value)
{
	ck_assert_int_eq(value ? setenv(name, value, 1) : unsetenv(name), 0);
}

static void check_places(const struct agent *a, const char *const *cores)
{
	for (unsigned i = 0; i < a->launch.job.world; i++)
		ck_assert_str_eq(a->children[i].cores, cores[i]);
}

START_TEST(workers_are_placed)
{
	struct agent_child children[9] = {0};
	struct agent a = {.children = children,
			  .launch = {.cuda = places[_i].cuda, .job = {.world = places[_i].world}}};
	struct err err = {0};

	link_out_init(&a.out, -1);
	set_or_not("DSRUN_TOPOLOGY", "numa:2 core:8 pu:2");
	set_or_not("CUDA_VISIBLE_DEVICES", places[_i].visible);
	set_or_not("CUDA_DEVICE_ORDER", places[_i].order);
	plant_tree(server, COUNT(server), 8);
	ck_assert_int_eq(topo_open(&a.topo, &err), 0);
	ck_assert_msg(agent_place(&a, root, &err) == 0, "%s", err.text);
	check_places(&a, places[_i].cores);
	topo_free(a.topo);
	link_out_done(&a.out);
	remove_tree();
}
END_TEST

/* One GPU without a node: all workers share all cores, and nobody is told. */
START_TEST(one_without_a_node)
{
	static const struct function two[] = {
		{"0000:01:00.0", "0x10de", "0x030200", "nvidia", "1"},
		{"0000:02:00.0", "0x10de", "0x030200", "nvidia", "-1"},
	};
	static const char *const halves[] = {"0-15", "16-31"};
	struct agent_child children[3] = {0};
	struct agent a = {.children = children, .launch = {.cuda = true, .job = {.world = 2}}};
	struct err err = {0};

	link_out_init(&a.out, -1);
	set_or_not("DSRUN_TOPOLOGY", "numa:2 core:8 pu:2");
	set_or_not("CUDA_VISIBLE_DEVICES", NULL);
	set_or_not("CUDA_DEVICE_ORDER", NULL);
	plant_tree(two, 2, 2);
	ck_assert_int_eq(topo_open(&a.topo, &err), 0);
	ck_assert_int_eq(agent_place(&a, root, &err), 0);
	check_places(&a, halves);
	ck_assert_uint_eq(link_pending(&a.out), 0);
	topo_free(a.topo);
	link_out_done(&a.out);
	remove_tree();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("gpu_nodes");
	TCase *tc = tcase_create("gpu_nodes");

	tcase_add_loop_test(tc, a_server, 0, COUNT(views));
	tcase_add_test(tc, fewer_files_than_gpus);
	tcase_add_test(tc, odd_devices);
	tcase_add_test(tc, no_tree);
	tcase_add_loop_test(tc, workers_are_placed, 0, COUNT(places));
	tcase_add_test(tc, one_without_a_node);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
