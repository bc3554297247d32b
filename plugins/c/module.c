/* The extension module `_native`: C plugins, as Python sees them.
 *
 * A Library is a plugin that has been loaded; a Client is what its .open returned.  Here every
 * callback is called, without the GIL, and whatever it reports becomes an exception.  What
 * clients are told, defaults included, is decided in Python; here nothing is.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */

#define _GNU_SOURCE
#include "objects.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

PRIVATE bool verbose;

/* Python functions, given once by set_hooks. */
static PyObject *log_hook;     /* (plugin, is_error, text) */
static PyObject *failure_hook; /* (plugin, callback, errno, messages) -> exception */
static const char *latest_plugin = "?";

PRIVATE PyObject *library_type, *client_type;

/* -- messages and failures --------------------------------------------------------------- */

PRIVATE PyObject *
decoded (const char *text)
{
  if (text == NULL)
    Py_RETURN_NONE;
  return PyUnicode_DecodeUTF8 (text, (Py_ssize_t) strlen (text), "backslashreplace");
}

static void
call_log_hook (const char *plugin, enum level level, const char *text)
{
  PyObject *message = decoded (text);
  PyObject *done = NULL;
  if (message != NULL && log_hook != NULL)
    done = PyObject_CallFunction (log_hook, "siO", plugin, level == LEVEL_ERROR, message);
  if (done == NULL)
    PyErr_WriteUnraisable (log_hook);
  Py_XDECREF (done);
  Py_XDECREF (message);
}

/* Ask nbdfork.plugin.client, which knows whom this thread serves.  Takes the GIL to be held. */
static PyObject *
ask_client (const char *function)
{
  PyObject *module = PyImport_ImportModule ("nbdfork.plugin.client");
  PyObject *answer = module ? PyObject_CallMethod (module, function, NULL) : NULL;
  Py_XDECREF (module);
  if (answer == NULL)
    PyErr_WriteUnraisable (NULL);
  return answer;
}

PRIVATE int
client_descriptor (void)
{
  PyGILState_STATE state = PyGILState_Ensure ();
  PyObject *answer = ask_client ("descriptor");
  int fd = answer ? (int) PyLong_AsLong (answer) : -1;
  Py_XDECREF (answer);
  PyGILState_Release (state);
  return fd;
}

PRIVATE bool
client_is_tls (void)
{
  PyGILState_STATE state = PyGILState_Ensure ();
  PyObject *answer = ask_client ("is_tls");
  bool is_tls = answer == Py_True;
  Py_XDECREF (answer);
  PyGILState_Release (state);
  return is_tls;
}

PRIVATE char *
client_certificate (const char *field)
{
  PyGILState_STATE state = PyGILState_Ensure ();
  PyObject *answer = ask_client ("protection");
  PyObject *name = answer && answer != Py_None ? PyObject_GetAttrString (answer, field) : NULL;
  PyObject *text = name ? PyUnicode_AsUTF8String (name) : NULL;
  char *found = strdup (text ? PyBytes_AsString (text) : "");
  PyErr_Clear ();
  Py_XDECREF (text);
  Py_XDECREF (name);
  Py_XDECREF (answer);
  PyGILState_Release (state);
  return found;
}

PRIVATE void
log_message (enum level level, const char *text)
{
  PyGILState_STATE state = PyGILState_Ensure ();
  call_log_hook (current.plugin ? current.plugin : latest_plugin, level, text);
  PyGILState_Release (state);
}

/* Remember a plugin, for messages from threads of its own. */
PRIVATE void
note_plugin (const char *name)
{
  latest_plugin = name ? name : "?";
}

/* Log what is held, and go on with nothing but the first message. */
static void
log_held (void)
{
  char *messages = current.messages;
  current.messages = NULL;
  log_message (LEVEL_ERROR, messages);
  if (current.first == NULL) {
    messages[current.first_length] = '\0';
    current.first = messages;
  }
  else
    free (messages);
}

/* A message belongs to the callback that says it, which may be about to fail.  A crash can come at
 * any moment, so there is never a pointer to memory that has been freed.
 */
PRIVATE void
hold_message (const char *text)
{
  char *held = current.messages, *joined;
  if (held != NULL && strlen (held) + strlen (text) > MOST_HELD) {
    log_held ();
    held = NULL;
  }
  if (held == NULL) {
    current.first_length = strlen (text);
    current.messages = strdup (text);
  }
  else if (asprintf (&joined, "%s; %s", held, text) != -1) {
    current.messages = joined;
    atomic_signal_fence (memory_order_seq_cst);
    free (held);
  }
}

PRIVATE void
begin (Library *library, const char *callback, struct client *client)
{
  if (!current.is_ready)
    give_stack ();
  current.plugin = library->plugin.name;
  current.callback = callback;
  current.client = client;
  current.error = 0;
}

/* A callback is over: log what it has said though it has not failed. */
PRIVATE void
succeed (void)
{
  current.callback = NULL;
  current.client = NULL;
  if (current.messages != NULL) {
    char *messages = current.messages;
    current.messages = NULL;
    call_log_hook (current.plugin, LEVEL_ERROR, messages);
    free (messages);
    free (current.first);
    current.first = NULL;
  }
}

/* A callback has failed, and left errno at ERROR: raise what the failure hook makes of it. */
PRIVATE void
fail (Library *library, const char *callback, int error)
{
  char *messages = current.messages, *first = current.first;
  current.messages = current.first = NULL;
  current.callback = NULL;
  current.client = NULL;
  if (current.error != 0)
    error = current.error;
  else if (!library->plugin.errno_is_preserved || error == 0)
    error = EIO;
  if (first != NULL && messages != NULL)
    call_log_hook (current.plugin, LEVEL_ERROR, messages); /* where the others are */
  PyObject *text = decoded (first ? first : messages);
  free (first);
  free (messages);
  if (text == NULL)
    return;
  PyObject *exception = PyObject_CallFunction (failure_hook, "ssiO", library->plugin.name,
                                               callback, error, text);
  Py_DECREF (text);
  if (exception == NULL)
    return;
  PyErr_SetObject ((PyObject *) Py_TYPE (exception), exception);
  Py_DECREF (exception);
}

/* End a call that is said to have FAILED or not; return its outcome. */
PRIVATE int
end (Library *library, const char *callback, bool failed, int left_errno)
{
  if (failed)
    fail (library, callback, left_errno);
  else
    succeed ();
  return PyErr_Occurred () ? -1 : 0;
}

/* -- the module -------------------------------------------------------------------------- */

static PyObject *
set_hooks (PyObject *module, PyObject *args)
{
  (void) module;
  PyObject *log, *failure;
  if (!PyArg_ParseTuple (args, "OO", &log, &failure))
    return NULL;
  Py_INCREF (log);
  Py_INCREF (failure);
  log_hook = log;
  failure_hook = failure;
  Py_RETURN_NONE;
}

static PyObject *
set_verbose (PyObject *module, PyObject *argument)
{
  (void) module;
  verbose = PyObject_IsTrue (argument) == 1;
  Py_RETURN_NONE;
}

static PyObject *
serve_under_server (PyObject *module, PyObject *argument)
{
  (void) module;
  long pid = PyLong_AsLong (argument);
  if (pid == -1 && PyErr_Occurred ())
    return NULL;
  serve_under ((pid_t) pid);
  Py_RETURN_NONE;
}

static PyObject *
set_stdio_safe (PyObject *module, PyObject *argument)
{
  (void) module;
  is_stdio_safe = PyObject_IsTrue (argument) == 1;
  Py_RETURN_NONE;
}

static PyObject *
end_sleeps_by_fd (PyObject *module, PyObject *argument)
{
  (void) module;
  int fd = PyObject_AsFileDescriptor (argument);
  if (fd == -1)
    return NULL;
  end_sleeps_by (fd);
  Py_RETURN_NONE;
}

static PyObject *
report_crashes_on (PyObject *module, PyObject *args)
{
  (void) module;
  int fd, serving;
  const char *prefix;
  if (!PyArg_ParseTuple (args, "isp", &fd, &prefix, &serving))
    return NULL;
  if (report_crashes (fd, prefix, serving) == -1)
    return PyErr_SetFromErrno (PyExc_OSError);
  Py_RETURN_NONE;
}

static PyObject *
flush_output (PyObject *module, PyObject *unused)
{
  (void) module;
  (void) unused;
  fflush (NULL);
  Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
  { "set_hooks", set_hooks, METH_VARARGS, NULL },
  { "set_verbose", set_verbose, METH_O, NULL },
  { "serve_under", serve_under_server, METH_O, NULL },
  { "set_stdio_safe", set_stdio_safe, METH_O, NULL },
  { "end_sleeps_by", end_sleeps_by_fd, METH_O, NULL },
  { "report_crashes", report_crashes_on, METH_VARARGS, NULL },
  { "flush_output", flush_output, METH_NOARGS, NULL },
  { NULL, NULL, 0, NULL },
};

static struct PyModuleDef definition = {
  PyModuleDef_HEAD_INIT,
  .m_name = "_native",
  .m_size = -1,
  .m_methods = functions,
};

/* Python loads its modules so that nobody else sees their symbols; plugins must. */
static int
show_symbols (void)
{
  Dl_info info;
  if (dladdr (&definition, &info) == 0
      || dlopen (info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD) == NULL) {
    PyErr_SetString (PyExc_ImportError, "cannot show the functions of the API to plugins");
    return -1;
  }
  return 0;
}

PyMODINIT_FUNC
PyInit__native (void)
{
  if (show_symbols () == -1)
    return NULL;
  PyObject *module = PyModule_Create (&definition);
  library_type = make_library_type ();
  client_type = make_client_type ();
  if (module == NULL || library_type == NULL || client_type == NULL
      || PyModule_AddObjectRef (module, "Library", library_type) == -1
      || PyModule_AddObjectRef (module, "Client", client_type) == -1) {
    Py_XDECREF (module);
    return NULL;
  }
  return module;
}
