/* The last words of a process that a plugin takes down. */

#ifndef NBDFORK_CRASH_H
#define NBDFORK_CRASH_H

#include <stdbool.h>

#include "api.h"

/* The most bytes of joined messages that a report has room for. */
#define MAX_MESSAGES 4096

/* From now on report crashes and exits to FD, in a line that begins with PREFIX.  A process that
 * is not SERVING yet may be ended by a plugin, without a report unless there are messages.
 * Return -1, with errno set, if that cannot be installed.
 */
PRIVATE int report_crashes (int fd, const char *prefix, bool serving);

/* Give this thread a stack on which to report that its own has overflowed.  Do it once. */
PRIVATE void give_stack (void);

/* Log a message where there is no Python: write it to the descriptor for reports. */
PRIVATE void write_message (const char *message);

#endif
