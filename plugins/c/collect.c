/* What plugins hand over to be kept: strings, and what .extents and .list_exports fill. */

#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

/* How many exports a client is shown at most, and how long a name may be: nbdkit's limits, the
 * second of which is the protocol's ("Values", string).
 */
#define MAX_EXPORTS 10000
#define MAX_STRING 4096

/* No client gets more at once: MOST_EXTENTS in nbdfork/plugin/extents.py. */
#define MAX_EXTENTS 65536

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

/* Extents follow each other without a gap.  What lies outside of the range that was asked for is
 * cut off, and neighbours of one type are merged.
 */
API int
nbdkit_add_extent (struct nbdkit_extents *extents, uint64_t offset, uint64_t length, uint32_t type)
{
  type &= NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO; /* clients are told of no more */
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
    return 0; /* all is said, or nothing yet */
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
    extents->end = expected; /* nobody gets more; the rest is ignored */
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

/* Plugins of nbdkit's own contain a helper that refers to this, though none calls it: only the
 * server makes such lists, and it frees them.
 */
API void nbdkit_exports_free (struct nbdkit_exports *exports);

API void
nbdkit_exports_free (struct nbdkit_exports *exports)
{
  (void) exports;
}

/* -- strings ----------------------------------------------------------------------------- */

static pthread_mutex_t texts_lock = PTHREAD_MUTEX_INITIALIZER;
static struct text *texts; /* of no client: kept for ever */

API const char *
nbdkit_strndup_intern (const char *text, size_t most)
{
  if (text == NULL) {
    nbdkit_error ("nbdkit_strndup_intern: there is no string");
    errno = EINVAL;
    return NULL;
  }
  size_t length = strnlen (text, most);
  struct text *new = malloc (sizeof *new + length + 1);
  if (new == NULL) {
    nbdkit_error ("nbdkit_strndup_intern: no memory");
    return NULL;
  }
  memcpy (new->bytes, text, length);
  new->bytes[length] = '\0';
  struct text **list = current.client ? &current.client->interned : &texts;
  pthread_mutex_lock (&texts_lock);
  new->next = *list;
  *list = new;
  pthread_mutex_unlock (&texts_lock);
  return new->bytes;
}

API const char *
nbdkit_strdup_intern (const char *text)
{
  return nbdkit_strndup_intern (text, SIZE_MAX);
}

API const char *
nbdkit_vprintf_intern (const char *format, va_list args)
{
  char *text;
  if (vasprintf (&text, format, args) == -1) {
    nbdkit_error ("nbdkit_vprintf_intern: no memory");
    return NULL;
  }
  const char *kept = nbdkit_strdup_intern (text);
  free (text);
  return kept;
}

API const char *
nbdkit_printf_intern (const char *format, ...)
{
  va_list args;
  va_start (args, format);
  const char *kept = nbdkit_vprintf_intern (format, args);
  va_end (args);
  return kept;
}

PRIVATE void
free_texts (struct text *first)
{
  while (first != NULL) {
    struct text *next = first->next;
    free (first);
    first = next;
  }
}
