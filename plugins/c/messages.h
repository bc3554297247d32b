/* Messages of plugins: nbdkit_error, nbdkit_debug, and what they show.
 *
 * An error message belongs to the callback that gives it, and is held until that is over: it is the
 * reason for the failure if the callback fails, and is logged if it does not.
 */

#ifndef NBDFORK_MESSAGES_H
#define NBDFORK_MESSAGES_H

#include "api.h"

/* The callback has not failed: log the messages that are held for it.  Needs the GIL. */
PRIVATE void log_held_messages (void);

/* The callback has failed: return the messages that are held for it, to be freed, or NULL.  If
 * there are too many to hold, it is the first one, and all are in the log.  Needs the GIL.
 */
PRIVATE char *take_held_messages (void);

#endif
