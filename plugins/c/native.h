/* What the parts of the extension module `_native` share.
 *
 * module.c   the module, and how callbacks are called
 * library.c  a plugin that has been loaded, and its callbacks for the server
 * client.c   what its .open returned, and the callbacks for that
 * api.c      the functions that plugins call
 * parse.c    those of them that parse what the user has typed
 * collect.c  strings that they keep, and the lists that .extents and .list_exports fill
 * crash.c    what is said when a plugin takes the process down
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */

#ifndef NBDFORK_NATIVE_H
#define NBDFORK_NATIVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define NBDKIT_API_VERSION 2
#include <nbdfork-plugin.h>

/* Plugins must find the functions of the API, and nothing else of this module. */
#define API NBDKIT_DLL_PUBLIC
#define PRIVATE __attribute__ ((__visibility__ ("hidden")))

struct text {
  struct text *next;
  char bytes[];
};

/* A client, as the functions that a plugin calls see it. */
struct client {
  char *export_name;
  struct text *interned; /* freed when it has gone */
  atomic_bool is_disconnected;
};

/* What this thread is doing.  A thread of a plugin's own is in no callback.
 *
 * The model keeps signal handlers from allocating it.
 */
struct call {
  const char *plugin;
  const char *callback; /* NULL: in none */
  struct client *client;
  int error;           /* what nbdkit_set_error said */
  char *messages;      /* what nbdkit_error said, joined, and not logged yet; NULL: nothing */
  size_t first_length; /* of the first of them */
  char *first;         /* that one, if there were so many that the earlier ones have been logged */
  bool is_ready;       /* for crashes: see give_stack */
  bool is_child;       /* the callback has forked, and this is not the process that serves */
};

extern PRIVATE __thread struct call current __attribute__ ((tls_model ("initial-exec")));

/* module.c */
enum level { LEVEL_DEBUG, LEVEL_ERROR };
extern PRIVATE bool verbose; /* are debug messages wanted? */
PRIVATE void log_message (enum level level, const char *text); /* takes the GIL */

/* The most bytes of joined messages; what would be longer is logged in parts. */
#define MOST_HELD 4096
PRIVATE void hold_message (const char *text); /* until the callback is over */

/* Of this thread's client; these take the GIL. */
PRIVATE int client_descriptor (void); /* or -1 */
PRIVATE bool client_is_tls (void);
PRIVATE char *client_certificate (const char *field); /* a name, to be freed; "" if there is none */

/* api.c */
PRIVATE void serve_under (pid_t server); /* clients can come from now on */
PRIVATE void end_sleeps_by (int fd);     /* it is readable once this process ends */
extern PRIVATE bool is_stdio_safe;

/* collect.c */
struct nbdkit_extents {
  struct nbdkit_extent *items;
  size_t count, room;
  uint64_t start, end; /* what was asked for */
};

struct export {
  char *name; /* NULL: the default export */
  char *description;
};

struct nbdkit_exports {
  struct export *items;
  size_t count, room;
};

PRIVATE void free_texts (struct text *first);
PRIVATE void clear_extents (struct nbdkit_extents *extents);
PRIVATE void clear_exports (struct nbdkit_exports *exports);

/* crash.c */
PRIVATE void give_stack (void);                      /* to this thread, once */
PRIVATE void log_in_child (const char *message);      /* where there is no Python any more */
PRIVATE int report_crashes (int fd, const char *prefix, bool serving); /* from now on, on FD */

#endif
