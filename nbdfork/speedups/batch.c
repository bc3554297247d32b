/* Requests in the order in which they came: parse, check, carry out, make the reply. */

#define _GNU_SOURCE
#include "batch.h"

#include <endian.h>
#include <string.h>
#include <unistd.h>

/* protocol/wire.py has the names and the layouts. */
enum { CMD_READ = 0, CMD_WRITE = 1, CMD_FLAG_PAYLOAD_LEN = 1 << 5 };
enum { REPLY_FLAG_DONE = 1, REPLY_NONE = 0, REPLY_OFFSET_DATA = 1 };

#define REQUEST_MAGIC 0x25609513u
#define EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define SIMPLE_REPLY_MAGIC 0x67446698u
#define STRUCTURED_REPLY_MAGIC 0x668e33efu
#define EXTENDED_REPLY_MAGIC 0x6e8a278cu

static const uint32_t request_magic[DIALECTS]
    = { REQUEST_MAGIC, REQUEST_MAGIC, EXTENDED_REQUEST_MAGIC };
static const size_t request_size[DIALECTS] = { 28, 28, 32 };

/* The header of a reply with data, and of one without. */
static const size_t data_header[DIALECTS] = { 16, 28, 40 };
static const size_t done_header[DIALECTS] = { 16, 16, 32 };

/* Below this it costs less to copy than to ask what is in memory. */
enum { LEAST_MAPPED = 32 << 10 };

enum { MOST_HEADER = 40, COOKIE = 8, COOKIE_SIZE = 8 };

struct request {
  uint16_t flags, command;
  const unsigned char *cookie;
  uint64_t offset, length;
};

static uint16_t
get16 (const unsigned char *at)
{
  uint16_t value;
  memcpy (&value, at, sizeof value);
  return be16toh (value);
}

static uint32_t
get32 (const unsigned char *at)
{
  uint32_t value;
  memcpy (&value, at, sizeof value);
  return be32toh (value);
}

static uint64_t
get64 (const unsigned char *at)
{
  uint64_t value;
  memcpy (&value, at, sizeof value);
  return be64toh (value);
}

static void
put16 (unsigned char *at, uint16_t value)
{
  value = htobe16 (value);
  memcpy (at, &value, sizeof value);
}

static void
put32 (unsigned char *at, uint32_t value)
{
  value = htobe32 (value);
  memcpy (at, &value, sizeof value);
}

static void
put64 (unsigned char *at, uint64_t value)
{
  value = htobe64 (value);
  memcpy (at, &value, sizeof value);
}

size_t
reply_room (size_t count)
{
  return MOST_HEADER + count;
}

/* Put what replies of all dialects begin with; the cookie is at the same place in all of them. */
static void
put_chunk (unsigned char *at, uint32_t magic, uint16_t kind, const struct request *request)
{
  put32 (at, magic);
  put16 (at + 4, REPLY_FLAG_DONE);
  put16 (at + 6, kind);
  memcpy (at + COOKIE, request->cookie, COOKIE_SIZE);
}

static void
put_simple (unsigned char *at, const struct request *request)
{
  put32 (at, SIMPLE_REPLY_MAGIC);
  put32 (at + 4, 0);
  memcpy (at + COOKIE, request->cookie, COOKIE_SIZE);
}

static void
put_data_header (unsigned char *at, enum dialect dialect, const struct request *request)
{
  switch (dialect) {
  case STRUCTURED:
    put_chunk (at, STRUCTURED_REPLY_MAGIC, REPLY_OFFSET_DATA, request);
    put32 (at + 16, 8 + request->length);
    put64 (at + 20, request->offset);
    break;
  case EXTENDED:
    put_chunk (at, EXTENDED_REPLY_MAGIC, REPLY_OFFSET_DATA, request);
    put64 (at + 16, request->offset);
    put64 (at + 24, 8 + request->length);
    put64 (at + 32, request->offset);
    break;
  default:
    put_simple (at, request);
  }
}

static void
put_done (unsigned char *at, enum dialect dialect, const struct request *request)
{
  if (dialect != EXTENDED) {
    put_simple (at, request);
    return;
  }
  put_chunk (at, EXTENDED_REPLY_MAGIC, REPLY_NONE, request);
  put64 (at + 16, request->offset);
  put64 (at + 24, 0);
}

/* Return whether the range lies within the disk, is not empty, and is aligned. */
static int
is_plain_range (const struct disk *disk, const struct request *request, uint64_t most)
{
  return request->length > 0 && request->length <= most && request->offset <= disk->size
         && request->length <= disk->size - request->offset
         && ((request->offset | request->length) & disk->misaligned) == 0;
}

/* Return whether the range is so long that it is looked for holes in it, and may have some. */
static int
may_have_holes (const struct disk *disk, const struct request *request)
{
  return request->length >= disk->least_sparse
         && (request->offset < disk->data || request->offset + request->length > disk->data_end);
}

static enum outcome
carry_out_read (struct batch *batch, const struct request *request)
{
  const struct disk *disk = &batch->disk;
  if (request->flags != 0 || !is_plain_range (disk, request, disk->most_read)
      || may_have_holes (disk, request))
    return LEFT;
  size_t header = data_header[batch->dialect], length = request->length;
  if (batch->room - batch->made < header + length)
    return batch->made > 0 ? FULL : LEFT;
  unsigned char *reply = batch->replies + batch->made;
  off_t place = disk->start + request->offset;
  batch->view = NULL;
  if (batch->may_map && length >= LEAST_MAPPED)
    batch->view = resident (&batch->map, disk->fd, place, length);
  if (batch->view != NULL) {
    batch->viewed = length;
    batch->place = place;
  }
  else if (pread (disk->fd, reply + header, length, place) != (ssize_t) length)
    return LEFT;
  put_data_header (reply, batch->dialect, request);
  batch->made += header + (batch->view ? 0 : length);
  batch->bytes_read += length;
  batch->from += request_size[batch->dialect];
  return batch->view ? MAPPED : DONE;
}

static enum outcome
carry_out_write (struct batch *batch, const struct request *request)
{
  const struct disk *disk = &batch->disk;
  unsigned allowed = batch->dialect == EXTENDED ? CMD_FLAG_PAYLOAD_LEN : 0;
  if (!disk->writable || (request->flags & ~allowed) != 0
      || !is_plain_range (disk, request, disk->most_written))
    return LEFT;
  size_t header = request_size[batch->dialect], length = request->length;
  if (batch->end - batch->from - header < length)
    return INCOMPLETE;
  if (batch->room - batch->made < MOST_HEADER)
    return batch->made > 0 ? FULL : LEFT;
  const unsigned char *data = batch->received + batch->from + header;
  if (pwrite (disk->fd, data, length, disk->start + request->offset) != (ssize_t) length)
    return LEFT;
  put_done (batch->replies + batch->made, batch->dialect, request);
  batch->made += done_header[batch->dialect];
  batch->bytes_written += length;
  batch->from += header + length;
  return DONE;
}

enum outcome
carry_out (struct batch *batch)
{
  const size_t size = request_size[batch->dialect];
  for (;;) {
    if (batch->stopped)
      return LEFT;
    if (batch->end - batch->from < size)
      return INCOMPLETE;
    const unsigned char *at = batch->received + batch->from;
    if (get32 (at) != request_magic[batch->dialect])
      return LEFT;
    struct request request = { get16 (at + 4), get16 (at + 6), at + COOKIE, get64 (at + 16), 0 };
    request.length = batch->dialect == EXTENDED ? get64 (at + 24) : get32 (at + 24);
    enum outcome outcome = LEFT;
    if (request.command == CMD_READ)
      outcome = carry_out_read (batch, &request);
    else if (request.command == CMD_WRITE)
      outcome = carry_out_write (batch, &request);
    if (outcome == DONE || outcome == MAPPED)
      batch->requests++;
    if (outcome != DONE)
      return outcome;
  }
}
