/* The callbacks of a plugin by their names, sorted by what they take and return. */

#ifndef NBDFORK_SLOTS_H
#define NBDFORK_SLOTS_H

#include "plugin.h"

typedef int (*Question) (void *handle); /* a fact about a client's disk; -1: failure */
typedef int (*Step) (void);             /* of the server's life; negative: failure */
typedef void (*Notice) (void);          /* of the server's life; cannot fail */

struct slot {
  const char *name;
  size_t offset; /* in struct nbdkit_plugin */
};

extern PRIVATE const struct slot questions[], steps[], notices[];

/* Return the slot NAME, a str, of TABLE.  If there is none, raise KeyError and return NULL. */
PRIVATE const struct slot *find_slot (const struct slot *table, PyObject *name);

/* Return what is in a slot, to be cast to what its table is for; NULL: the plugin has none. */
PRIVATE Notice function_in (const struct plugin *plugin, const struct slot *slot);

/* Return the names of all callbacks that the plugin has, as a set. */
PRIVATE PyObject *callback_names (const struct plugin *plugin);

#endif
