/* How callbacks are called: without the GIL, one at a time in a thread, and so that what one reports
 * becomes an exception.
 *
 * A call has three steps, all with the GIL: `check_call`, CALL, and one of `finish_call` and
 * `finish_operation`.
 */

#ifndef NBDFORK_CALLS_H
#define NBDFORK_CALLS_H

#include "current.h"
#include "plugin.h"

/* Raise the reason why `check_call` returns false. */
PRIVATE void refuse_call (const struct plugin *plugin, const char *callback, bool exists);

/* May CALLBACK, if it EXISTS, be called here and now?  If not, an exception is set. */
static inline bool
check_call (const struct plugin *plugin, const char *callback, bool exists)
{
  if (exists && !plugin->is_unloaded && current.callback == NULL)
    return true;
  refuse_call (plugin, callback, exists);
  return false;
}

PRIVATE void begin_call (struct plugin *plugin, const char *callback, struct client *client);
PRIVATE void end_call (struct plugin *plugin);

/* Carry out ASSIGNMENT, of what CALLBACK returns.  CLIENT may be NULL. */
#define CALL(plugin, callback, client, assignment) \
  do { \
    begin_call (plugin, callback, client); \
    Py_BEGIN_ALLOW_THREADS \
    errno = 0; \
    assignment; \
    current.left_errno = errno; \
    Py_END_ALLOW_THREADS \
    end_call (plugin); \
  } while (0)

/* What is left to do if there are messages, or the call has FAILED. */
PRIVATE int conclude_call (const struct plugin *plugin, const char *callback, bool failed);

/* Log the messages of a call that has succeeded, or raise the exception for one that has FAILED.
 * Return -1 if an exception is set.
 */
static inline int
finish_call (const struct plugin *plugin, const char *callback, bool failed)
{
  if (!failed && current.messages == NULL)
    return 0;
  return conclude_call (plugin, callback, failed);
}

/* The same for a callback of which only the failure is of interest: return None, or NULL. */
static inline PyObject *
finish_operation (const struct plugin *plugin, const char *callback, int result)
{
  if (finish_call (plugin, callback, result == -1) == -1)
    return NULL;
  Py_RETURN_NONE;
}

#endif
