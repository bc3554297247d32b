/* What is going on: the callback that a thread is in, and the client that it is for.
 *
 * Signal handlers read this, so nothing here points to memory that has been freed.
 */

#ifndef NBDFORK_CURRENT_H
#define NBDFORK_CURRENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "api.h"

struct text; /* see strings.c */

/* A client, as the functions that a plugin calls know it. */
struct client {
  char *export_name;             /* NULL: none has been chosen yet */
  struct text *_Atomic interned; /* freed when the client has gone */
  unsigned calls;                /* callbacks in progress; the GIL protects it */
  atomic_bool is_disconnected;
};

/* What one thread is doing.  A thread that a plugin has started is never in a callback. */
struct call {
  const char *plugin;
  const char *callback; /* NULL: the thread is in none */
  struct client *client;
  int left_errno;      /* errno as the callback left it */
  int error;           /* the argument of nbdkit_set_error; 0: it was not called */
  char *messages;      /* of nbdkit_error, joined and not logged yet; NULL: there are none */
  size_t first_length; /* the length of the first of them */
  char *first;         /* the first message of all, once it has been logged; see messages.c */
  bool has_stack;      /* see crash.h */
};

/* This model of thread-local storage is allocated with the thread, never in a signal handler. */
extern PRIVATE __thread struct call current __attribute__ ((tls_model ("initial-exec")));

/* Python must not be entered any more: it is being finalized, or this process was forked by C code
 * and has left Python's threads behind.  See upcalls.c.
 */
extern PRIVATE atomic_bool is_python_gone;

/* Set by the library: the name that messages get from threads a plugin has started. */
extern PRIVATE const char *latest_plugin;

/* Return the name of the plugin that this thread works for. */
PRIVATE const char *current_plugin (void);

#endif
