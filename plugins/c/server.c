/* What plugins may do to the server, and how they sleep until it ends. */

#define _GNU_SOURCE
#include "api.h"

#include <limits.h>
#include <poll.h>
#include <time.h>

#include "current.h"
#include "upcalls.h"

API void
nbdkit_shutdown (void)
{
  stop_server ();
}

/* As in nbdkit, the standard streams are the plugin's only before there are clients. */
API int
nbdkit_stdio_safe (void)
{
  return !is_server_single () && server_ending () == -1;
}

API const char *
nbdkit_name (void)
{
  return server_name ();
}

/* -- sleep ------------------------------------------------------------------------------- */

#define BILLION INT64_C (1000000000)

static int64_t
monotonic_time (void)
{
  struct timespec now;
  clock_gettime (CLOCK_MONOTONIC, &now);
  return now.tv_sec * BILLION + now.tv_nsec;
}

/* Sleep for some nanoseconds, or until one of FDS has an event.  Return what ppoll does.  A signal
 * ends the sleep only of a server that is starting: later ENDING says what a signal means.
 */
static int
sleep_until_event (int64_t nanoseconds, struct pollfd *fds, nfds_t count, int ending)
{
  int64_t deadline = monotonic_time () + nanoseconds;
  int result;
  do {
    int64_t left = deadline - monotonic_time ();
    if (left < 0)
      left = 0;
    struct timespec time = { .tv_sec = left / BILLION, .tv_nsec = left % BILLION };
    result = ppoll (fds, count, &time, NULL);
  } while (result == -1 && errno == EINTR && ending != -1);
  return result;
}

/* A sleep ends early with the server, and with the client's connection, whichever side closes it. */
API int
nbdkit_nanosleep (unsigned seconds, unsigned nanoseconds)
{
  int64_t total = seconds * BILLION + nanoseconds;
  if (total / BILLION > INT_MAX) {
    nbdkit_error ("nbdkit_nanosleep: %u seconds are more than %d", seconds, INT_MAX);
    errno = EINVAL;
    return -1;
  }
  int ending = server_ending ();
  struct pollfd fds[] = {
    { .fd = ending, .events = POLLIN },
    { .fd = current.client ? client_descriptor () : -1, .events = POLLRDHUP },
  };
  if (sleep_until_event (total, fds, 2, ending) == 0)
    return 0;
  nbdkit_error ("nbdkit_nanosleep: %s ends", fds[1].revents ? "the connection" : "the server");
  errno = ESHUTDOWN;
  return -1;
}
