/* Into Python, from C: see upcalls.h.
 *
 * Python may be entered only while its interpreter lives, and only in a process that the
 * interpreter knows of: in a child that was forked by C code, the GIL may belong to a thread that
 * the child does not have.
 */

#include "upcalls.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"
#include "current.h"

PRIVATE bool verbose;

static PyObject *log_function, *failure_function;

/* -- whether there is a Python to enter -------------------------------------------------- */

static atomic_int threads_inside; /* of enter_python, on their way in or out included */

static bool
enter_python (PyGILState_STATE *state)
{
  threads_inside++;
  if (is_python_gone) {
    threads_inside--;
    return false;
  }
  *state = PyGILState_Ensure ();
  return true;
}

static void
leave_python (PyGILState_STATE state)
{
  PyGILState_Release (state);
  threads_inside--;
}

/* atexit: from now on no thread enters; wait for those that are inside. */
static PyObject *
at_exit (PyObject *module, PyObject *unused)
{
  (void) module;
  (void) unused;
  is_python_gone = true;
  Py_BEGIN_ALLOW_THREADS
  while (threads_inside > 0)
    sched_yield ();
  Py_END_ALLOW_THREADS
  Py_RETURN_NONE;
}

static void
in_any_child (void)
{
  is_python_gone = true;
  threads_inside = 0; /* those threads have stayed behind */
}

/* os.fork has made this child, and Python has been made ready for it. */
static PyObject *
in_child_of_python (PyObject *module, PyObject *unused)
{
  (void) module;
  (void) unused;
  is_python_gone = false;
  Py_RETURN_NONE;
}

static PyMethodDef exit_function = { "at_exit", at_exit, METH_NOARGS, NULL };
static PyMethodDef child_function = {
  "in_child_of_python", in_child_of_python, METH_NOARGS, NULL,
};

/* Call MODULE.NAME (FUNCTION), or MODULE.NAME (KEYWORD=FUNCTION), which registers it. */
static int
register_with (const char *module_name, const char *name, const char *keyword,
               PyMethodDef *definition)
{
  PyObject *module = PyImport_ImportModule (module_name);
  PyObject *registrar = module ? PyObject_GetAttrString (module, name) : NULL;
  PyObject *function = PyCFunction_New (definition, NULL);
  PyObject *args = NULL, *kwargs = NULL, *done = NULL;
  if (registrar != NULL && function != NULL) {
    args = keyword ? PyTuple_New (0) : PyTuple_Pack (1, function);
    kwargs = keyword ? Py_BuildValue ("{sO}", keyword, function) : NULL;
    if (args != NULL && (kwargs != NULL || keyword == NULL))
      done = PyObject_Call (registrar, args, kwargs);
  }
  Py_XDECREF (kwargs);
  Py_XDECREF (args);
  Py_XDECREF (function);
  Py_XDECREF (registrar);
  Py_XDECREF (module);
  Py_XDECREF (done);
  return done ? 0 : -1;
}

PRIVATE int
prepare_upcalls (void)
{
  int error = pthread_atfork (NULL, NULL, in_any_child);
  if (error != 0) {
    errno = error;
    PyErr_SetFromErrno (PyExc_OSError);
    return -1;
  }
  if (register_with ("os", "register_at_fork", "after_in_child", &child_function) == -1)
    return -1;
  return register_with ("atexit", "register", NULL, &exit_function);
}

/* -- the log and failures ---------------------------------------------------------------- */

PRIVATE void
set_log_and_failure (PyObject *log, PyObject *failure)
{
  PyObject *old_log = log_function, *old_failure = failure_function;
  Py_INCREF (log);
  Py_INCREF (failure);
  log_function = log;
  failure_function = failure;
  Py_XDECREF (old_log);
  Py_XDECREF (old_failure);
}

PRIVATE PyObject *
decoded (const char *text)
{
  if (text == NULL)
    Py_RETURN_NONE;
  return PyUnicode_DecodeUTF8 (text, (Py_ssize_t) strlen (text), "backslashreplace");
}

PRIVATE void
log_message_with_gil (enum level level, const char *text)
{
  if (log_function == NULL) {
    if (level == LEVEL_ERROR)
      write_message (text);
    return;
  }
  PyObject *message = decoded (text);
  PyObject *done = NULL;
  if (message != NULL)
    done = PyObject_CallFunction (log_function, "siO", current_plugin (), level == LEVEL_ERROR,
                                  message);
  if (done == NULL)
    PyErr_WriteUnraisable (log_function);
  Py_XDECREF (done);
  Py_XDECREF (message);
}

PRIVATE void
log_message (enum level level, const char *text)
{
  PyGILState_STATE state;
  if (enter_python (&state)) {
    log_message_with_gil (level, text);
    leave_python (state);
  }
  else if (level == LEVEL_ERROR)
    write_message (text);
}

PRIVATE void
raise_failure (const char *plugin, const char *callback, int error, const char *messages)
{
  if (failure_function == NULL) {
    PyErr_Format (PyExc_RuntimeError, "%s failed before set_hooks was called", callback);
    return;
  }
  PyObject *text = decoded (messages);
  if (text == NULL)
    return;
  PyObject *exception = PyObject_CallFunction (failure_function, "ssiO", plugin, callback, error,
                                               text);
  Py_DECREF (text);
  if (exception == NULL)
    return;
  if (!PyExceptionInstance_Check (exception))
    PyErr_SetString (PyExc_TypeError, "the hook for failures returned no exception");
  else
    PyErr_SetObject ((PyObject *) Py_TYPE (exception), exception);
  Py_DECREF (exception);
}

/* -- the server -------------------------------------------------------------------------- */

/* The GIL protects both. */
static PyObject *server;    /* NULL: a plugin is being loaded, and it is not known yet */
static bool is_stop_wanted; /* a plugin has asked for it while it was being loaded */

/* Stop the server, or see that it is done when there is one. */
static int
stop_server_with_gil (void)
{
  is_stop_wanted = is_stop_wanted || server == NULL;
  PyObject *done = server ? PyObject_CallMethod (server, "stop", NULL) : Py_NewRef (Py_None);
  Py_XDECREF (done);
  return done ? 0 : -1;
}

PRIVATE int
set_server (PyObject *new)
{
  PyObject *old = server;
  server = new == Py_None ? NULL : Py_NewRef (new);
  Py_XDECREF (old);
  if (server == NULL)
    is_stop_wanted = false;
  return is_stop_wanted ? stop_server_with_gil () : 0;
}

PRIVATE void
stop_server (void)
{
  PyGILState_STATE state;
  if (!enter_python (&state))
    return;
  if (stop_server_with_gil () == -1)
    PyErr_WriteUnraisable (server);
  leave_python (state);
}

/* Return what an attribute of the server is as a number, or UNKNOWN. */
static int
server_number (const char *attribute, int unknown)
{
  PyGILState_STATE state;
  if (!enter_python (&state))
    return unknown;
  PyObject *value = server ? PyObject_GetAttrString (server, attribute) : NULL;
  int number = value ? (int) PyLong_AsLong (value) : unknown;
  if (PyErr_Occurred ()) {
    PyErr_WriteUnraisable (server);
    number = unknown;
  }
  Py_XDECREF (value);
  leave_python (state);
  return number;
}

PRIVATE bool
is_server_single (void)
{
  return server_number ("single", 1) != 0;
}

/* The first answer is kept: there is one server, and its name does not change. */
PRIVATE const char *
server_name (void)
{
  static char *name;
  PyGILState_STATE state;
  if (!enter_python (&state))
    return name;
  PyObject *found = name == NULL && server ? PyObject_GetAttrString (server, "name") : NULL;
  PyObject *bytes = NULL;
  if (found != NULL && found != Py_None && PyUnicode_FSConverter (found, &bytes))
    name = strdup (PyBytes_AsString (bytes));
  if (PyErr_Occurred ())
    PyErr_WriteUnraisable (found);
  Py_XDECREF (bytes);
  Py_XDECREF (found);
  leave_python (state);
  return name;
}

PRIVATE int
server_ending (void)
{
  return server_number ("ending", -1);
}

PRIVATE void
disconnect_client (bool force)
{
  PyGILState_STATE state;
  if (!enter_python (&state))
    return;
  PyObject *method = server ? PyObject_GetAttrString (server, "disconnect") : NULL;
  PyObject *args = PyTuple_New (0);
  PyObject *kwargs = Py_BuildValue ("{sO}", "force", force ? Py_True : Py_False);
  PyObject *done = method && args && kwargs ? PyObject_Call (method, args, kwargs) : NULL;
  if (PyErr_Occurred ())
    PyErr_WriteUnraisable (method);
  Py_XDECREF (done);
  Py_XDECREF (kwargs);
  Py_XDECREF (args);
  Py_XDECREF (method);
  leave_python (state);
}

/* -- the client -------------------------------------------------------------------------- */

/* Call a function of nbdfork.plugin.client, which knows the client of this thread. */
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
  PyGILState_STATE state;
  if (!enter_python (&state))
    return -1;
  PyObject *answer = ask_client ("descriptor");
  int fd = answer ? (int) PyLong_AsLong (answer) : -1;
  Py_XDECREF (answer);
  leave_python (state);
  return fd;
}

PRIVATE bool
client_is_tls (void)
{
  PyGILState_STATE state;
  if (!enter_python (&state))
    return false;
  PyObject *answer = ask_client ("is_tls");
  bool is_tls = answer == Py_True;
  Py_XDECREF (answer);
  leave_python (state);
  return is_tls;
}

PRIVATE char *
client_certificate (const char *field)
{
  PyGILState_STATE state;
  if (!enter_python (&state))
    return strdup ("");
  PyObject *answer = ask_client ("protection");
  PyObject *name = answer && answer != Py_None ? PyObject_GetAttrString (answer, field) : NULL;
  PyObject *text = name ? PyUnicode_AsUTF8String (name) : NULL;
  char *found = strdup (text ? PyBytes_AsString (text) : "");
  PyErr_Clear ();
  Py_XDECREF (text);
  Py_XDECREF (name);
  Py_XDECREF (answer);
  leave_python (state);
  return found;
}
