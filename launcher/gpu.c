/*
 * GPUs as sysfs shows them: the display controllers of NVIDIA's that its driver holds. Called by
 * the agent when it places the workers of a cuda job; it opens no CUDA device, which would cost a
 * context and seconds.
 *
 * 1. Ordinals are those of CUDA_DEVICE_ORDER=PCI_BUS_ID: devices by domain, bus, device, function.
 * 2. CUDA_VISIBLE_DEVICES picks from these, and ends at the first number that names none of them,
 *    as CUDA has it.
 * 3. What is read is checked: no file of sysfs is taken to be what it should.
 */
#include "launcher/gpu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GPUS_MAX     64u
#define NVIDIA       0x10deul
#define CLASS_VGA    0x0300ul /* upper 16 of 24 bits: display controller, VGA */
#define CLASS_3D     0x0302ul
#define DRIVER       "nvidia"
#define NUMBER_BYTES 32

struct gpu {
	unsigned long place; /* domain, bus, device, function */
	int node;
};

struct gpus {
	struct gpu at[GPUS_MAX];
	unsigned count;
};

/* The number in one of a device's files; false when there is none. */
static bool read_number(const char *dir, const char *name, int base, long *ret)
{
	char path[PATH_MAX], text[NUMBER_BYTES], *end;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return false;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return false;
	text[got] = '\0';
	errno = 0;
	*ret = strtol(text, &end, base);
	return errno == 0 && end != text && (*end == '\n' || *end == '\0');
}

static bool has_driver(const char *dir)
{
	char path[PATH_MAX], target[PATH_MAX];
	const char *slash;

	if (snprintf(path, sizeof(path), "%s/driver", dir) >= (int)sizeof(path))
		return false;
	ssize_t len = readlink(path, target, sizeof(target) - 1);
	if (len < 0)
		return false;
	target[len] = '\0';
	slash = strrchr(target, '/');
	return strcmp(slash ? slash + 1 : target, DRIVER) == 0;
}

static bool is_gpu(const char *dir)
{
	long vendor, class;

	return read_number(dir, "vendor", 16, &vendor) && (unsigned long)vendor == NVIDIA &&
	       read_number(dir, "class", 16, &class) &&
	       ((unsigned long)class >> 8 == CLASS_VGA || (unsigned long)class >> 8 == CLASS_3D) &&
	       has_driver(dir);
}

/* "0000:3b:00.0" as a number that sorts; false for another name. */
static bool place_of(const char *name, unsigned long *ret)
{
	unsigned domain, bus, device, function;
	int used = 0;

	if (sscanf(name, "%x:%2x:%2x.%1x%n", &domain, &bus, &device, &function, &used) != 4 ||
	    name[used])
		return false;
	*ret = (unsigned long)domain << 16 | bus << 8 | device << 3 | function;
	return true;
}

static int by_place(const void *a, const void *b)
{
	const struct gpu *x = a, *y = b;

	return x->place < y->place ? -1 : x->place > y->place;
}

static int find_gpus(const char *root, struct gpus *ret, struct err *err)
{
	char pci[PATH_MAX], dir[PATH_MAX];
	struct dirent *entry;
	unsigned long place;
	long node;

	snprintf(pci, sizeof(pci), "%s/sys/bus/pci/devices", root);
	DIR *devices = opendir(pci);
	if (!devices)
		return err_set(err, ERR_UNAVAILABLE, "%s: %s", pci, err_str(-errno));
	while ((entry = readdir(devices)) != NULL && ret->count < GPUS_MAX) {
		if (!place_of(entry->d_name, &place) ||
		    snprintf(dir, sizeof(dir), "%s/%s", pci, entry->d_name) >= (int)sizeof(dir) ||
		    !is_gpu(dir))
			continue;
		if (!read_number(dir, "numa_node", 10, &node) || node < 0 || node > INT_MAX)
			node = -1;
		ret->at[ret->count++] = (struct gpu){place, (int)node};
	}
	closedir(devices);
	qsort(ret->at, ret->count, sizeof(ret->at[0]), by_place);
	return 0;
}

/* How many GPUs have a device file: nvidia0, nvidia1, ... */
static unsigned count_files(const char *root)
{
	char path[PATH_MAX];
	struct dirent *entry;
	unsigned count = 0;

	snprintf(path, sizeof(path), "%s/dev", root);
	DIR *dev = opendir(path);
	while (dev && (entry = readdir(dev)) != NULL)
		if (strncmp(entry->d_name, "nvidia", 6) == 0 && entry->d_name[6] &&
		    entry->d_name[6 + strspn(entry->d_name + 6, "0123456789")] == '\0')
			count++;
	if (dev)
		closedir(dev);
	return count;
}

/* The ordinals of a list; *ret_count is how many a program would see. */
static int parse_visible(const char *visible, unsigned gpus, unsigned ret[GPUS_MAX],
			 unsigned *ret_count, struct err *err)
{
	unsigned count = 0;
	const char *at = visible;

	while (at && *at) {
		char *end;
		long ordinal = strtol(at, &end, 10);

		if (end == at || (*end != ',' && *end != '\0'))
			return err_set(err, ERR_UNAVAILABLE,
				       "CUDA_VISIBLE_DEVICES is '%s', not a list of ordinals",
				       visible);
		if (ordinal < 0 || ordinal >= (long)gpus || count == GPUS_MAX)
			break;
		ret[count++] = (unsigned)ordinal;
		at = *end ? end + 1 : end;
	}
	for (unsigned i = 0; !visible && i < gpus; i++)
		ret[count++] = i;
	*ret_count = count;
	return 0;
}

int gpu_nodes(const char *root, const char *visible, unsigned count, int *ret_nodes,
	      struct err *err)
{
	unsigned ordinals[GPUS_MAX], seen = 0, files;
	struct gpus gpus = {.count = 0};
	int rc = find_gpus(root, &gpus, err);

	if (rc == 0)
		rc = parse_visible(visible, gpus.count, ordinals, &seen, err);
	if (rc < 0)
		return rc;
	files = count_files(root);
	if (files != gpus.count)
		return err_set(err, ERR_UNAVAILABLE, "/sys shows %u GPUs and /dev %u", gpus.count,
			       files);
	if (count > seen)
		return err_set(err, ERR_UNAVAILABLE, "%u GPUs are to be seen, %u are wanted", seen,
			       count);
	for (unsigned i = 0; i < count; i++)
		ret_nodes[i] = gpus.at[ordinals[i]].node;
	return 0;
}
