/* Strings that are kept for a plugin: see strings.h. */

#define _GNU_SOURCE
#include "strings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
  struct text *next;
  char bytes[];
};

static struct text *_Atomic texts; /* of no client: never freed */

/* Several threads may serve one client.  A lock might be held, for ever, at a fork. */
static void
keep (struct text *new)
{
  struct text *_Atomic *list = current.client ? &current.client->interned : &texts;
  struct text *first = atomic_load (list);
  do
    new->next = first;
  while (!atomic_compare_exchange_weak (list, &first, new));
}

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
  keep (new);
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
free_texts (struct client *client)
{
  struct text *next;
  for (struct text *text = atomic_exchange (&client->interned, NULL); text != NULL; text = next) {
    next = text->next;
    free (text);
  }
}
