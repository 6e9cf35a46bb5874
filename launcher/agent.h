/* The agent: what `dsrun agent` runs, one on each host of a job. See agent.c. */
#ifndef LAUNCHER_AGENT_H
#define LAUNCHER_AGENT_H

/* Serves the link on standard input and output until all is over. Returns the exit status. */
int agent_main(void);

#endif
