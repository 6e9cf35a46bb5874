/*
 * Measures what swap directories can give, and chooses engine, extent and queue depth by it. The
 * caller's thread does all of it, as a session's thread would: one thread, checksums included,
 * through the engines of the store. Files are unnamed: however the process ends, nothing stays.
 */
#ifndef NVME_MEASURE_H
#define NVME_MEASURE_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "nvme/figures.h"
#include "nvme/nvme.h"

#define NVME_CELLS_MAX          64u
#define NVME_SAMPLES_MAX        63u
#define NVME_MEASURE_BYTES_MIN  (64u << 20)
#define NVME_MEASURE_BYTES_UNIT (16u << 20) /* file_bytes is a multiple of it */

/* A way to drive the directories, and how fast a mix of reads and writes went by it. */
struct nvme_cell {
	enum nvme_engine engine;
	uint32_t extent;
	unsigned depth; /* of each directory */
	double mixed;   /* bytes a second, the median of its samples; 0: not measured */
	unsigned count; /* samples */
	double samples[NVME_SAMPLES_MAX];
};

struct nvme_measured {
	struct nvme_figures figures; /* but for steps, which are none of nvme's */
	struct nvme_cell cells[NVME_CELLS_MAX];
	size_t cell_count;
	size_t chosen;          /* of cells */
	uint64_t written_bytes; /* by measuring */
	struct err missing;     /* code 0, or why an engine is not among the cells */
};

struct nvme_measure_config {
	const char *const *paths; /* directories, each once; borrowed for the call */
	size_t path_count;        /* 1..NVME_PATHS_MAX */
	uint64_t file_bytes;      /* in each: a multiple of _UNIT, at least _MIN */
	double seconds;           /* what it may take */
	/* Called now and then with what is being done and how much of the time has passed, 0..1;
	 * NULL: nobody looks. */
	void (*progress)(void *context, const char *what, double part);
	void *context;
};

/*
 * Takes config->seconds, and a little more where a disk is slow. Errors as those of
 * nvme_store_open; also ERR_CONFIG for a directory whose transfers would go through the page
 * cache, of which figures would say nothing, and ERR_IO when a transfer fails.
 */
int nvme_measure(const struct nvme_measure_config *config, struct nvme_measured *ret,
		 struct err *err);

/*
 * The choice among measured cells. The best is the highest `mixed` of those at least
 * NVME_DEPTH_LEAST deep. Chosen is, of those within NVME_CHOICE_SLACK of the best, io_uring before
 * libaio, then the one with the fewest bytes in flight (extent times depth, which buffers pay
 * for), then with the longest extent (fewer requests for the same bytes). `count` is at least 1
 * and one cell was measured; returns an index.
 */
size_t nvme_cell_choose(const struct nvme_cell *cells, size_t count);

#define NVME_CHOICE_SLACK 0.03
/* A chunk is up to three transfers, and one is read while another is written: with less in flight
 * the optimizer's pipeline would wait for itself. */
#define NVME_DEPTH_LEAST 4u

#endif
