/* The lean client: as little as a program can do and still keep a server busy.
 *
 *     lean PATH|PORT EXPORT read|write BLOCK DEPTH CLIENTS MILLISECONDS SIZE together|apart
 *
 * Each of CLIENTS is a process with a connection of its own.  In a turn it sends DEPTH requests,
 * made ready beforehand, with one system call (together) or one for each (apart), and receives
 * until the replies are all there, counting bytes.  Only the first reply of a turn is looked at.
 *
 * It prints, for all clients together: requests, the seconds they took, the CPU seconds of the
 * clients, and the microseconds that turns took: median, 99th and 99.9th percentile.
 */

#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <error.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 28, REPLY = 16, TURNS = 256, MOST_DEPTH = 512, RECEIVE = 1 << 20, LIMIT = 30 };

/* Latencies are counted in classes, 64 to each power of 2 of nanoseconds. */
enum { FINE = 6, CLASSES = (64 - FINE) << FINE };

struct result {
  uint64_t requests;
  uint64_t latencies[CLASSES];
};

static const char *where, *export;
static int writing, apart;
static uint32_t block, depth;
static uint64_t milliseconds, size;
static char *received, *payload;

static uint64_t
now (void)
{
  struct timespec time;
  clock_gettime (CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static unsigned
class_of (uint64_t nanoseconds)
{
  if (nanoseconds < 1 << FINE)
    return nanoseconds;
  unsigned power = 63 - __builtin_clzll (nanoseconds) - FINE;
  return ((power + 1) << FINE) + (nanoseconds >> power) - (1 << FINE);
}

static double
microseconds_of (unsigned number)
{
  if (number < 1 << FINE)
    return number / 1e3;
  unsigned power = (number >> FINE) - 1, rest = number & ((1 << FINE) - 1);
  return (((1ull << FINE) + rest) << power) / 1e3;
}

static int
connected (void)
{
  char *end;
  long port = strtol (where, &end, 10);
  int client;
  if (*end == 0) {
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons (port) };
    address.sin_addr.s_addr = htonl (INADDR_LOOPBACK);
    client = socket (AF_INET, SOCK_STREAM, 0);
    if (connect (client, (struct sockaddr *) &address, sizeof address) == -1)
      error (1, errno, "connect");
    int yes = 1;
    setsockopt (client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  }
  else {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy (address.sun_path, where, sizeof address.sun_path - 1);
    client = socket (AF_UNIX, SOCK_STREAM, 0);
    if (connect (client, (struct sockaddr *) &address, sizeof address) == -1)
      error (1, errno, "connect");
  }
  struct timeval limit = { .tv_sec = LIMIT };
  setsockopt (client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt (client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  return client;
}

static void
receive (int client, size_t count)
{
  ssize_t got = recv (client, received, count, MSG_WAITALL);
  if (got != (ssize_t) count)
    error (1, got == -1 ? errno : ECONNRESET, "receive");
}

/* Send what COUNT parts have, with one call if the kernel takes it all. */
static void
send_all (int client, struct iovec *parts, size_t count)
{
  struct msghdr message = { .msg_iov = parts, .msg_iovlen = count };
  while (message.msg_iovlen > 0) {
    ssize_t sent = sendmsg (client, &message, MSG_NOSIGNAL);
    if (sent == -1)
      error (1, errno, "send");
    while (message.msg_iovlen > 0 && (size_t) sent >= message.msg_iov->iov_len) {
      sent -= message.msg_iov->iov_len;
      message.msg_iov++;
      message.msg_iovlen--;
    }
    if (sent > 0) {
      message.msg_iov->iov_base = (char *) message.msg_iov->iov_base + sent;
      message.msg_iov->iov_len -= sent;
    }
  }
}

/* Newstyle, with simple replies. */
static void
handshake (int client)
{
  receive (client, 18);
  char hello[20 + 4096];
  size_t length = strlen (export);
  uint32_t flags = htobe32 (3), option = htobe32 (1), count = htobe32 (length);
  memcpy (hello, &flags, 4);
  memcpy (hello + 4, "IHAVEOPT", 8);
  memcpy (hello + 12, &option, 4);
  memcpy (hello + 16, &count, 4);
  memcpy (hello + 20, export, length);
  struct iovec part = { hello, 20 + length };
  send_all (client, &part, 1);
  receive (client, 10);
}

static void
make_request (char *to, uint64_t cookie, uint64_t offset)
{
  uint32_t magic = htobe32 (0x25609513), length = htobe32 (block);
  uint16_t flags = 0, command = htobe16 (writing);
  offset = htobe64 (offset);
  memcpy (to, &magic, 4);
  memcpy (to + 4, &flags, 2);
  memcpy (to + 6, &command, 2);
  memcpy (to + 8, &cookie, 8);
  memcpy (to + 16, &offset, 8);
  memcpy (to + 24, &length, 4);
}

/* Requests for places at random, TURNS times DEPTH of them. */
static char *
requests_of (uint64_t number)
{
  char *requests = malloc ((size_t) TURNS * depth * REQUEST);
  if (requests == NULL)
    error (1, errno, "malloc");
  uint64_t blocks = size / block, chance = number * 2 + 1;
  for (uint64_t i = 0; i < (uint64_t) TURNS * depth; i++) {
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    make_request (requests + i * REQUEST, i, (chance >> 20) % blocks * block);
  }
  return requests;
}

static void
send_turn (int client, char *requests)
{
  static struct iovec parts[2 * MOST_DEPTH];
  size_t count = 0;
  if (!writing && !apart) {
    struct iovec all = { requests, (size_t) depth * REQUEST };
    send_all (client, &all, 1);
    return;
  }
  for (uint32_t i = 0; i < depth; i++) {
    parts[count++] = (struct iovec) { requests + i * REQUEST, REQUEST };
    if (writing)
      parts[count++] = (struct iovec) { payload, block };
    if (apart || i == depth - 1) {
      send_all (client, parts, count);
      count = 0;
    }
  }
}

static void
receive_turn (int client)
{
  size_t left = (size_t) depth * (REPLY + (writing ? 0 : block)), seen = 0;
  while (left > 0) {
    size_t room = left < RECEIVE - seen ? left : RECEIVE - seen;
    ssize_t got = recv (client, received + seen, room, 0);
    if (got <= 0)
      error (1, got == -1 ? errno : ECONNRESET, "receive");
    left -= got;
    if (seen < REPLY && seen + got >= REPLY && memcmp (received, "\x67\x44\x66\x98\0\0\0", 8) != 0)
      error (1, 0, "the server has refused a request");
    seen = seen + got < REPLY ? seen + got : REPLY;
  }
}

static void
work (uint64_t number, int go, struct result *result)
{
  received = mmap (NULL, RECEIVE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  payload = malloc (block);
  if (received == MAP_FAILED || payload == NULL)
    error (1, errno, "memory");
  for (uint32_t i = 0; i < block; i++)
    payload[i] = i * 7 + number;
  char *requests = requests_of (number);
  int client = connected ();
  handshake (client);
  char byte;
  if (read (go, &byte, 1) != 0) /* all others are connected, too */
    error (1, errno, "start");
  uint64_t begun = now (), end = begun + milliseconds * 1000000;
  for (uint64_t turn = 0; begun < end; turn++) {
    send_turn (client, requests + turn % TURNS * depth * REQUEST);
    receive_turn (client);
    uint64_t ended = now ();
    result->latencies[class_of (ended - begun)]++;
    result->requests += depth;
    begun = ended;
  }
  char bye[REQUEST];
  writing = 2;
  make_request (bye, 0, 0);
  struct iovec part = { bye, REQUEST };
  send_all (client, &part, 1);
}

static double
percentile (const struct result *all, uint64_t turns, double share)
{
  uint64_t seen = 0;
  for (unsigned i = 0; i < CLASSES; i++)
    if ((seen += all->latencies[i]) >= turns * share)
      return microseconds_of (i);
  return 0;
}

int
main (int argc, char **argv)
{
  if (argc != 10)
    error (2, 0, "wrong number of arguments");
  where = argv[1];
  export = argv[2];
  writing = strcmp (argv[3], "write") == 0;
  block = strtoul (argv[4], NULL, 10);
  depth = strtoul (argv[5], NULL, 10);
  unsigned clients = strtoul (argv[6], NULL, 10);
  milliseconds = strtoull (argv[7], NULL, 10);
  size = strtoull (argv[8], NULL, 10);
  apart = strcmp (argv[9], "apart") == 0;
  if (block == 0 || size < block || depth == 0 || depth > MOST_DEPTH || clients == 0
      || strlen (export) > 4096)
    error (2, 0, "arguments out of range");

  struct result *results = mmap (NULL, clients * sizeof *results, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int go[2];
  if (results == MAP_FAILED || pipe (go) == -1)
    error (1, errno, "start");
  for (unsigned i = 0; i < clients; i++) {
    pid_t child = fork ();
    if (child == -1)
      error (1, errno, "fork");
    if (child == 0) {
      close (go[1]);
      work (i, go[0], &results[i]);
      _exit (0);
    }
  }
  close (go[0]);
  usleep (20000 + 2000 * clients); /* they connect */
  uint64_t begun = now ();
  close (go[1]);
  int failed = 0;
  for (unsigned i = 0; i < clients; i++) {
    int status;
    wait (&status);
    failed |= status;
  }
  double seconds = (now () - begun) / 1e9;
  if (failed)
    return 1;

  struct rusage usage;
  getrusage (RUSAGE_CHILDREN, &usage);
  static struct result all;
  uint64_t turns = 0;
  for (unsigned i = 0; i < clients; i++) {
    all.requests += results[i].requests;
    for (unsigned j = 0; j < CLASSES; j++) {
      all.latencies[j] += results[i].latencies[j];
      turns += results[i].latencies[j];
    }
  }
  double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
               + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  printf ("%ju %.6f %.6f %.3f %.3f %.3f\n", (uintmax_t) all.requests, seconds, cpu,
          percentile (&all, turns, 0.5), percentile (&all, turns, 0.99),
          percentile (&all, turns, 0.999));
  return 0;
}
