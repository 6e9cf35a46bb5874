/*
 * Levelled log of a process, to stderr. One record is one write, so lines of several threads
 * never mix. Text for people, JSON lines for machines, records with fields for journald.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum log_format {
	LOG_FORMAT_AUTO, /* journal when stderr is the journal's ($JOURNAL_STREAM), else text */
	LOG_FORMAT_TEXT,
	LOG_FORMAT_JSON,
	LOG_FORMAT_JOURNAL,
};

/*
 * Once, before threads. `program` must outlive the process's last record. Before the first call
 * records go out as text at level info.
 */
void log_init(const char *program, enum log_level level, enum log_format format);

/* Adds a rank to every later record; -1 takes it away. */
void log_set_rank(int rank);

enum log_level log_get_level(void);

/* One record: `module` is the room, the text says "what failed: why". Any thread. */
void log_write(enum log_level level, const char *module, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(module, ...) log_write(LOG_LEVEL_ERROR, module, __VA_ARGS__)
#define log_warn(module, ...)  log_write(LOG_LEVEL_WARN, module, __VA_ARGS__)
#define log_info(module, ...)  log_write(LOG_LEVEL_INFO, module, __VA_ARGS__)
#define log_debug(module, ...) log_write(LOG_LEVEL_DEBUG, module, __VA_ARGS__)

#endif
