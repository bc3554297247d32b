/* Library: a plugin that has been loaded, and its callbacks for the server. */

#include "objects.h"

#include <dlfcn.h>
#include <string.h>

/* -- tables of callbacks ----------------------------------------------------------------- */

#define SLOT(member) { #member, offsetof (struct nbdkit_plugin, member) }

PRIVATE const struct slot questions[] = { /* Ask */
  SLOT (can_write),     SLOT (can_flush),   SLOT (is_rotational),  SLOT (can_trim),
  SLOT (can_zero),      SLOT (can_fua),     SLOT (can_multi_conn), SLOT (can_extents),
  SLOT (can_cache),     SLOT (can_fast_zero), { NULL, 0 },
};
static const struct slot steps[] = { /* Step */
  SLOT (config_complete), SLOT (thread_model), SLOT (get_ready), SLOT (after_fork), { NULL, 0 },
};
static const struct slot notices[] = { /* Notice */
  SLOT (load), SLOT (unload), SLOT (dump_plugin), SLOT (cleanup), { NULL, 0 },
};
static const struct slot others[] = {
  SLOT (config), SLOT (open), SLOT (close), SLOT (get_size), SLOT (extents), SLOT (cache),
  SLOT (preconnect), SLOT (list_exports), SLOT (default_export), SLOT (export_description),
  SLOT (block_size), { NULL, 0 },
};
static const struct slot operations_v2[] = {
  SLOT (pread), SLOT (pwrite), SLOT (flush), SLOT (trim), SLOT (zero), { NULL, 0 },
};
#define SLOT_V1(member) { #member, offsetof (struct nbdkit_plugin, _##member##_v1) }
static const struct slot operations_v1[] = {
  SLOT_V1 (pread), SLOT_V1 (pwrite), SLOT_V1 (flush), SLOT_V1 (trim), SLOT_V1 (zero),
  { NULL, 0 },
};

/* Return the function of a slot, cast to what its table says; NULL if there is none. */
PRIVATE Notice
function_in (Library *library, const struct slot *slot)
{
  Notice function;
  memcpy (&function, (char *) &library->plugin + slot->offset, sizeof function);
  return function;
}

PRIVATE const struct slot *
find_slot (const struct slot *table, const char *name)
{
  for (; table->name != NULL; table++)
    if (strcmp (table->name, name) == 0)
      return table;
  return NULL;
}

/* -- Library ----------------------------------------------------------------------------- */

/* Take over the struct that plugin_init returned.  Its size is what the plugin was built with. */
static int
take_struct (Library *self, const struct nbdkit_plugin *given)
{
  uint64_t size = given->_struct_size;
  if (given->_api_version != 1 && given->_api_version != 2) {
    PyErr_Format (PyExc_ValueError, "it is built for API version %d, and there are 1 and 2",
                  given->_api_version);
    return -1;
  }
  if (size < offsetof (struct nbdkit_plugin, can_zero)) { /* where the first of all ended */
    PyErr_Format (PyExc_ValueError, "its struct nbdkit_plugin is cut off after %llu bytes",
                  (unsigned long long) size);
    return -1;
  }
  self->declared_size = size;
  self->is_version_1 = given->_api_version == 1;
  memcpy (&self->plugin, given, size < sizeof self->plugin ? size : sizeof self->plugin);
  return 0;
}

static int
library_init (PyObject *object, PyObject *args, PyObject *kwargs)
{
  Library *self = (Library *) object;
  PyObject *path = NULL;
  (void) kwargs;
  if (!PyArg_ParseTuple (args, "O&", PyUnicode_FSConverter, &path))
    return -1;
  /* Interpreters are libraries of plugins, and load modules that refer to the interpreter without
   * saying where it is.  As with nbdkit, they find it because all can see it.  A second plugin in
   * the same process would see the first one's symbols, but a server has one.
   */
  self->object = dlopen (PyBytes_AsString (path), RTLD_NOW | RTLD_GLOBAL);
  Py_DECREF (path);
  if (self->object == NULL) {
    PyErr_SetString (PyExc_OSError, dlerror ());
    return -1;
  }
  struct nbdkit_plugin *(*plugin_init) (void);
  *(void **) &plugin_init = dlsym (self->object, "plugin_init");
  if (plugin_init == NULL) {
    const char *why = dlsym (self->object, "filter_init") ? "it is a filter of nbdkit"
                                                          : "it has no function plugin_init";
    PyErr_SetString (PyExc_ValueError, why);
    return -1;
  }
  const struct nbdkit_plugin *given = plugin_init ();
  if (given == NULL) {
    PyErr_SetString (PyExc_ValueError, "its plugin_init returned NULL");
    return -1;
  }
  if (take_struct (self, given) == -1)
    return -1;
  note_plugin (self->plugin.name);
  return 0;
}

/* A library stays loaded for good: threads and exit handlers may be left in it. */
static void
library_dealloc (PyObject *object)
{
  PyTypeObject *type = Py_TYPE (object);
  freefunc release = (freefunc) PyType_GetSlot (type, Py_tp_free);
  release (object);
  Py_DECREF (type);
}

/* library.callbacks() -> the names of all that it has */
static PyObject *
library_callbacks (PyObject *object, PyObject *unused)
{
  (void) unused;
  Library *self = (Library *) object;
  const struct slot *tables[] = {
    notices, steps, questions, others, self->is_version_1 ? operations_v1 : operations_v2,
  };
  PyObject *names = PySet_New (NULL);
  for (size_t i = 0; names != NULL && i < sizeof tables / sizeof tables[0]; i++)
    for (const struct slot *slot = tables[i]; slot->name != NULL; slot++) {
      if (function_in (self, slot) == NULL)
        continue;
      PyObject *name = PyUnicode_FromString (slot->name);
      if (name == NULL || PySet_Add (names, name) == -1)
        Py_CLEAR (names);
      Py_XDECREF (name);
      if (names == NULL)
        break;
    }
  return names;
}

/* library.run(name) -> int: call a callback without arguments, which the plugin must have */
static PyObject *
library_run (PyObject *object, PyObject *argument)
{
  Library *self = (Library *) object;
  PyObject *bytes = PyUnicode_AsASCIIString (argument);
  if (bytes == NULL)
    return NULL;
  const char *name = PyBytes_AsString (bytes);
  const struct slot *step = find_slot (steps, name), *notice = find_slot (notices, name);
  Py_DECREF (bytes);
  const struct slot *slot = step ? step : notice;
  if (slot == NULL || function_in (self, slot) == NULL) {
    PyErr_SetObject (PyExc_KeyError, argument);
    return NULL;
  }
  int result = 0, left_errno;
  if (step)
    CALL (self, slot->name, NULL, result, ((Step) function_in (self, slot)) ());
  else
    CALL (self, slot->name, NULL, result, (function_in (self, slot) (), 0));
  if (end (self, slot->name, result < 0, left_errno) == -1)
    return NULL;
  return PyLong_FromLong (result);
}

/* library.config(key, value) */
static PyObject *
library_config (PyObject *object, PyObject *args)
{
  Library *self = (Library *) object;
  PyObject *key = NULL, *value = NULL;
  if (!PyArg_ParseTuple (args, "O&O&", PyUnicode_FSConverter, &key, PyUnicode_FSConverter, &value)) {
    Py_XDECREF (key);
    return NULL;
  }
  /* Plugins keep the pointers, so both live for ever. */
  int result, left_errno;
  CALL (self, "config", NULL, result,
        self->plugin.config (PyBytes_AsString (key), PyBytes_AsString (value)));
  return outcome (self, "config", result, left_errno);
}

/* library.preconnect(read_only) */
static PyObject *
library_preconnect (PyObject *object, PyObject *argument)
{
  Library *self = (Library *) object;
  struct client nobody = { 0 }; /* has chosen no export yet */
  int read_only = PyObject_IsTrue (argument), result, left_errno;
  CALL (self, "preconnect", &nobody, result, self->plugin.preconnect (read_only));
  free_texts (nobody.interned);
  return outcome (self, "preconnect", result, left_errno);
}

/* library.list_exports(read_only) -> [(name or None, description or None)] */
static PyObject *
library_list_exports (PyObject *object, PyObject *argument)
{
  Library *self = (Library *) object;
  struct nbdkit_exports exports = { 0 };
  struct client nobody = { 0 };
  int read_only = PyObject_IsTrue (argument), result, left_errno;
  bool is_tls = client_is_tls ();
  CALL (self, "list_exports", &nobody, result,
        self->plugin.list_exports (read_only, is_tls, &exports));
  free_texts (nobody.interned);
  PyObject *list = NULL;
  if (end (self, "list_exports", result == -1, left_errno) == 0)
    list = PyList_New ((Py_ssize_t) exports.count);
  for (size_t i = 0; list != NULL && i < exports.count; i++) {
    struct export *export = &exports.items[i];
    PyObject *item = Py_BuildValue ("NN", decoded (export->name), decoded (export->description));
    if (item == NULL || PyList_SetItem (list, (Py_ssize_t) i, item) == -1)
      Py_CLEAR (list);
  }
  clear_exports (&exports);
  return list;
}

/* library.default_export(read_only) -> str */
static PyObject *
library_default_export (PyObject *object, PyObject *argument)
{
  Library *self = (Library *) object;
  struct client nobody = { 0 };
  int read_only = PyObject_IsTrue (argument), left_errno;
  const char *name;
  bool is_tls = client_is_tls ();
  CALL (self, "default_export", &nobody, name, self->plugin.default_export (read_only, is_tls));
  PyObject *result = NULL;
  if (end (self, "default_export", name == NULL, left_errno) == 0)
    result = decoded (name);
  free_texts (nobody.interned); /* NAME may be one */
  return result;
}

/* library.open(export_name, read_only) -> Client */
static PyObject *
library_open (PyObject *object, PyObject *args)
{
  Library *self = (Library *) object;
  const char *name;
  int read_only, left_errno;
  if (!PyArg_ParseTuple (args, "sp", &name, &read_only))
    return NULL;
  allocfunc allocate = (allocfunc) PyType_GetSlot ((PyTypeObject *) client_type, Py_tp_alloc);
  Client *client = (Client *) allocate ((PyTypeObject *) client_type, 0);
  if (client == NULL)
    return NULL;
  Py_INCREF (object);
  client->library = self;
  client->client.export_name = strdup (name);
  CALL (self, "open", &client->client, client->handle, self->plugin.open (read_only));
  if (end (self, "open", client->handle == NULL, left_errno) == -1)
    Py_CLEAR (client);
  return (PyObject *) client;
}

static int *
variable (Library *self, PyObject *name)
{
  PyObject *bytes = PyUnicode_AsASCIIString (name);
  if (bytes == NULL) {
    PyErr_Clear (); /* C has no such names */
    return NULL;
  }
  int *found = dlsym (self->object, PyBytes_AsString (bytes));
  Py_DECREF (bytes);
  return found;
}

/* library.get_variable(name) -> the value of an exported variable of type int, or None */
static PyObject *
library_get_variable (PyObject *object, PyObject *name)
{
  int *found = variable ((Library *) object, name);
  if (found == NULL)
    Py_RETURN_NONE;
  return PyLong_FromLong (*found);
}

/* library.set_variable(name, value) */
static PyObject *
library_set_variable (PyObject *object, PyObject *args)
{
  PyObject *name;
  int value;
  if (!PyArg_ParseTuple (args, "Ui", &name, &value))
    return NULL;
  int *found = variable ((Library *) object, name);
  if (found == NULL) {
    PyErr_SetObject (PyExc_KeyError, name);
    return NULL;
  }
  *found = value;
  Py_RETURN_NONE;
}

static PyObject *
library_text (PyObject *object, void *offset)
{
  const char *text;
  memcpy (&text, (char *) &((Library *) object)->plugin + (size_t) offset, sizeof text);
  return decoded (text);
}

static PyObject *
library_number (PyObject *object, void *offset)
{
  int number;
  memcpy (&number, (char *) &((Library *) object)->plugin + (size_t) offset, sizeof number);
  return PyLong_FromLong (number);
}

static PyObject *
library_struct_size (PyObject *object, void *unused)
{
  (void) unused;
  return PyLong_FromUnsignedLongLong (((Library *) object)->declared_size);
}

#define MEMBER(name, get, member) \
  { name, get, NULL, NULL, (void *) offsetof (struct nbdkit_plugin, member) }

static PyGetSetDef library_members[] = {
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

static PyMethodDef library_methods[] = {
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

static PyType_Slot library_slots[] = {
  { Py_tp_init, library_init },
  { Py_tp_dealloc, library_dealloc },
  { Py_tp_methods, library_methods },
  { Py_tp_getset, library_members },
  { 0, NULL },
};
static PyType_Spec library_spec = {
  .name = "nbdfork.plugins.c._native.Library",
  .basicsize = sizeof (Library),
  .flags = Py_TPFLAGS_DEFAULT,
  .slots = library_slots,
};

PRIVATE PyObject *
make_library_type (void)
{
  return PyType_FromSpec (&library_spec);
}
