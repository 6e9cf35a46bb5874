/* Names for what a recording device sees of an engine. */
#ifndef TESTS_RECORD_NAMES_H
#define TESTS_RECORD_NAMES_H

#include "offload/engine.h"

/* Names the engine's events and the parts of its arena in the log of the device it runs on, which
 * must be a recording one that this thread drives. */
void record_names(struct engine *engine);

#endif
