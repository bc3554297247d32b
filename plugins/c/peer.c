/* What plugins ask about the client that they serve, and how they disconnect it. */

#define _GNU_SOURCE
#include "api.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "current.h"
#include "upcalls.h"

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

/* Is there a client, whose connection the plugin can ask about? */
static bool
has_client (const char *function)
{
  if (current.client != NULL)
    return true;
  nbdkit_error ("%s: there is no client here", function);
  errno = EINVAL;
  return false;
}

API int
nbdkit_is_tls (void)
{
  return has_client ("nbdkit_is_tls") ? client_is_tls () : -1;
}

API char *
nbdkit_peer_tls_dn (void)
{
  return has_client ("nbdkit_peer_tls_dn") ? client_certificate ("subject") : NULL;
}

API char *
nbdkit_peer_tls_issuer_dn (void)
{
  return has_client ("nbdkit_peer_tls_issuer_dn") ? client_certificate ("issuer") : NULL;
}

static int
socket_of_client (const char *function)
{
  int fd = client_descriptor ();
  struct stat found;
  if (fd >= 0 && fstat (fd, &found) == 0 && S_ISSOCK (found.st_mode))
    return fd;
  nbdkit_error ("%s: there is no client, or it is not on a socket", function);
  errno = ENOTSOCK;
  return -1;
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

/* Return the client's label, if the kernel has a security module that gives it one. */
API char *
nbdkit_peer_security_context (void)
{
  int fd = socket_of_client ("nbdkit_peer_security_context"), result;
  char *text = NULL;
  socklen_t length = 256, room; /* if it is too small, the kernel sets it to what is needed */
  if (fd < 0)
    return NULL;
  do {
    free (text);
    room = length;
    text = calloc (1, (size_t) room + 1); /* the label need not end with a NUL */
    result = text ? getsockopt (fd, SOL_SOCKET, SO_PEERSEC, text, &length) : -1;
  } while (result == -1 && errno == ERANGE && length > room);
  if (result == 0)
    return text;
  nbdkit_error ("nbdkit_peer_security_context: %m");
  free (text);
  return NULL;
}

/* By force the connection ends at once.  Otherwise the requests that are being carried out are
 * answered before it ends, and the plugin gets no further request.
 */
API void
nbdkit_disconnect (int force)
{
  int saved = errno;
  if (current.client == NULL)
    nbdkit_debug ("nbdkit_disconnect: there is no client here");
  else {
    current.client->is_disconnected = true;
    disconnect_client (force);
  }
  errno = saved;
}
