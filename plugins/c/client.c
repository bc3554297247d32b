/* Client: what a plugin's .open has returned, as an object of Python. */

#include "client.h"

#include <stdlib.h>
#include <string.h>

#include "handle.h"
#include "requests.h"
#include "slots.h"
#include "upcalls.h"

static PyObject *client_type;

/* -- its life ---------------------------------------------------------------------------- */

PRIVATE PyObject *
open_client (PyObject *owner, struct plugin *plugin, const char *export_name, int read_only)
{
  if (!check_call (plugin, "open", plugin->callbacks.open != NULL))
    return NULL;
  PyTypeObject *type = (PyTypeObject *) client_type;
  Client *self = (Client *) ((allocfunc) PyType_GetSlot (type, Py_tp_alloc)) (type, 0);
  if (self == NULL)
    return NULL;
  Py_INCREF (owner);
  self->owner = owner;
  self->plugin = plugin;
  self->client.export_name = strdup (export_name);
  if (self->client.export_name == NULL) {
    Py_DECREF (self);
    return PyErr_NoMemory ();
  }
  void *handle;
  CALL (plugin, "open", &self->client, handle = plugin->callbacks.open (read_only));
  if (finish_call (plugin, "open", handle == NULL) == -1) {
    Py_DECREF (self);
    return NULL;
  }
  self->handle = handle;
  return (PyObject *) self;
}

/* client.close() */
static PyObject *
client_close (PyObject *object, PyObject *unused)
{
  (void) unused;
  if (close_handle ((Client *) object) == -1)
    return NULL;
  Py_RETURN_NONE;
}

/* No callback can be called here, where any thread may be doing anything: the handle is lost. */
static void
warn_of_open_handle (void)
{
  PyObject *type, *value, *traceback;
  PyErr_Fetch (&type, &value, &traceback);
  if (PyErr_ResourceWarning (NULL, 1, "a client of a C plugin was not closed") == -1)
    PyErr_WriteUnraisable (NULL);
  PyErr_Restore (type, value, traceback);
}

static void
client_dealloc (PyObject *object)
{
  PyTypeObject *type = Py_TYPE (object);
  Client *self = (Client *) object;
  if (self->handle != NULL)
    warn_of_open_handle ();
  release_client (self);
  Py_XDECREF (self->owner);
  ((freefunc) PyType_GetSlot (type, Py_tp_free)) (object);
  Py_DECREF (type);
}

/* -- facts ------------------------------------------------------------------------------- */

/* client.ask(name) -> int: call one of the `questions` */
static PyObject *
client_ask (PyObject *object, PyObject *name)
{
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  const struct slot *slot = find_slot (questions, name);
  if (slot == NULL)
    return NULL;
  Question question = (Question) function_in (plugin, slot);
  if (!check_open (self, slot->name, question != NULL))
    return NULL;
  int answer;
  CALL (plugin, slot->name, &self->client, answer = question (self->handle));
  if (finish_call (plugin, slot->name, answer == -1) == -1)
    return NULL;
  return PyLong_FromLong (answer);
}

/* client.get_size() -> int */
static PyObject *
client_get_size (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  if (!check_open (self, "get_size", plugin->callbacks.get_size != NULL))
    return NULL;
  int64_t size;
  CALL (plugin, "get_size", &self->client, size = plugin->callbacks.get_size (self->handle));
  if (finish_call (plugin, "get_size", size == -1) == -1)
    return NULL;
  return PyLong_FromLongLong (size);
}

/* client.block_size() -> (minimum, preferred, maximum) */
static PyObject *
client_block_size (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  if (!check_open (self, "block_size", plugin->callbacks.block_size != NULL))
    return NULL;
  uint32_t minimum = 0, preferred = 0, maximum = 0;
  int result;
  CALL (plugin, "block_size", &self->client,
        result = plugin->callbacks.block_size (self->handle, &minimum, &preferred, &maximum));
  if (finish_call (plugin, "block_size", result == -1) == -1)
    return NULL;
  return Py_BuildValue ("III", minimum, preferred, maximum);
}

/* client.export_description() -> str */
static PyObject *
client_export_description (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  if (!check_open (self, "export_description", plugin->callbacks.export_description != NULL))
    return NULL;
  const char *text;
  CALL (plugin, "export_description", &self->client,
        text = plugin->callbacks.export_description (self->handle));
  if (finish_call (plugin, "export_description", text == NULL) == -1)
    return NULL;
  return decoded (text);
}

/* -- the type ---------------------------------------------------------------------------- */

#define FAST(function) (PyCFunction) (void (*) (void)) (function), METH_FASTCALL, NULL

static PyMethodDef methods[] = {
  { "pread", FAST (client_pread) },
  { "pwrite", FAST (client_pwrite) },
  { "flush", client_flush, METH_NOARGS, NULL },
  { "trim", FAST (client_trim) },
  { "zero", FAST (client_zero) },
  { "cache", FAST (client_cache) },
  { "extents", FAST (client_extents) },
  { "ask", client_ask, METH_O, NULL },
  { "get_size", client_get_size, METH_NOARGS, NULL },
  { "block_size", client_block_size, METH_NOARGS, NULL },
  { "export_description", client_export_description, METH_NOARGS, NULL },
  { "close", client_close, METH_NOARGS, NULL },
  { NULL, NULL, 0, NULL },
};

static PyType_Slot slots[] = {
  { Py_tp_dealloc, client_dealloc },
  { Py_tp_methods, methods },
  { 0, NULL },
};

static PyType_Spec spec = {
  .name = "nbdfork.plugins.c._native.Client",
  .basicsize = sizeof (Client),
  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
  .slots = slots,
};

PRIVATE PyObject *
make_client_type (void)
{
  client_type = PyType_FromSpec (&spec);
  Py_XINCREF (client_type); /* one reference stays here */
  return client_type;
}
