/* Into Python, from C: the log, the exception for a failure, the server and the client.
 *
 * Functions that say so need the GIL to be held.  The others may be called in any thread, also where
 * there is no Python any more: then they log without it, and know neither server nor client.
 */

#ifndef NBDFORK_UPCALLS_H
#define NBDFORK_UPCALLS_H

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "api.h"

/* Prepare, when the module is made.  Needs the GIL; return -1 with an exception set on failure. */
PRIVATE int prepare_upcalls (void);

/* Set the functions log (plugin, is_error, text) and failure (plugin, callback, errno, messages),
 * which returns an exception.  Needs the GIL.
 */
PRIVATE void set_log_and_failure (PyObject *log, PyObject *failure);

enum level { LEVEL_DEBUG, LEVEL_ERROR };

extern PRIVATE bool verbose; /* are debug messages wanted? */

PRIVATE void log_message (enum level level, const char *text);
PRIVATE void log_message_with_gil (enum level level, const char *text);

/* Return TEXT as a str, or None for NULL.  Needs the GIL. */
PRIVATE PyObject *decoded (const char *text);

/* Raise the exception for a callback that has failed; MESSAGES may be NULL.  Needs the GIL. */
PRIVATE void raise_failure (const char *plugin, const char *callback, int error,
                            const char *messages);

/* Set the server that the plugin is part of, an nbdfork.plugin.Server, or None while the plugin is
 * being loaded: what it wants then is done later.  Needs the GIL.  Return -1 with an exception set
 * if that fails.
 */
PRIVATE int set_server (PyObject *server);

PRIVATE void stop_server (void);
PRIVATE bool is_server_single (void); /* also true while it is not known */
PRIVATE const char *server_name (void); /* for as long as the process lives; or NULL */
PRIVATE int server_ending (void);     /* readable once this process ends; -1: it does not serve yet */

/* About the client that this thread serves: */
PRIVATE void disconnect_client (bool force);
PRIVATE int client_descriptor (void); /* -1: there is none */
PRIVATE bool client_is_tls (void);
PRIVATE char *client_certificate (const char *field); /* a name, to be freed; "": there is none */

#endif
