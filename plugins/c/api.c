/* The functions that plugins call, by the names and the rules of nbdkit-plugin(3).
 *
 * They may be called in any thread, and without the GIL.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "native.h"

PRIVATE __thread struct call current;

/* -- messages ---------------------------------------------------------------------------- */

/* A message belongs to the callback that says it, which may be about to fail; see module.c. */
API void
nbdkit_verror (const char *format, va_list args)
{
  int saved = errno; /* plugins count on it */
  char *text = NULL, *joined = NULL;
  if (vasprintf (&text, format, args) == -1)
    text = NULL;
  const char *message = text ? text : format;
  if (current.callback == NULL)
    log_message (LEVEL_ERROR, message);
  else if (current.messages == NULL)
    current.messages = strdup (message);
  else if (asprintf (&joined, "%s; %s", current.messages, message) != -1) {
    free (current.messages);
    current.messages = joined;
  }
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
  if (!verbose)
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

/* -- strings that are kept --------------------------------------------------------------- */

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

/* The server does not tell plugins of TLS, nor who a client is. */
API int
nbdkit_is_tls (void)
{
  if (current.client != NULL)
    return 0;
  nbdkit_error ("nbdkit_is_tls: there is no client here");
  errno = EINVAL;
  return -1;
}

static int
socket_of_client (const char *function)
{
  int fd = client_socket ();

  if (fd < 0) {
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

/* -- the server -------------------------------------------------------------------------- */

static volatile pid_t server;          /* 0: there is none yet */
static volatile sig_atomic_t ends_at_once;

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

/* A stop signal ends the sleep of the thread that gets it. */
API int
nbdkit_nanosleep (unsigned seconds, unsigned nanoseconds)
{
  struct timespec time = {
    .tv_sec = (time_t) seconds + nanoseconds / 1000000000,
    .tv_nsec = nanoseconds % 1000000000,
  };
  if (nanosleep (&time, NULL) == 0)
    return 0;
  nbdkit_error ("nbdkit_nanosleep: the server is ending");
  errno = ESHUTDOWN;
  return -1;
}

/* With -s standard input is the client; the server has put /dev/null (mem(4)) in its place. */
API int
nbdkit_stdio_safe (void)
{
  struct stat status;
  if (fstat (STDIN_FILENO, &status) == -1)
    return 0;
  return !(S_ISCHR (status.st_mode) && status.st_rdev == makedev (1, 3));
}

/* -- file names -------------------------------------------------------------------------- */

API char *
nbdkit_absolute_path (const char *path)
{
  if (path == NULL || *path == '\0') {
    nbdkit_error ("a file name is expected");
    errno = EINVAL;
    return NULL;
  }
  char *result;
  if (*path == '/')
    result = strdup (path);
  else {
    char *directory = get_current_dir_name ();
    if (directory == NULL || asprintf (&result, "%s/%s", directory, path) == -1)
      result = NULL;
    free (directory);
  }
  if (result == NULL)
    nbdkit_error ("%s: %m", path);
  return result;
}

API char *
nbdkit_realpath (const char *path)
{
  if (path == NULL || *path == '\0') {
    nbdkit_error ("a file name is expected");
    errno = EINVAL;
    return NULL;
  }
  char *result = realpath (path, NULL);
  if (result == NULL)
    nbdkit_error ("%s: %m", path);
  return result;
}
