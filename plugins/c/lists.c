/* The lists that .extents and .list_exports fill: see lists.h. */

#define _GNU_SOURCE
#include "lists.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* How many exports a client is shown at most, and how long a name may be: nbdkit's limits, the
 * second of which is the protocol's ("Values", string).
 */
#define MAX_EXPORTS 10000
#define MAX_STRING 4096

/* The server looks at no more for one reply: MOST_EXTENTS in nbdfork/backend/extents.py. */
#define MAX_EXTENTS 4096

/* -- lists ------------------------------------------------------------------------------- */

/* Make room for one more item.  Return -1 if there is no memory. */
static int
reserve (void **items, size_t *room, size_t count, size_t size)
{
  if (count < *room)
    return 0;
  size_t more = *room ? *room * 2 : 64;
  void *grown = reallocarray (*items, more, size);
  if (grown == NULL) {
    nbdkit_error ("no memory for %zu items of a list", more);
    return -1;
  }
  *items = grown;
  *room = more;
  return 0;
}

/* -- extents ----------------------------------------------------------------------------- */

/* Extents must follow each other without a gap.  What lies outside of the range that was asked for
 * is cut off, and neighbours of one type are merged.
 */
API int
nbdkit_add_extent (struct nbdkit_extents *extents, uint64_t offset, uint64_t length, uint32_t type)
{
  type &= NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO; /* clients know no other bits */
  if (length == 0)
    return 0;
  if (length > UINT64_MAX - offset) {
    nbdkit_error ("nbdkit_add_extent: the extent at %" PRIu64 " is too long: %" PRIu64 " bytes",
                  offset, length);
    errno = ERANGE;
    return -1;
  }
  struct nbdkit_extent *last = extents->count ? &extents->items[extents->count - 1] : NULL;
  uint64_t end = offset + length;
  uint64_t expected = last ? last->offset + last->length : extents->start;
  if (expected >= extents->end || end <= extents->start)
    return 0; /* it is behind the range, or before it */
  if (last ? offset != expected : offset > expected) {
    nbdkit_error ("nbdkit_add_extent: an extent at %" PRIu64 " is expected, and not at %" PRIu64,
                  expected, offset);
    errno = EINVAL;
    return -1;
  }
  if (end > extents->end)
    end = extents->end;
  if (last && last->type == type) {
    last->length += end - expected;
    return 0;
  }
  if (extents->count == MAX_EXTENTS) {
    extents->end = expected; /* ignore the rest */
    return 0;
  }
  if (reserve ((void **) &extents->items, &extents->room, extents->count, sizeof *last) == -1)
    return -1;
  extents->items[extents->count++] = (struct nbdkit_extent){ expected, end - expected, type };
  return 0;
}

PRIVATE void
clear_extents (struct nbdkit_extents *extents)
{
  free (extents->items);
  memset (extents, 0, sizeof *extents);
}

/* A list of the plugin's own, of the range from START to END. */
API struct nbdkit_extents *
nbdkit_extents_new (uint64_t start, uint64_t end)
{
  if (start > end || end > INT64_MAX) {
    nbdkit_error ("nbdkit_extents_new: there is no range from %" PRIu64 " to %" PRIu64, start, end);
    errno = ERANGE;
    return NULL;
  }
  struct nbdkit_extents *extents = calloc (1, sizeof *extents);
  if (extents == NULL) {
    nbdkit_error ("nbdkit_extents_new: no memory");
    return NULL;
  }
  extents->start = start;
  extents->end = end;
  return extents;
}

API void
nbdkit_extents_free (struct nbdkit_extents *extents)
{
  if (extents != NULL)
    clear_extents (extents);
  free (extents);
}

API size_t
nbdkit_extents_count (const struct nbdkit_extents *extents)
{
  return extents->count;
}

API struct nbdkit_extent
nbdkit_get_extent (const struct nbdkit_extents *extents, size_t index)
{
  if (index >= extents->count) {
    nbdkit_error ("nbdkit_get_extent: there are %zu extents, and none with the index %zu",
                  extents->count, index);
    abort ();
  }
  return extents->items[index];
}

/* -- exports ----------------------------------------------------------------------------- */

static int
add_export (struct nbdkit_exports *exports, const char *name, const char *description)
{
  if (exports->count == MAX_EXPORTS) {
    nbdkit_error ("nbdkit_add_export: more than %d exports", MAX_EXPORTS);
    errno = EINVAL;
    return -1;
  }
  if ((name && strlen (name) > MAX_STRING) || (description && strlen (description) > MAX_STRING)) {
    nbdkit_error ("nbdkit_add_export: a name or description of more than %d bytes", MAX_STRING);
    errno = EINVAL;
    return -1;
  }
  if (reserve ((void **) &exports->items, &exports->room, exports->count, sizeof *exports->items))
    return -1;
  struct export *new = &exports->items[exports->count];
  new->name = name ? strdup (name) : NULL;
  new->description = description ? strdup (description) : NULL;
  if ((name && !new->name) || (description && !new->description)) {
    nbdkit_error ("nbdkit_add_export: no memory");
    free (new->name);
    free (new->description);
    return -1;
  }
  exports->count++;
  return 0;
}

API int
nbdkit_add_export (struct nbdkit_exports *exports, const char *name, const char *description)
{
  return add_export (exports, name, description);
}

API int
nbdkit_use_default_export (struct nbdkit_exports *exports)
{
  return add_export (exports, NULL, NULL);
}

PRIVATE void
clear_exports (struct nbdkit_exports *exports)
{
  for (size_t i = 0; i < exports->count; i++) {
    free (exports->items[i].name);
    free (exports->items[i].description);
  }
  free (exports->items);
  memset (exports, 0, sizeof *exports);
}

/* The server makes these lists and frees them.  Plugins of nbdkit's own refer to this function
 * nevertheless, in a helper that none of them calls.
 */
API void nbdkit_exports_free (struct nbdkit_exports *exports);

API void
nbdkit_exports_free (struct nbdkit_exports *exports)
{
  (void) exports;
}
