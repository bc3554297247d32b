/* Carry out, send, receive, and again. */

#define _GNU_SOURCE
#include "exchange.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static uint64_t
now (void)
{
  struct timespec time;
  clock_gettime (CLOCK_MONOTONIC, &time);
  return (uint64_t) time.tv_sec * 1000000000u + time.tv_nsec;
}

/* Send the replies.  Return 0 if all of them have gone. */
static int
send_replies (struct exchange *e)
{
  struct batch *batch = &e->batch;
  if (batch->made == 0)
    return 0;
  if (e->socket == -1)
    return -1;
  ssize_t sent = send (e->socket, batch->replies, batch->made, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent == -1) /* who sends next is told why */
    return -1;
  e->moved += sent;
  if ((size_t) sent < batch->made) {
    e->unsent = sent;
    return -1;
  }
  batch->made = 0;
  return 0;
}

/* Make room behind what has been received. */
static void
make_room (struct exchange *e)
{
  struct batch *batch = &e->batch;
  size_t have = batch->end - batch->from;
  if (have == 0)
    batch->from = batch->end = 0;
  else if (e->received_size - batch->end < e->most_received) {
    memmove (batch->received, batch->received + batch->from, have);
    batch->from = 0;
    batch->end = have;
  }
}

/* Receive something, or return -1 if there is nothing.  The end of what the client says is nothing,
 * too: who receives next is told again. */
static int
receive_requests (struct exchange *e)
{
  struct batch *batch = &e->batch;
  make_room (e);
  size_t room = e->received_size - batch->end;
  if (room == 0)
    return -1;
  if (room > e->most_received)
    room = e->most_received;
  uint64_t begun = now ();
  uint64_t most = e->moved <= e->spin_most ? e->spin : 0;
  for (;;) {
    ssize_t got = recv (e->socket, batch->received + batch->end, room, MSG_DONTWAIT);
    if (got > 0) {
      batch->end += got;
      e->moved = got;
      return 0;
    }
    if (got == 0 || errno != EAGAIN) {
      if (got == -1 && errno != EINTR)
        e->error = errno;
      return -1;
    }
    if (now () - begun >= most || batch->stopped)
      break;
    sched_yield (); /* it may be the client that wants this processor */
  }
  e->missed = most > 0;
  return -1;
}

void
exchange (struct exchange *e)
{
  struct batch *batch = &e->batch;
  uint64_t end = now () + e->time;
  for (;;) {
    enum outcome outcome = carry_out (batch);
    if (send_replies (e) == -1)
      return;
    if (outcome == FULL)
      continue;
    if (outcome == LEFT || e->socket == -1 || batch->stopped || now () >= end
        || receive_requests (e) == -1)
      return;
  }
}
