/* Messages of plugins: see messages.h.
 *
 * The functions of the API here may be called in any thread that does not hold the GIL.
 */

#define _GNU_SOURCE
#include "messages.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crash.h"
#include "current.h"
#include "upcalls.h"

/* -- errors ------------------------------------------------------------------------------ */

/* There is no room for more messages: log those that are held, and keep only the first of all. */
static void
spill_messages (void)
{
  char *messages = current.messages;
  current.messages = NULL;
  log_message (LEVEL_ERROR, messages);
  if (current.first == NULL) {
    messages[current.first_length] = '\0';
    current.first = messages;
  }
  else
    free (messages);
}

/* A crash can come at any moment, and shows what is held, so the pointer is always good. */
static void
hold_message (const char *text)
{
  char *held = current.messages, *joined;
  if (held != NULL && strlen (held) + strlen (text) > MAX_MESSAGES) {
    spill_messages ();
    held = NULL;
  }
  if (held == NULL) {
    current.first_length = strlen (text);
    current.messages = strdup (text);
  }
  else if (asprintf (&joined, "%s; %s", held, text) != -1) {
    current.messages = joined;
    atomic_signal_fence (memory_order_seq_cst);
    free (held);
  }
}

PRIVATE void
log_held_messages (void)
{
  char *messages = current.messages, *first = current.first;
  current.messages = current.first = NULL;
  if (messages != NULL)
    log_message_with_gil (LEVEL_ERROR, messages);
  free (messages);
  free (first);
}

PRIVATE char *
take_held_messages (void)
{
  char *first = current.first, *messages = current.messages;
  if (first == NULL) {
    current.messages = NULL;
    return messages;
  }
  current.first = NULL;
  log_held_messages (); /* where the others are */
  return first;
}

API void
nbdkit_verror (const char *format, va_list args)
{
  int saved = errno; /* plugins count on it */
  char *text = NULL;
  if (vasprintf (&text, format, args) == -1)
    text = NULL;
  const char *message = text ? text : format;
  if (current.callback == NULL || is_python_gone)
    log_message (LEVEL_ERROR, message);
  else
    hold_message (message);
  free (text);
  errno = saved;
}

API void
nbdkit_error (const char *format, ...)
{
  va_list args;
  va_start (args, format);
  nbdkit_verror (format, args);
  va_end (args);
}

API void
nbdkit_set_error (int error)
{
  current.error = error;
}

/* The result is valid until the next call in this thread.  As with nbdkit, it is "!" on failure. */
API const char *
nbdkit_timestamp (void)
{
  static __thread char text[64];
  struct timespec now;
  struct tm parts;
  size_t length = 0;
  if (clock_gettime (CLOCK_REALTIME, &now) == 0 && gmtime_r (&now.tv_sec, &parts) != NULL)
    length = strftime (text, sizeof text, "%F %T", &parts);
  if (length == 0)
    return "!";
  snprintf (text + length, sizeof text - length, ".%06ld", now.tv_nsec / 1000);
  return text;
}

/* -- debug messages ---------------------------------------------------------------------- */

API void
nbdkit_vdebug (const char *format, va_list args)
{
  if (!verbose || is_python_gone)
    return;
  int saved = errno;
  char *text;
  if (vasprintf (&text, format, args) != -1) {
    log_message (LEVEL_DEBUG, text);
    free (text);
  }
  errno = saved;
}

API void
nbdkit_debug (const char *format, ...)
{
  va_list args;
  va_start (args, format);
  nbdkit_vdebug (format, args);
  va_end (args);
}

/* -- dumps of memory, as debug messages -------------------------------------------------- */

#define PER_LINE 16

/* Log the bytes of one line, FIRST up to END of BYTES, each in the column of its offset; START is the
 * offset of BYTES[0].  Leave out those that are the same in OTHER, unless that is NULL.
 */
static void
dump_line (const char *prefix, const char *sign, const uint8_t *bytes, const uint8_t *other,
           uint64_t start, size_t first, size_t end)
{
  static const char digits[] = "0123456789abcdef";
  char hex[3 * PER_LINE + 1], text[PER_LINE + 1]; /* there is a gap in the middle */
  memset (hex, ' ', sizeof hex);
  memset (text, ' ', sizeof text);
  hex[sizeof hex - 1] = text[PER_LINE] = '\0';
  for (size_t i = first; i < end; i++) {
    size_t column = (size_t) ((start + i) % PER_LINE);
    if (other != NULL && bytes[i] == other[i])
      continue;
    char *digit = hex + 3 * column + (column >= PER_LINE / 2);
    digit[0] = digits[bytes[i] >> 4];
    digit[1] = digits[bytes[i] & 15];
    text[column] = bytes[i] < 128 && isprint (bytes[i]) ? (char) bytes[i] : '.';
  }
  uint64_t line = (start + first) / PER_LINE * PER_LINE;
  nbdkit_debug ("%s%s%08" PRIx64 ": %s  |%s|", prefix ? prefix : "", sign, line, hex, text);
}

/* Return the end of the line that byte FIRST is on, or of the buffer if that comes first. */
static size_t
end_of_line (uint64_t start, size_t first, size_t length)
{
  size_t room = PER_LINE - (size_t) ((start + first) % PER_LINE);
  return room < length - first ? first + room : length;
}

API void
nbdkit_debug_hexdump (const void *buf, size_t len, const char *prefix, uint64_t start)
{
  for (size_t first = 0, end; verbose && first < len; first = end) {
    end = end_of_line (start, first, len);
    dump_line (prefix, "", buf, NULL, start, first, end);
  }
}

/* For lines that differ, show the first buffer's, then the bytes that the second has instead. */
API void
nbdkit_debug_hexdiff (const void *buf1, const void *buf2, size_t len, const char *prefix,
                      uint64_t start)
{
  for (size_t first = 0, end; verbose && first < len; first = end) {
    end = end_of_line (start, first, len);
    bool same = memcmp ((const char *) buf1 + first, (const char *) buf2 + first, end - first) == 0;
    dump_line (prefix, same ? " " : "-", buf1, NULL, start, first, end);
    if (!same)
      dump_line (prefix, "+", buf2, buf1, start, first, end);
  }
}
