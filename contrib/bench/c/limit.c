/* The limit: what the same work costs if nothing else is done.
 *
 *     limit FILE PATH|PORT
 *
 * It is no NBD server: nothing is checked, and READ and WRITE are all there is.  A client is served
 * by a process, one receive takes what has come, each request is a pread or a pwrite between the
 * file and a buffer, and one send answers all that one receive has brought.
 */

#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <error.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REQUEST = 28, REPLY = 16, RECEIVE = 256 << 10, LARGEST = 4 << 20, SEND = 256 << 10 };

static char *in, *out;

static void
must (int good)
{
  if (!good)
    _exit (0); /* which is how every client ends */
}

static uint64_t
number (const char *at, int bytes)
{
  uint64_t value = 0;
  while (bytes-- > 0)
    value = value << 8 | (uint8_t) *at++;
  return value;
}

static void
put (char *at, uint64_t value, int bytes)
{
  while (bytes-- > 0) {
    at[bytes] = value;
    value >>= 8;
  }
}

static void
receive (int client, size_t count)
{
  must (count <= LARGEST);
  if (count > 0)
    must (recv (client, in, count, MSG_WAITALL) == (ssize_t) count);
}

static void
send_all (int client, const char *data, size_t count)
{
  while (count > 0) {
    ssize_t sent = send (client, data, count, MSG_NOSIGNAL);
    must (sent > 0);
    data += sent;
    count -= sent;
  }
}

static size_t
option_reply (char *at, uint32_t option, uint32_t kind, const char *data, size_t length)
{
  put (at, 0x3e889045565a9, 8);
  put (at + 8, option, 4);
  put (at + 12, kind, 4);
  put (at + 16, length, 4);
  memcpy (at + 20, data, length);
  return 20 + length;
}

/* Agree to whatever export is asked for, and to no extension. */
static void
handshake (int client, uint64_t size)
{
  char text[64];
  memcpy (text, "NBDMAGICIHAVEOPT\0\3", 18);
  send_all (client, text, 18);
  receive (client, 4);
  for (;;) {
    receive (client, 16);
    uint32_t option = number (in + 8, 4), length = number (in + 12, 4);
    receive (client, length);
    char info[12];
    put (info, 0, 2);
    put (info + 2, size, 8);
    put (info + 10, 1, 2); /* HAS_FLAGS */
    if (option == 1) {     /* EXPORT_NAME */
      send_all (client, info + 2, 10);
      return;
    }
    if (option != 6 && option != 7) {
      send_all (client, text, option_reply (text, option, 0x80000001, "", 0));
      continue;
    }
    size_t count = option_reply (text, option, 3, info, 12);
    count += option_reply (text + count, option, 1, "", 0);
    send_all (client, text, count);
    if (option == 7) /* GO */
      return;
  }
}

static void
answer (int client, int file)
{
  size_t start = 0, end = 0, made = 0;
  for (;;) {
    size_t count = 0, length = 0;
    int command = 0;
    if (end - start >= REQUEST) {
      must (number (in + start, 4) == 0x25609513);
      command = number (in + start + 6, 2);
      length = number (in + start + 24, 4);
      must (command <= 1 && length <= LARGEST);
      count = REQUEST + (command == 1 ? length : 0);
    }
    if (count == 0 || end - start < count) {
      send_all (client, out, made);
      made = 0;
      memmove (in, in + start, end - start);
      end -= start;
      start = 0;
      size_t room = count > end ? count - end : RECEIVE;
      ssize_t got = recv (client, in + end, room > RECEIVE ? room : RECEIVE, 0);
      must (got > 0);
      end += got;
      continue;
    }
    size_t data = command == 1 ? 0 : length;
    if (made + REPLY + data > SEND && made > 0) {
      send_all (client, out, made);
      made = 0;
    }
    uint64_t offset = number (in + start + 16, 8);
    put (out + made, 0x67446698, 4);
    put (out + made + 4, 0, 4);
    memcpy (out + made + 8, in + start + 8, 8);
    if (command == 1)
      must (pwrite (file, in + start + REQUEST, length, offset) == (ssize_t) length);
    else
      must (pread (file, out + made + REPLY, length, offset) == (ssize_t) length);
    made += REPLY + data;
    start += count;
  }
}

static int
listening (const char *where)
{
  char *end;
  long port = strtol (where, &end, 10);
  int listener, yes = 1;
  if (*end == 0) {
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons (port) };
    address.sin_addr.s_addr = htonl (INADDR_LOOPBACK);
    listener = socket (AF_INET, SOCK_STREAM, 0);
    setsockopt (listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt (listener, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* clients inherit it */
    if (bind (listener, (struct sockaddr *) &address, sizeof address) == -1)
      error (1, errno, "bind");
  }
  else {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy (address.sun_path, where, sizeof address.sun_path - 1);
    listener = socket (AF_UNIX, SOCK_STREAM, 0);
    if (bind (listener, (struct sockaddr *) &address, sizeof address) == -1)
      error (1, errno, "bind");
  }
  if (listen (listener, 128) == -1)
    error (1, errno, "listen");
  return listener;
}

/* Reap the children that have ended, so that their CPU time counts as this process's. */
static void
reap (int signal)
{
  (void) signal;
  while (waitpid (-1, NULL, WNOHANG) > 0)
    continue;
}

int
main (int argc, char **argv)
{
  struct stat status;
  int file = argc == 3 ? open (argv[1], O_RDWR) : -1;
  if (file == -1 || fstat (file, &status) == -1)
    error (1, errno, "FILE PATH|PORT");
  in = mmap (NULL, 2 * LARGEST + RECEIVE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
             0);
  out = mmap (NULL, 2 * LARGEST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (in == MAP_FAILED || out == MAP_FAILED)
    error (1, errno, "memory");
  int listener = listening (argv[2]);
  struct sigaction action = { .sa_handler = reap, .sa_flags = SA_RESTART };
  sigaction (SIGCHLD, &action, NULL);
  for (;;) {
    int client = accept (listener, NULL, NULL);
    if (client == -1)
      continue;
    if (fork () == 0) {
      close (listener);
      handshake (client, status.st_size);
      answer (client, file);
    }
    close (client);
  }
}
