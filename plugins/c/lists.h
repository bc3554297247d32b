/* The lists that .extents and .list_exports fill. */

#ifndef NBDFORK_LISTS_H
#define NBDFORK_LISTS_H

#include <stddef.h>
#include <stdint.h>

#include "api.h"

struct nbdkit_extents {
  struct nbdkit_extent *items;
  size_t count, room;
  uint64_t start, end; /* the range that was asked for */
};

struct export {
  char *name; /* NULL: the default export */
  char *description;
};

struct nbdkit_exports {
  struct export *items;
  size_t count, room;
};

/* Free what a list has; the list itself may be on the stack. */
PRIVATE void clear_extents (struct nbdkit_extents *extents);
PRIVATE void clear_exports (struct nbdkit_exports *exports);

#endif
