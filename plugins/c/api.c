/* The functions that plugins call, by the names and the rules of nbdkit-plugin(3).
 *
 * They may be called in any thread, and without the GIL.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "native.h"

PRIVATE __thread struct call current;

/* -- messages ---------------------------------------------------------------------------- */

API void
nbdkit_verror (const char *format, va_list args)
{
  int saved = errno; /* plugins count on it */
  char *text = NULL;
  if (vasprintf (&text, format, args) == -1)
    text = NULL;
  const char *message = text ? text : format;
  if (current.is_child)
    log_in_child (message);
  else if (current.callback == NULL)
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
nbdkit_vdebug (const char *format, va_list args)
{
  if (!verbose || current.is_child)
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

API void
nbdkit_set_error (int error)
{
  current.error = error;
}

/* Good until this thread asks again.  "!" is nbdkit's way to say that it cannot be told. */
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

/* -- dumps of memory, as debug messages -------------------------------------------------- */

#define PER_LINE 16

/* Log bytes FIRST to END of BYTES, whose first is at START: they are all on one line, each in the
 * column of its offset.  Leave out those that are the same in OTHER, if there is one.
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

/* Return where the line that byte FIRST is on ends, or the buffer does. */
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

/* Of lines that differ, all of the first buffer's is shown, and the changes of the second's. */
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

/* -- the client -------------------------------------------------------------------------- */

API const char *
nbdkit_export_name (void)
{
  if (current.client == NULL || current.client->export_name == NULL) {
    nbdkit_error ("nbdkit_export_name: no client has chosen an export here");
    errno = EINVAL;
    return NULL;
  }
  return current.client->export_name;
}

/* Say whether there is a client, whose connection a plugin asks about. */
static bool
has_client (const char *function)
{
  if (current.client != NULL)
    return true;
  nbdkit_error ("%s: there is no client here", function);
  errno = EINVAL;
  return false;
}

API int
nbdkit_is_tls (void)
{
  return has_client ("nbdkit_is_tls") ? client_is_tls () : -1;
}

API char *
nbdkit_peer_tls_dn (void)
{
  return has_client ("nbdkit_peer_tls_dn") ? client_certificate ("subject") : NULL;
}

API char *
nbdkit_peer_tls_issuer_dn (void)
{
  return has_client ("nbdkit_peer_tls_issuer_dn") ? client_certificate ("issuer") : NULL;
}

static int
socket_of_client (const char *function)
{
  int fd = client_descriptor ();
  struct stat found;
  if (fd < 0 || fstat (fd, &found) == -1 || !S_ISSOCK (found.st_mode)) {
    nbdkit_error ("%s: there is no client, or it is not on a socket", function);
    errno = ENOTSOCK;
  }
  return fd;
}

API int
nbdkit_peer_name (struct sockaddr *address, socklen_t *length)
{
  int fd = socket_of_client ("nbdkit_peer_name");
  if (fd < 0)
    return -1;
  if (getpeername (fd, address, length) == -1) {
    nbdkit_error ("nbdkit_peer_name: %m");
    return -1;
  }
  return 0;
}

/* Ask the kernel for the process at the other end of a Unix domain socket; see unix(7). */
static int
peer_credentials (const char *function, struct ucred *found)
{
  int fd = socket_of_client (function);
  int domain;
  socklen_t length = sizeof domain;
  if (fd < 0)
    return -1;
  if (getsockopt (fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == -1 || domain != AF_UNIX) {
    nbdkit_error ("%s: the client is not on a Unix domain socket", function);
    errno = ENOTSUP;
    return -1;
  }
  length = sizeof *found;
  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, found, &length) == -1) {
    nbdkit_error ("%s: %m", function);
    return -1;
  }
  return 0;
}

API int64_t
nbdkit_peer_pid (void)
{
  struct ucred peer;
  return peer_credentials ("nbdkit_peer_pid", &peer) == -1 ? -1 : peer.pid;
}

API int64_t
nbdkit_peer_uid (void)
{
  struct ucred peer;
  return peer_credentials ("nbdkit_peer_uid", &peer) == -1 ? -1 : (int64_t) peer.uid;
}

API int64_t
nbdkit_peer_gid (void)
{
  struct ucred peer;
  return peer_credentials ("nbdkit_peer_gid", &peer) == -1 ? -1 : (int64_t) peer.gid;
}

/* Ask the security module of the kernel, if there is one, what it calls the client. */
API char *
nbdkit_peer_security_context (void)
{
  int fd = socket_of_client ("nbdkit_peer_security_context"), result;
  char *text = NULL;
  socklen_t length = 256, room; /* if that is not enough, the kernel says how many are */
  if (fd < 0)
    return NULL;
  do {
    free (text);
    room = length;
    text = calloc (1, (size_t) room + 1); /* what it tells may end without a NUL */
    result = text ? getsockopt (fd, SOL_SOCKET, SO_PEERSEC, text, &length) : -1;
  } while (result == -1 && errno == ERANGE && length > room);
  if (result == 0)
    return text;
  nbdkit_error ("nbdkit_peer_security_context: %m");
  free (text);
  return NULL;
}

/* nbdkit's rule: by force the connection ends at once; else what is being done is answered, and
 * the plugin sees no further request.  The latter ends it when the client has its answers.
 */
API void
nbdkit_disconnect (int force)
{
  int saved = errno;
  if (current.client == NULL)
    nbdkit_debug ("nbdkit_disconnect: there is no client here");
  else {
    int fd = client_descriptor ();
    current.client->is_disconnected = true;
    if (fd >= 0)
      shutdown (fd, force ? SHUT_RDWR : SHUT_RD);
  }
  errno = saved;
}

/* -- the server -------------------------------------------------------------------------- */

static volatile pid_t server;          /* 0: there is none yet */
static volatile sig_atomic_t ends_at_once;

#define BILLION INT64_C (1000000000)

API void
nbdkit_shutdown (void)
{
  if (server == 0)
    ends_at_once = 1;
  else
    kill (server, SIGTERM);
}

PRIVATE void
serve_under (pid_t pid)
{
  server = pid;
  if (ends_at_once)
    nbdkit_shutdown ();
}

static atomic_int end_fd = -1; /* -1: nobody serves here yet */

PRIVATE void
end_sleeps_by (int fd)
{
  end_fd = fd;
}

static int64_t
monotonic_time (void)
{
  struct timespec now;
  clock_gettime (CLOCK_MONOTONIC, &now);
  return now.tv_sec * BILLION + now.tv_nsec;
}

/* Sleep for some nanoseconds, or until something comes to its end: the server, or the connection of
 * the client, whichever side closes it.  Return what ppoll does.
 */
static int
sleep_until_end (int64_t nanoseconds, struct pollfd *fds, nfds_t count)
{
  int64_t deadline = monotonic_time () + nanoseconds;
  int ended;
  do {
    int64_t left = deadline - monotonic_time ();
    if (left < 0)
      left = 0;
    struct timespec time = { .tv_sec = left / BILLION, .tv_nsec = left % BILLION };
    ended = ppoll (fds, count, &time, NULL);
  } while (ended == -1 && errno == EINTR && end_fd != -1); /* before, a signal is an end, too */
  return ended;
}

API int
nbdkit_nanosleep (unsigned seconds, unsigned nanoseconds)
{
  int64_t total = seconds * BILLION + nanoseconds;
  if (total / BILLION > INT_MAX) {
    nbdkit_error ("nbdkit_nanosleep: %u seconds are more than %d", seconds, INT_MAX);
    errno = EINVAL;
    return -1;
  }
  struct pollfd fds[] = {
    { .fd = end_fd, .events = POLLIN },
    { .fd = current.client ? client_descriptor () : -1, .events = POLLRDHUP },
  };
  if (sleep_until_end (total, fds, 2) == 0)
    return 0;
  nbdkit_error ("nbdkit_nanosleep: %s ends", fds[1].revents ? "the connection" : "the server");
  errno = ESHUTDOWN;
  return -1;
}

/* Instances of the server have no names. */
API const char *
nbdkit_name (void)
{
  return NULL;
}

PRIVATE bool is_stdio_safe = true;

API int
nbdkit_stdio_safe (void)
{
  return is_stdio_safe;
}
