/* Carry out, send, receive, and again. */

#define _GNU_SOURCE
#include "exchange.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { SEND = MSG_DONTWAIT | MSG_NOSIGNAL };

static uint64_t
now (void)
{
  struct timespec time;
  clock_gettime (CLOCK_MONOTONIC, &time);
  return (uint64_t) time.tv_sec * 1000000000u + time.tv_nsec;
}

/* Wait until the socket is ready for EVENTS, if nothing ends that before. */
static int
wait_for (struct exchange *e, int events)
{
  uint64_t begun = now ();
  if (begun >= e->end || e->batch.stopped)
    return 0;
  struct pollfd entry = { e->socket, events, 0 };
  struct timespec left = { 0, e->end - begun < 999999999 ? e->end - begun : 999999999 };
  return ppoll (&entry, 1, &left, NULL) == 1;
}

/* Send the replies.  Return 0 if all of them have gone; if not, who sends next is told why. */
static int
send_replies (struct exchange *e)
{
  struct batch *batch = &e->batch;
  while (e->unsent < batch->made) {
    if (e->socket == -1)
      return -1;
    ssize_t sent = send (e->socket, batch->replies + e->unsent, batch->made - e->unsent, SEND);
    if (sent == -1 && (errno != EAGAIN || !wait_for (e, POLLOUT)))
      return -1;
    if (sent > 0) {
      e->unsent += sent;
      e->moved += sent;
    }
  }
  e->unsent = batch->made = 0;
  return 0;
}

/* Have those of the mapped data that were not sent as data of the replies.  Return 0 if they are
 * there. */
static int
read_instead (struct exchange *e)
{
  struct batch *batch = &e->batch;
  if (e->unsent == batch->made)
    e->unsent = batch->made = 0;
  ssize_t got = pread (batch->disk.fd, batch->replies + batch->made, batch->viewed, batch->place);
  if (got != (ssize_t) batch->viewed) {
    e->lost = 1;
    return -1;
  }
  batch->made += batch->viewed;
  return 0;
}

/* Send the replies, and the mapped data that belong behind them. */
static int
send_mapped (struct exchange *e)
{
  struct batch *batch = &e->batch;
  while (batch->viewed > 0) {
    struct iovec parts[] = {
      { batch->replies + e->unsent, batch->made - e->unsent },
      { (void *) batch->view, batch->viewed },
    };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
    ssize_t sent = sendmsg (e->socket, &message, SEND);
    if (sent == -1) {
      if (errno == EAGAIN && wait_for (e, POLLOUT))
        continue;
      return read_instead (e) == 0 ? send_replies (e) : -1;
    }
    e->moved += sent;
    size_t of_replies = batch->made - e->unsent;
    if ((size_t) sent < of_replies) {
      e->unsent += sent;
      continue;
    }
    sent -= of_replies;
    e->unsent = batch->made;
    batch->view += sent;
    batch->place += sent;
    batch->viewed -= sent;
  }
  e->unsent = batch->made = 0;
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

/* Look for requests without going to sleep, if that has promise.  Return what recv returns. */
static ssize_t
receive_spinning (struct exchange *e, unsigned char *to, size_t room)
{
  uint64_t begun = now (), most = e->moved <= e->spin_most ? e->spin : 0;
  for (;;) {
    ssize_t got = recv (e->socket, to, room, MSG_DONTWAIT);
    if (got != -1 || errno != EAGAIN)
      return got;
    if (now () - begun >= most || e->batch.stopped) {
      e->missed = most > 0;
      errno = EAGAIN;
      return -1;
    }
    sched_yield (); /* it may be the client that wants this processor */
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
  unsigned char *to = batch->received + batch->end;
  uint64_t begun = now ();
  ssize_t got = receive_spinning (e, to, room);
  if (got == -1 && errno == EAGAIN && wait_for (e, POLLIN))
    got = recv (e->socket, to, room, MSG_DONTWAIT);
  e->waited += now () - begun;
  if (got > 0) {
    batch->end += got;
    e->moved = got;
    return 0;
  }
  if (got == -1 && errno != EAGAIN && errno != EINTR)
    e->error = errno;
  return -1;
}

void
exchange (struct exchange *e)
{
  struct batch *batch = &e->batch;
  e->end = now () + e->time;
  batch->may_map = e->socket != -1;
  for (;;) {
    enum outcome outcome = carry_out (batch);
    if ((outcome == MAPPED ? send_mapped (e) : send_replies (e)) == -1)
      return;
    if (outcome == FULL || outcome == MAPPED)
      continue;
    if (outcome == LEFT || e->socket == -1 || batch->stopped || now () >= e->end
        || receive_requests (e) == -1)
      return;
  }
}
