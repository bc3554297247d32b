/* What a plugin's .open has returned: see handle.h.
 *
 * A client is asked nothing after its close, and not closed while a callback for it is in progress.
 */

#include "handle.h"

#include <errno.h>
#include <stdlib.h>

#include "strings.h"

PRIVATE bool
check_open (const Client *self, const char *callback, bool exists)
{
  if (self->handle != NULL)
    return check_call (self->plugin, callback, exists);
  PyErr_SetString (PyExc_ValueError, "the client is closed");
  return false;
}

PRIVATE bool
check_request (const Client *self, const char *callback, bool exists)
{
  if (!check_open (self, callback, exists))
    return false;
  if (!self->client.is_disconnected)
    return true;
  errno = ESHUTDOWN;
  PyErr_SetFromErrno (PyExc_OSError);
  return false;
}

PRIVATE void
release_client (Client *self)
{
  free (self->client.export_name);
  self->client.export_name = NULL;
  free_texts (&self->client);
}

PRIVATE int
close_handle (Client *self)
{
  struct plugin *plugin = self->plugin;
  void *handle = self->handle;
  bool has_close = plugin->callbacks.close != NULL;
  if (handle == NULL)
    return 0;
  if (self->client.calls > 0) {
    PyErr_SetString (PyExc_RuntimeError, "the client cannot be closed: it is being served");
    return -1;
  }
  if (has_close && !check_call (plugin, "close", true))
    return -1;
  self->handle = NULL;
  if (has_close) {
    CALL (plugin, "close", &self->client, plugin->callbacks.close (handle));
    finish_call (plugin, "close", false);
  }
  release_client (self);
  return 0;
}
