/* Words and numbers for how a job ended. Pure functions. */
#include "launcher/outcome.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "common/json.h"
#include "common/units.h"

const char *outcome_signal_name(int sig, char text[32])
{
	const char *name = sigabbrev_np(sig);

	if (name)
		snprintf(text, 32, "SIG%s", name);
	else
		snprintf(text, 32, "signal %d", sig);
	return text;
}

void outcome_describe_end(const struct link_exited *exited, char *text, size_t bytes)
{
	char name[32];

	if (exited->how == CLD_EXITED)
		snprintf(text, bytes, "exited with status %d", exited->status);
	else
		snprintf(text, bytes, "killed by %s%s", outcome_signal_name(exited->status, name),
			 exited->how == CLD_DUMPED ? ", core dumped" : "");
}

int outcome_end_status(const struct link_exited *exited)
{
	return exited->how == CLD_EXITED ? exited->status : 128 + exited->status;
}

static int failure_status(const struct outcome *o)
{
	if (o->code)
		return err_exit_status(o->code);
	/* One that said it failed and then had to be killed, or returned 0: our bug somewhere. A
	 * daemon has no reason to end at all. */
	if (o->exited.pid == 0 || o->exited.ours == LINK_OURS_KILL)
		return err_exit_status(ERR_INTERNAL);
	int status = outcome_end_status(&o->exited);
	if (status == 0)
		return err_exit_status(o->who == OUTCOME_DAEMON ? ERR_UNAVAILABLE : ERR_INTERNAL);
	return status;
}

int outcome_exit_status(const struct outcome *outcome)
{
	switch (outcome->status) {
	case OUTCOME_OK:
		return 0;
	case OUTCOME_STOPPED:
		return 128 + outcome->stop_signal;
	case OUTCOME_FAILED:
		return failure_status(outcome);
	}
	return err_exit_status(ERR_INTERNAL);
}

static void print_who(FILE *f, const struct outcome *o)
{
	switch (o->who) {
	case OUTCOME_WORKER:
		fprintf(f, "rank %u", o->rank);
		break;
	case OUTCOME_DAEMON:
		fprintf(f, "dsoffloadd");
		break;
	case OUTCOME_AGENT:
		fprintf(f, "the agent");
		break;
	case OUTCOME_LAUNCHER:
		break; /* its name is there already */
	}
}

static void print_what(FILE *f, const struct outcome *o)
{
	char end[64];

	if (o->code || o->exited.pid == 0) {
		fprintf(f, "%s%s\n", o->who == OUTCOME_LAUNCHER ? "" : " failed: ",
			o->text[0] ? o->text : err_str(o->code));
		return;
	}
	outcome_describe_end(&o->exited, end, sizeof(end));
	if (o->exited.ours == LINK_OURS_KILL)
		fprintf(f, " failed, did not end by itself and was killed\n");
	else
		fprintf(f, " failed: %s\n", end);
}

static void print_where(FILE *f, const struct outcome *o)
{
	char after[UNITS_TEXT_BYTES];

	if (o->exited.pid == 0)
		return;
	fprintf(f, "  where   %s, pid %u%s%s\n", o->host, o->exited.pid,
		o->cores[0] ? ", cores " : "", o->cores);
	fprintf(f, "  after   %s\n",
		units_format_duration(after, o->exited.at_ns - o->exited.started_ns));
}

static void print_why(FILE *f, const struct outcome *o)
{
	bool killed = o->exited.pid != 0 && o->exited.how == CLD_KILLED &&
		      o->exited.status == SIGKILL && o->exited.ours == LINK_OURS_NOTHING;

	if (o->exited.oom)
		fprintf(f, "  why     the kernel killed it for lack of memory\n");
	else if (killed)
		fprintf(f, "  why     SIGKILL comes from outside, or from the kernel for lack of "
			   "memory: see dmesg\n");
	if (o->who == OUTCOME_AGENT && o->exited.pid)
		fprintf(f, "  then    everything that it had started was killed\n");
	if (o->text[0] && !o->code) {
		fprintf(f, "  why     %s\n", o->text);
		return;
	}
	for (size_t i = 0; tail_line(&o->tail, i); i++)
		fprintf(f, "  %s %s\n", i == 0 ? "stderr " : "       ", tail_line(&o->tail, i));
}

static void print_then(FILE *f, const struct outcome *o)
{
	char grace[UNITS_TEXT_BYTES];

	if (o->terminated + o->killed > 0) {
		fprintf(f, "  then    ");
		if (o->terminated > 0)
			fprintf(f, "%u other rank%s ended after SIGTERM", o->terminated,
				o->terminated == 1 ? "" : "s");
		if (o->killed > 0)
			fprintf(f, "%s%u by SIGKILL after %s", o->terminated ? ", " : "", o->killed,
				units_format_duration(grace, o->grace_ns));
		fprintf(f, "\n");
	}
	if (o->left > 0)
		fprintf(f, "  left    %u processes that do not die of SIGKILL\n", o->left);
	if (o->who != OUTCOME_LAUNCHER)
		fprintf(f, "  status  %d\n", o->exit_status);
}

char *outcome_report(const struct outcome *o)
{
	char *text = NULL, name[32];
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	fprintf(f, "dsrun: ");
	if (o->status == OUTCOME_STOPPED) {
		fprintf(f, "stopped by %s%s\n",
			o->stop_signal == SIGPIPE ? "the end of whoever read its output"
						  : outcome_signal_name(o->stop_signal, name),
			o->stop_clean ? ""
				      : "; ranks had to be killed, what was not in a checkpoint is "
					"lost");
	} else if (o->status == OUTCOME_FAILED) {
		print_who(f, o);
		print_what(f, o);
		print_where(f, o);
		print_why(f, o);
		print_then(f, o);
	}
	bool broken = ferror(f) != 0;
	if (fclose(f) != 0 || broken) {
		free(text);
		return NULL;
	}
	return text;
}

void outcome_json(const struct outcome *o, struct json *j)
{
	static const char *const who[] = {"worker", "daemon", "agent", "launcher"};
	char name[32];

	json_string(j, "process", who[o->who]);
	if (o->who == OUTCOME_WORKER)
		json_u64(j, "rank", o->rank);
	if (o->host[0])
		json_string(j, "host", o->host);
	if (o->exited.pid) {
		json_u64(j, "pid", o->exited.pid);
		if (o->exited.how == CLD_EXITED) {
			json_i64(j, "exit_code", o->exited.status);
		} else {
			json_string(j, "signal", outcome_signal_name(o->exited.status, name));
			json_bool(j, "core_dumped", o->exited.how == CLD_DUMPED);
		}
		json_bool(j, "out_of_memory", o->exited.oom != 0);
		json_double(j, "uptime_seconds",
			    (double)(o->exited.at_ns - o->exited.started_ns) / 1e9);
	}
	json_string(j, "text", o->text);
	json_array_begin(j, "stderr");
	for (size_t i = 0; tail_line(&o->tail, i); i++)
		json_string(j, NULL, tail_line(&o->tail, i));
	json_array_end(j);
	json_u64(j, "others_terminated", o->terminated);
	json_u64(j, "others_killed", o->killed);
}
