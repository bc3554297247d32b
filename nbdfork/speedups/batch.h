/* The requests that a buffer holds, carried out one after another.
 *
 * What this does is what `protocol.transmission` and `backend.gate` do for the plainest of requests,
 * and it is only for these: READ and WRITE without flags, of ranges that lie within the disk.  It
 * knows nothing of Python, and of no socket.  What it does not know how to do, or what goes wrong
 * while it is done, is left in the buffer as it came: nothing has happened then, or nothing that
 * doing it again would not mend.
 */

#ifndef NBDFORK_BATCH_H
#define NBDFORK_BATCH_H

#include <stddef.h>
#include <stdint.h>

enum dialect { SIMPLE, STRUCTURED, EXTENDED, DIALECTS };

/* What has become of a request, or why carrying out requests has ended. */
enum outcome {
  DONE,
  INCOMPLETE, /* the rest of the next one has to be received */
  FULL,       /* there is no room for the reply of the next one: send those there are */
  MAPPED,     /* the replies end with a header whose data are to be sent from `view` */
  LEFT,       /* the next one is for somebody else */
};

/* The pages of the file, to be sent and never touched: what has been cut off from a file kills who
 * touches it, while the system, which can try, has an error. */
struct map {
  unsigned char *pages; /* NULL if there is none, or not yet */
  size_t size;
  int tried;
};

struct disk {
  int fd;
  uint64_t start;      /* where it begins in the file */
  uint64_t size;       /* of it, in bytes */
  uint64_t misaligned; /* these bits of an offset and of a length must be 0 */
  uint64_t most_read;  /* longer ones are for somebody else */
  uint64_t most_written;
  uint64_t least_sparse; /* so long READs are for somebody else, too, who leaves out holes, */
  uint64_t data, data_end; /* but for a part of the disk that has none */
  int writable;
};

struct batch {
  enum dialect dialect;
  struct disk disk;

  /* What was received and not consumed is received[from] to received[end - 1]. */
  unsigned char *received;
  size_t from, end;

  /* Replies, room for them, and how many bytes of them have been made and not sent. */
  unsigned char *replies;
  size_t room, made;

  /* Data that are to be sent behind the replies, and where in the file they are. */
  struct map map;
  int may_map;
  const unsigned char *view;
  size_t viewed;
  uint64_t place;

  /* What has been done. */
  uint64_t requests, bytes_read, bytes_written;

  /* Set by another thread: leave everything from now on. */
  volatile int stopped;
};

/* Return the room that the reply to a READ of COUNT bytes needs. */
size_t reply_room (size_t count);

/* Return a part of the file that is in memory, as a part of `map`, or NULL. */
const unsigned char *resident (struct map *map, int fd, uint64_t start, size_t count);

/* Carry out requests, and make their replies, until that has to end. */
enum outcome carry_out (struct batch *batch);

#endif
