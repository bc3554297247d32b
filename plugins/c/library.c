/* Library: a plugin that has been loaded, as an object of Python. */

#include "library.h"

#include <dlfcn.h>
#include <string.h>

#include "calls.h"
#include "client.h"
#include "lists.h"
#include "slots.h"
#include "strings.h"
#include "upcalls.h"

typedef struct {
  PyObject_HEAD
  struct plugin plugin;
} Library;

/* -- its life ---------------------------------------------------------------------------- */

/* Library(path) */
static PyObject *
library_new (PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
  PyObject *path = NULL;
  if (kwargs != NULL && PyDict_Size (kwargs) > 0) {
    PyErr_SetString (PyExc_TypeError, "Library takes no keyword arguments");
    return NULL;
  }
  if (!PyArg_ParseTuple (args, "O&", PyUnicode_FSConverter, &path))
    return NULL;
  Library *self = (Library *) ((allocfunc) PyType_GetSlot (type, Py_tp_alloc)) (type, 0);
  if (self != NULL && load_plugin (&self->plugin, PyBytes_AsString (path)) == -1)
    Py_CLEAR (self);
  Py_DECREF (path);
  if (self != NULL)
    latest_plugin = self->plugin.callbacks.name;
  return (PyObject *) self;
}

static void
library_dealloc (PyObject *object)
{
  PyTypeObject *type = Py_TYPE (object);
  ((freefunc) PyType_GetSlot (type, Py_tp_free)) (object);
  Py_DECREF (type);
}

/* -- callbacks --------------------------------------------------------------------------- */

/* library.callbacks() -> the names of all that it has */
static PyObject *
library_callbacks (PyObject *object, PyObject *unused)
{
  (void) unused;
  return callback_names (&((Library *) object)->plugin);
}

/* Find NAME among the steps or else the notices; set *IS_STEP. */
static const struct slot *
find_step_or_notice (PyObject *name, bool *is_step)
{
  const struct slot *slot = find_slot (steps, name);
  *is_step = slot != NULL;
  if (slot != NULL || !PyErr_ExceptionMatches (PyExc_KeyError))
    return slot;
  PyErr_Clear ();
  return find_slot (notices, name);
}

/* After .unload nothing else is called, so nothing may be in progress. */
static int
check_unload (const struct plugin *plugin, const struct slot *slot)
{
  if (slot->offset != offsetof (struct nbdkit_plugin, unload) || plugin->calls == 0)
    return 0;
  PyErr_Format (PyExc_RuntimeError, "the plugin %s cannot be unloaded: it is being called",
                plugin->callbacks.name);
  return -1;
}

/* library.run(name) -> int: call a callback that takes no arguments; 0 if it returns nothing */
static PyObject *
library_run (PyObject *object, PyObject *name)
{
  struct plugin *plugin = &((Library *) object)->plugin;
  bool is_step;
  const struct slot *slot = find_step_or_notice (name, &is_step);
  if (slot == NULL)
    return NULL;
  Notice notice = function_in (plugin, slot);
  if (!check_call (plugin, slot->name, notice != NULL) || check_unload (plugin, slot) == -1)
    return NULL;
  int result = 0;
  if (is_step)
    CALL (plugin, slot->name, NULL, result = ((Step) notice) ());
  else
    CALL (plugin, slot->name, NULL, notice ());
  if (slot->offset == offsetof (struct nbdkit_plugin, unload))
    plugin->is_unloaded = true;
  if (finish_call (plugin, slot->name, result < 0) == -1)
    return NULL;
  return PyLong_FromLong (result);
}

/* library.config(key, value) */
static PyObject *
library_config (PyObject *object, PyObject *args)
{
  struct plugin *plugin = &((Library *) object)->plugin;
  PyObject *key = NULL, *value = NULL;
  /* Plugins keep the pointers, so both strings live for ever. */
  if (!PyArg_ParseTuple (args, "O&O&", PyUnicode_FSConverter, &key, PyUnicode_FSConverter, &value))
    return NULL;
  const char *kept_key = nbdkit_strdup_intern (PyBytes_AsString (key));
  const char *kept_value = nbdkit_strdup_intern (PyBytes_AsString (value));
  Py_DECREF (key);
  Py_DECREF (value);
  if (kept_key == NULL || kept_value == NULL)
    return PyErr_NoMemory ();
  if (!check_call (plugin, "config", plugin->callbacks.config != NULL))
    return NULL;
  int result;
  CALL (plugin, "config", NULL, result = plugin->callbacks.config (kept_key, kept_value));
  return finish_operation (plugin, "config", result);
}

/* library.preconnect(read_only) */
static PyObject *
library_preconnect (PyObject *object, PyObject *argument)
{
  struct plugin *plugin = &((Library *) object)->plugin;
  struct client nobody = { 0 }; /* no export has been chosen yet */
  int read_only = PyObject_IsTrue (argument), result;
  if (read_only == -1 || !check_call (plugin, "preconnect", plugin->callbacks.preconnect != NULL))
    return NULL;
  CALL (plugin, "preconnect", &nobody, result = plugin->callbacks.preconnect (read_only));
  free_texts (&nobody);
  return finish_operation (plugin, "preconnect", result);
}

static PyObject *
list_of_exports (const struct nbdkit_exports *exports)
{
  PyObject *list = PyList_New ((Py_ssize_t) exports->count);
  for (size_t i = 0; list != NULL && i < exports->count; i++) {
    const struct export *export = &exports->items[i];
    PyObject *item = Py_BuildValue ("NN", decoded (export->name), decoded (export->description));
    if (item == NULL || PyList_SetItem (list, (Py_ssize_t) i, item) == -1)
      Py_CLEAR (list);
  }
  return list;
}

/* library.list_exports(read_only) -> [(name or None, description or None)] */
static PyObject *
library_list_exports (PyObject *object, PyObject *argument)
{
  struct plugin *plugin = &((Library *) object)->plugin;
  struct nbdkit_exports exports = { 0 };
  struct client nobody = { 0 };
  int read_only = PyObject_IsTrue (argument), result;
  if (read_only == -1)
    return NULL;
  int is_tls = client_is_tls (); /* before the check, for it runs Python code */
  if (!check_call (plugin, "list_exports", plugin->callbacks.list_exports != NULL))
    return NULL;
  CALL (plugin, "list_exports", &nobody,
        result = plugin->callbacks.list_exports (read_only, is_tls, &exports));
  free_texts (&nobody);
  PyObject *list = NULL;
  if (finish_call (plugin, "list_exports", result == -1) == 0)
    list = list_of_exports (&exports);
  clear_exports (&exports);
  return list;
}

/* library.default_export(read_only) -> str */
static PyObject *
library_default_export (PyObject *object, PyObject *argument)
{
  struct plugin *plugin = &((Library *) object)->plugin;
  struct client nobody = { 0 };
  int read_only = PyObject_IsTrue (argument);
  if (read_only == -1)
    return NULL;
  int is_tls = client_is_tls ();
  if (!check_call (plugin, "default_export", plugin->callbacks.default_export != NULL))
    return NULL;
  const char *name;
  CALL (plugin, "default_export", &nobody,
        name = plugin->callbacks.default_export (read_only, is_tls));
  PyObject *result = NULL;
  if (finish_call (plugin, "default_export", name == NULL) == 0)
    result = decoded (name);
  free_texts (&nobody); /* the name may be one of them */
  return result;
}

/* library.open(export_name, read_only) -> Client */
static PyObject *
library_open (PyObject *object, PyObject *args)
{
  const char *name;
  int read_only;
  if (!PyArg_ParseTuple (args, "sp", &name, &read_only))
    return NULL;
  return open_client (object, &((Library *) object)->plugin, name, read_only);
}

/* -- variables --------------------------------------------------------------------------- */

/* Return NULL for a name that the plugin does not have, or with an exception set for no name. */
static int *
variable (PyObject *object, PyObject *name)
{
  Py_ssize_t length;
  const char *text = PyUnicode_AsUTF8AndSize (name, &length);
  if (text == NULL || strlen (text) != (size_t) length)
    return NULL;
  return find_variable (&((Library *) object)->plugin, text);
}

/* library.get_variable(name) -> the value of an exported variable of type int, or None */
static PyObject *
library_get_variable (PyObject *object, PyObject *name)
{
  int *found = variable (object, name);
  if (found != NULL)
    return PyLong_FromLong (*found);
  if (PyErr_Occurred ())
    return NULL;
  Py_RETURN_NONE;
}

/* library.set_variable(name, value) */
static PyObject *
library_set_variable (PyObject *object, PyObject *args)
{
  PyObject *name;
  int value;
  if (!PyArg_ParseTuple (args, "Ui", &name, &value))
    return NULL;
  int *found = variable (object, name);
  if (found == NULL) {
    if (!PyErr_Occurred ())
      PyErr_SetObject (PyExc_KeyError, name);
    return NULL;
  }
  *found = value;
  Py_RETURN_NONE;
}

/* -- members of its struct --------------------------------------------------------------- */

static PyObject *
library_text (PyObject *object, void *offset)
{
  const char *text;
  memcpy (&text, (char *) &((Library *) object)->plugin.callbacks + (size_t) offset, sizeof text);
  return decoded (text);
}

static PyObject *
library_number (PyObject *object, void *offset)
{
  int number;
  memcpy (&number, (char *) &((Library *) object)->plugin.callbacks + (size_t) offset,
          sizeof number);
  return PyLong_FromLong (number);
}

static PyObject *
library_struct_size (PyObject *object, void *unused)
{
  (void) unused;
  return PyLong_FromUnsignedLongLong (((Library *) object)->plugin.declared_size);
}

#define MEMBER(name, get, member) \
  { name, get, NULL, NULL, (void *) offsetof (struct nbdkit_plugin, member) }

static PyGetSetDef members[] = {
  MEMBER ("name", library_text, name),
  MEMBER ("longname", library_text, longname),
  MEMBER ("version", library_text, version),
  MEMBER ("description", library_text, description),
  MEMBER ("config_help", library_text, config_help),
  MEMBER ("magic_config_key", library_text, magic_config_key),
  MEMBER ("api_version", library_number, _api_version),
  MEMBER ("max_thread_model", library_number, _thread_model),
  MEMBER ("errno_is_preserved", library_number, errno_is_preserved),
  { "struct_size", library_struct_size, NULL, NULL, NULL },
  { NULL, NULL, NULL, NULL, NULL },
};

/* -- the type ---------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
  { "callbacks", library_callbacks, METH_NOARGS, NULL },
  { "run", library_run, METH_O, NULL },
  { "config", library_config, METH_VARARGS, NULL },
  { "preconnect", library_preconnect, METH_O, NULL },
  { "list_exports", library_list_exports, METH_O, NULL },
  { "default_export", library_default_export, METH_O, NULL },
  { "open", library_open, METH_VARARGS, NULL },
  { "get_variable", library_get_variable, METH_O, NULL },
  { "set_variable", library_set_variable, METH_VARARGS, NULL },
  { NULL, NULL, 0, NULL },
};

static PyType_Slot slots[] = {
  { Py_tp_new, library_new },
  { Py_tp_dealloc, library_dealloc },
  { Py_tp_methods, methods },
  { Py_tp_getset, members },
  { 0, NULL },
};

static PyType_Spec spec = {
  .name = "nbdfork.plugins.c._native.Library",
  .basicsize = sizeof (Library),
  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
  .slots = slots,
};

PRIVATE PyObject *
make_library_type (void)
{
  return PyType_FromSpec (&spec);
}
