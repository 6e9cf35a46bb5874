/*
 * dsoffloadd: the offload daemon of a host. See dsoffloadd(8).
 *
 * Threads:
 *	main	  server.c: connections, quotas, signals
 *	session	  session.c, pipeline.c: one per worker, drives its rings and its swap store
 *	adam-N	  pool.c, compute.c: the CPU optimizer, shared by all sessions in turn
 *
 * This file reads the command line and the configuration, prepares the process and hands over to
 * server_run. It does not fork: systemd wants it so, and dsrun, which starts a private one with the
 * listening socket and the configuration passed as descriptors.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cpu.h"
#include "common/log.h"
#include "daemon/daemon_conf.h"
#include "daemon/notify.h"
#include "daemon/server.h"

static const char help[] =
	"usage: dsoffloadd [options]\n"
	"Keeps parameters, gradients and optimizer state of training jobs in this host's\n"
	"memory and on its disks, and steps them on its CPUs.\n"
	"\n"
	"  -c, --config FILE   configuration, default " DAEMON_CONF_PATH " if it is there\n"
	"  -n, --check-config  check the configuration and stop\n"
	"  -f, --foreground    log as text unless log.format says else (it never forks)\n"
	"  -V, --version       print the version and what is built in\n"
	"  -h, --help          print this\n"
	"\n"
	"SIGTERM and SIGHUP: take no new session, end with the last one; a second one, or\n"
	"SIGINT: end at once. See dsoffloadd(8) and dsoffload.conf(5).\n";

struct options {
	const char *config;
	bool check, foreground;
};

static void version_print(void)
{
	printf("dsoffloadd %s\n", DSRUN_VERSION);
	printf("protocol   %u\n", PROTOCOL_VERSION);
	printf("cpu        %s\n", cpu_isa_name(cpu_isa()));
	printf("systemd    %s\n", notify_built_in() ? "yes" : "no");
}

/* Returns 1 to go on, else the exit status is in *ret_status. */
static int options_parse(int argc, char **argv, struct options *ret, int *ret_status)
{
	static const struct option table[] = {
		{"config", required_argument, NULL, 'c'}, {"check-config", no_argument, NULL, 'n'},
		{"foreground", no_argument, NULL, 'f'},   {"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
	};
	int opt;

	*ret_status = 0;
	while ((opt = getopt_long(argc, argv, "c:nfVh", table, NULL)) != -1) {
		switch (opt) {
		case 'c':
			ret->config = optarg;
			break;
		case 'n':
			ret->check = true;
			break;
		case 'f':
			ret->foreground = true;
			break;
		case 'V':
			version_print();
			return 0;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			*ret_status = err_exit_status(ERR_USAGE);
			return 0;
		}
	}
	if (optind == argc)
		return 1;
	fprintf(stderr, "dsoffloadd: unexpected argument '%s'\n", argv[optind]);
	*ret_status = err_exit_status(ERR_USAGE);
	return 0;
}

/* Before any thread, so that all of them have these blocked: they come through a signalfd. */
static int signals_block(struct err *err)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || sigaction(SIGPIPE, &ignore, NULL) < 0)
		return err_sys(err, -errno, "signals");
	return 0;
}

/*
 * A session takes a dozen descriptors or more; the usual soft limit would bound them, not
 * session.max.
 */
static void descriptors_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_warn("daemon", "limit of open files: %s, ignoring", err_str(-errno));
}

static const char *config_path(const struct options *o)
{
	struct stat st;

	if (o->config)
		return o->config;
	/* One that is there and cannot be read is an error, which loading it tells. */
	return stat(DAEMON_CONF_PATH, &st) == 0 || errno != ENOENT ? DAEMON_CONF_PATH : NULL;
}

/* --foreground decides what the configuration leaves open. */
static enum log_format format_choose(const struct options *o, enum log_format format)
{
	return o->foreground && format == LOG_FORMAT_AUTO ? LOG_FORMAT_TEXT : format;
}

static int serve(const struct options *o, const struct daemon_conf *conf, struct err *err)
{
	struct listener listener = {.fd = -1};
	enum log_format format = (enum log_format)conf->log.format;
	int rc;

	log_init("dsoffloadd", (enum log_level)conf->log.level, format_choose(o, format));
	rc = signals_block(err);
	if (rc < 0)
		return rc;
	descriptors_raise();
	rc = listener_open(conf->socket, &listener, err);
	if (rc < 0)
		return rc;
	rc = server_run(conf, &listener, err);
	listener_close(&listener);
	return rc;
}

int main(int argc, char **argv)
{
	struct options options = {.config = NULL};
	struct daemon_conf conf;
	struct conf_doc *doc = NULL;
	struct err err = {.code = 0};
	int rc, status;

	if (!options_parse(argc, argv, &options, &status))
		return fflush(stdout) == 0 ? status : err_exit_status(ERR_IO);
	log_init("dsoffloadd", LOG_LEVEL_INFO, format_choose(&options, LOG_FORMAT_AUTO));
	rc = daemon_conf_load(config_path(&options), &conf, &doc, &err);
	if (rc == 0 && !options.check)
		rc = serve(&options, &conf, &err);
	if (rc < 0)
		log_error("daemon", "%s", err.text);
	conf_free(doc);
	return err_exit_status(rc);
}
