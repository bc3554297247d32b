/* Batches of one client, received and answered without asking anybody else.
 *
 * This waits for the client, but for no longer than its time.  Whoever called it can wait in a way
 * that signals end.
 */

#ifndef NBDFORK_EXCHANGE_H
#define NBDFORK_EXCHANGE_H

#include "batch.h"

struct exchange {
  struct batch batch;
  size_t received_size; /* of the buffer */
  size_t most_received; /* at once */

  int socket;         /* or -1: carry out what is in the buffer, and no more */
  uint64_t spin;      /* nanoseconds to look for the next request */
  uint64_t spin_most; /* but only if no more than so many bytes have moved since the last receive */
  uint64_t time;      /* nanoseconds until this has to end */

  uint64_t end; /* when that is */

  /* Out. */
  size_t unsent;    /* where in the replies those that are not sent begin */
  uint64_t moved;   /* bytes received, and sent afterwards */
  uint64_t waited;  /* nanoseconds spent waiting for requests */
  int lost;         /* the disk has failed when the reply had begun to leave */
  int missed;       /* it was looked for a request, and there was none */
  int error;        /* errno of a receive that failed, or 0 */
};

void exchange (struct exchange *exchange);

#endif
