/* Strings that are kept for a plugin, until its client has gone: nbdkit_strdup_intern and its like.
 *
 * Outside of a client's callbacks they are kept for as long as the process lives.
 */

#ifndef NBDFORK_STRINGS_H
#define NBDFORK_STRINGS_H

#include "current.h"

/* Free the strings of a client. */
PRIVATE void free_texts (struct client *client);

#endif
