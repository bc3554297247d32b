/* How callbacks are called: see calls.h. */

#include "calls.h"

#include <errno.h>
#include <stdlib.h>

#include "crash.h"
#include "messages.h"
#include "upcalls.h"

PRIVATE void
refuse_call (const struct plugin *plugin, const char *callback, bool exists)
{
  const char *name = plugin->callbacks.name;
  if (!exists)
    PyErr_Format (PyExc_NotImplementedError, "the plugin %s has no .%s", name, callback);
  else if (plugin->is_unloaded)
    PyErr_Format (PyExc_ValueError, "the plugin %s has been unloaded", name);
  else
    PyErr_Format (PyExc_RuntimeError, "%s.%s is called from within %s.%s", name, callback,
                  current.plugin, current.callback);
}

PRIVATE void
begin_call (struct plugin *plugin, const char *callback, struct client *client)
{
  if (!current.has_stack)
    give_stack ();
  current.plugin = plugin->callbacks.name;
  current.callback = callback;
  current.client = client;
  current.error = 0;
  plugin->calls++;
  if (client != NULL)
    client->calls++;
}

PRIVATE void
end_call (struct plugin *plugin)
{
  plugin->calls--;
  if (current.client != NULL)
    current.client->calls--;
  current.callback = NULL;
  current.client = NULL;
}

PRIVATE int
conclude_call (const struct plugin *plugin, const char *callback, bool failed)
{
  if (!failed) {
    log_held_messages ();
    return 0;
  }
  int error = current.error;
  if (error == 0 && plugin->callbacks.errno_is_preserved)
    error = current.left_errno;
  char *messages = take_held_messages ();
  raise_failure (plugin->callbacks.name, callback, error > 0 ? error : EIO, messages);
  free (messages);
  return -1;
}
