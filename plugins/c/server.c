/* What plugins may do to the server, and how they sleep until it ends. */

#define _GNU_SOURCE
#include "server.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

#include "current.h"
#include "upcalls.h"

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
