/* The extension module `_native`: C plugins, as Python sees them.
 *
 * A Library is a plugin that has been loaded; a Client is what its .open has returned.  Every
 * callback is called without the GIL, and what it reports becomes an exception.  Decisions, such as
 * what clients are told of a disk, are made in Python and not here.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

#include "client.h"
#include "crash.h"
#include "library.h"
#include "upcalls.h"

/* set_hooks(log, failure) */
static PyObject *
set_hooks (PyObject *module, PyObject *args)
{
  (void) module;
  PyObject *log, *failure;
  if (!PyArg_ParseTuple (args, "OO", &log, &failure))
    return NULL;
  if (!PyCallable_Check (log) || !PyCallable_Check (failure)) {
    PyErr_SetString (PyExc_TypeError, "both hooks must be callable");
    return NULL;
  }
  set_log_and_failure (log, failure);
  Py_RETURN_NONE;
}

/* set_verbose(verbose) */
static PyObject *
set_verbose (PyObject *module, PyObject *argument)
{
  (void) module;
  int answer = PyObject_IsTrue (argument);
  if (answer == -1)
    return NULL;
  verbose = answer;
  Py_RETURN_NONE;
}

/* set_server(server) */
static PyObject *
set_server_handle (PyObject *module, PyObject *server)
{
  (void) module;
  if (set_server (server) == -1)
    return NULL;
  Py_RETURN_NONE;
}

/* report_crashes(fd, prefix, serving) */
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

/* flush_output(): write what the C library has buffered, before a fork copies it */
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
  { "set_server", set_server_handle, METH_O, NULL },
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

/* Add TYPE, a new reference or NULL, to the module. */
static int
add_type (PyObject *module, const char *name, PyObject *type)
{
  int result = type ? PyModule_AddObjectRef (module, name, type) : -1;
  Py_XDECREF (type);
  return result;
}

PyMODINIT_FUNC
PyInit__native (void)
{
  if (show_symbols () == -1 || prepare_upcalls () == -1)
    return NULL;
  PyObject *module = PyModule_Create (&definition);
  if (module == NULL || add_type (module, "Library", make_library_type ()) == -1
      || add_type (module, "Client", make_client_type ()) == -1)
    Py_CLEAR (module);
  return module;
}
