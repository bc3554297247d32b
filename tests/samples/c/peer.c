/* The disk is the process, user and group of the client, as text. */

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static void *
peer_open (int readonly)
{
  char *text;
  long long pid = nbdkit_peer_pid (), uid = nbdkit_peer_uid (), gid = nbdkit_peer_gid ();

  (void) readonly;
  if (pid < 0 || uid < 0 || gid < 0 || asprintf (&text, "%lld %lld %lld", pid, uid, gid) == -1)
    return NULL;
  return text;
}

static int64_t
peer_get_size (void *handle)
{
  return strlen (handle);
}

static int
peer_pread (void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) flags;
  memcpy (buffer, (char *) handle + offset, count);
  return 0;
}

static struct nbdkit_plugin plugin = {
  .name = "peer",
  .open = peer_open,
  .close = free,
  .get_size = peer_get_size,
  .pread = peer_pread,
};

NBDKIT_REGISTER_PLUGIN (plugin)
