/*
 * dsworker: one rank of a training job. Started by dsrun's agent with a job on descriptor 3, the
 * ranks' shared segment on 4, the report pipe on 5 and news of other ranks on 6 (offload/job.h);
 * run.c tells the rest.
 *
 * Exit status: 0 when the schedule is done or a user asked to stop; else that of the error, as
 * dsrun(1) lists them.
 */
#include <stdlib.h>
#include <unistd.h>

#include "common/log.h"
#include "worker/internal.h"
#include "worker/safetensors.h"

static int read_unit(void *ctx, size_t unit, const void **ret, struct err *err)
{
	return engine_read_unit(ctx, unit, ret, err);
}

/* Rank 0 writes; the others take part in gathering. */
static int export(struct run *run, struct err *err)
{
	const char *path = run->job.export_path;
	double start = run_now();
	int rc = 0;

	if (!path)
		return 0;
	if (run->rank == 0)
		rc = safetensors_write(path, run->arch, run->plan->param_type, read_unit,
				       run->engine, err);
	else
		for (size_t u = 0; !rc && u < run->arch->unit_count; u++)
			rc = engine_read_unit(run->engine, u, NULL, err);
	run->metrics.seconds[RUN_EXPORT] += run_now() - start;
	if (rc < 0)
		return err_add(err, "export");
	return run_note(run, err, "weights written to %s", path);
}

/* What is left to do when training is over; a run that was asked to stop stops. */
static int finish(struct run *run, char **ret_sample, struct err *err)
{
	/* What is traced ends with the last step, whose optimizer ends with the sync. */
	int rc = run->trace.recorder ? engine_sync(run->engine, err) : 0;

	if (!rc)
		rc = run_trace_finish(run, err);
	if (!rc && !run->stopping) {
		rc = export(run, err);
		if (!rc && run->job.generate)
			rc = generate(run, ret_sample, err);
	}
	run->metrics.sample = *ret_sample;
	if (!rc)
		rc = engine_sync(run->engine, err);
	return rc ? rc : metrics_finish(run, err);
}

int main(void)
{
	static struct run run;
	struct err err = {0}, ignored = {0};
	char *sample = NULL;
	int rc;

	log_init("dsworker", LOG_LEVEL_INFO, LOG_FORMAT_AUTO);
	rc = run_open(&run, &err);
	if (!rc && run.job.measure)
		rc = measure_run(&run, &err);
	else if (!rc)
		rc = loop_run(&run, &err);
	if (!rc && !run.job.measure)
		rc = finish(&run, &sample, &err);
	if (rc < 0) {
		log_error("worker", "%s", err.text);
		/* Without an agent on the other end the log has it. */
		report_write(run.report_fd, REPORT_FAILURE, err.text, &ignored);
		/* As far as it goes: the daemon may be what failed. */
		(void)run_trace_finish(&run, &ignored);
		/* Not exit: streams may be in the middle of work that waits for other ranks. */
		_exit(err_exit_status(rc));
	}
	run_close(&run);
	free(sample);
	return 0;
}
