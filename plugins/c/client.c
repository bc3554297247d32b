/* Client: what a plugin's .open returned, and the callbacks for it. */

#include "objects.h"

#include <stdlib.h>
#include <string.h>

static void
client_release (Client *self)
{
  free (self->client.export_name);
  self->client.export_name = NULL;
  free_texts (self->client.interned);
  self->client.interned = NULL;
}

static void
client_dealloc (PyObject *object)
{
  PyTypeObject *type = Py_TYPE (object);
  Client *self = (Client *) object;
  client_release (self);
  Py_XDECREF ((PyObject *) self->library);
  freefunc release = (freefunc) PyType_GetSlot (type, Py_tp_free);
  release (object);
  Py_DECREF (type);
}

/* client.close() */
static PyObject *
client_close (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  void *handle = self->handle;
  self->handle = NULL;
  if (handle != NULL && self->library->plugin.close != NULL) {
    int left_errno, result;
    CALL (self->library, "close", &self->client, result,
          (self->library->plugin.close (handle), 0));
    (void) left_errno;
    (void) result;
    succeed ();
  }
  client_release (self);
  Py_RETURN_NONE;
}

/* Say whether a request may reach the plugin, which is asked nothing after its close. */
static int
check_open (Client *self)
{
  if (self->handle == NULL) {
    PyErr_SetString (PyExc_ValueError, "the client is closed");
    return -1;
  }
  if (self->client.is_disconnected) {
    errno = ESHUTDOWN;
    PyErr_SetFromErrno (PyExc_OSError);
    return -1;
  }
  return 0;
}

/* Take the whole numbers that a request consists of. */
static int
take_request (Client *self, PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted,
              uint32_t *count, uint64_t *offset, uint32_t *flags)
{
  if (given != wanted) {
    PyErr_Format (PyExc_TypeError, "%zd arguments are needed, not %zd", wanted, given);
    return -1;
  }
  if (check_open (self) == -1)
    return -1;
  unsigned long long large = PyLong_AsUnsignedLongLong (args[0]);
  if (large > UINT32_MAX) {
    if (!PyErr_Occurred ())
      PyErr_SetString (PyExc_OverflowError, "the API takes less than 4 GiB at once");
    return -1;
  }
  *count = (uint32_t) large;
  *offset = PyLong_AsUnsignedLongLong (args[1]);
  if (wanted == 3)
    *flags = (uint32_t) PyLong_AsUnsignedLong (args[2]);
  return PyErr_Occurred () ? -1 : 0;
}

/* client.pread(count, offset) -> bytes */
static PyObject *
client_pread (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  Library *library = self->library;
  uint32_t count;
  uint64_t offset;
  if (take_request (self, args, given, 2, &count, &offset, NULL) == -1)
    return NULL;
  PyObject *data = PyBytes_FromStringAndSize (NULL, count);
  if (data == NULL)
    return NULL;
  char *buffer = PyBytes_AsString (data);
  int result, left_errno;
  CALL (library, "pread", &self->client, result,
        library->is_version_1
            ? library->plugin._pread_v1 (self->handle, buffer, count, offset)
            : library->plugin.pread (self->handle, buffer, count, offset, 0));
  if (result == -1) {
    Py_DECREF (data);
    fail (library, "pread", left_errno);
    return NULL;
  }
  succeed ();
  return data;
}

/* client.pwrite(data, offset, flags) */
static PyObject *
client_pwrite (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  Library *library = self->library;
  if (given != 3) {
    PyErr_SetString (PyExc_TypeError, "3 arguments are needed");
    return NULL;
  }
  if (check_open (self) == -1)
    return NULL;
  uint64_t offset = PyLong_AsUnsignedLongLong (args[1]);
  uint32_t flags = (uint32_t) PyLong_AsUnsignedLong (args[2]);
  Py_buffer data;
  if (PyErr_Occurred () || PyObject_GetBuffer (args[0], &data, PyBUF_SIMPLE) == -1)
    return NULL;
  uint32_t count = (uint32_t) data.len; /* no request is as long as 4 GiB */
  int result, left_errno;
  CALL (library, "pwrite", &self->client, result,
        library->is_version_1
            ? library->plugin._pwrite_v1 (self->handle, data.buf, count, offset)
            : library->plugin.pwrite (self->handle, data.buf, count, offset, flags));
  PyBuffer_Release (&data);
  return outcome (library, "pwrite", result, left_errno);
}

/* client.flush() */
static PyObject *
client_flush (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  Library *library = self->library;
  int result, left_errno;
  if (check_open (self) == -1)
    return NULL;
  CALL (library, "flush", &self->client, result,
        library->is_version_1 ? library->plugin._flush_v1 (self->handle)
                              : library->plugin.flush (self->handle, 0));
  return outcome (library, "flush", result, left_errno);
}

/* client.trim(count, offset, flags) */
static PyObject *
client_trim (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  Library *library = self->library;
  uint32_t count, flags;
  uint64_t offset;
  if (take_request (self, args, given, 3, &count, &offset, &flags) == -1)
    return NULL;
  int result, left_errno;
  CALL (library, "trim", &self->client, result,
        library->is_version_1
            ? library->plugin._trim_v1 (self->handle, count, offset)
            : library->plugin.trim (self->handle, count, offset, flags));
  return outcome (library, "trim", result, left_errno);
}

/* client.zero(count, offset, flags) */
static PyObject *
client_zero (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  Library *library = self->library;
  uint32_t count, flags;
  uint64_t offset;
  if (take_request (self, args, given, 3, &count, &offset, &flags) == -1)
    return NULL;
  int result, left_errno;
  CALL (library, "zero", &self->client, result,
        library->is_version_1
            ? library->plugin._zero_v1 (self->handle, count, offset, flags & NBDKIT_FLAG_MAY_TRIM)
            : library->plugin.zero (self->handle, count, offset, flags));
  return outcome (library, "zero", result, left_errno);
}

/* client.cache(count, offset) */
static PyObject *
client_cache (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  Library *library = self->library;
  uint32_t count;
  uint64_t offset;
  if (take_request (self, args, given, 2, &count, &offset, NULL) == -1)
    return NULL;
  int result, left_errno;
  CALL (library, "cache", &self->client, result,
        library->plugin.cache (self->handle, count, offset, 0));
  return outcome (library, "cache", result, left_errno);
}

/* client.extents(count, offset, flags) -> [(offset, length, type)], from OFFSET on, no longer */
static PyObject *
client_extents (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  uint32_t count, flags;
  uint64_t offset;
  if (take_request (self, args, given, 3, &count, &offset, &flags) == -1)
    return NULL;
  struct nbdkit_extents extents = { .start = offset, .end = offset + count };
  int result, left_errno;
  CALL (self->library, "extents", &self->client, result,
        self->library->plugin.extents (self->handle, count, offset, flags, &extents));
  PyObject *list = NULL;
  if (end (self->library, "extents", result == -1, left_errno) == 0)
    list = PyList_New ((Py_ssize_t) extents.count);
  for (size_t i = 0; list != NULL && i < extents.count; i++) {
    struct nbdkit_extent *extent = &extents.items[i];
    PyObject *item = Py_BuildValue ("KKI", (unsigned long long) extent->offset,
                                    (unsigned long long) extent->length, extent->type);
    if (item == NULL || PyList_SetItem (list, (Py_ssize_t) i, item) == -1)
      Py_CLEAR (list);
  }
  clear_extents (&extents);
  return list;
}

/* client.ask(name) -> int: call one of the `questions`, which the plugin must have */
static PyObject *
client_ask (PyObject *object, PyObject *argument)
{
  Client *self = (Client *) object;
  PyObject *bytes = PyUnicode_AsASCIIString (argument);
  if (bytes == NULL)
    return NULL;
  const struct slot *slot = find_slot (questions, PyBytes_AsString (bytes));
  Py_DECREF (bytes);
  if (slot == NULL || function_in (self->library, slot) == NULL || self->handle == NULL) {
    PyErr_SetObject (PyExc_KeyError, argument);
    return NULL;
  }
  int result, left_errno;
  CALL (self->library, slot->name, &self->client, result,
        ((Ask) function_in (self->library, slot)) (self->handle));
  if (end (self->library, slot->name, result == -1, left_errno) == -1)
    return NULL;
  return PyLong_FromLong (result);
}

/* client.get_size() -> int */
static PyObject *
client_get_size (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  int64_t size;
  int left_errno;
  CALL (self->library, "get_size", &self->client, size,
        self->library->plugin.get_size (self->handle));
  if (end (self->library, "get_size", size == -1, left_errno) == -1)
    return NULL;
  return PyLong_FromLongLong (size);
}

/* client.block_size() -> (minimum, preferred, maximum) */
static PyObject *
client_block_size (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  uint32_t minimum = 0, preferred = 0, maximum = 0;
  int result, left_errno;
  CALL (self->library, "block_size", &self->client, result,
        self->library->plugin.block_size (self->handle, &minimum, &preferred, &maximum));
  if (end (self->library, "block_size", result == -1, left_errno) == -1)
    return NULL;
  return Py_BuildValue ("III", minimum, preferred, maximum);
}

/* client.export_description() -> str */
static PyObject *
client_export_description (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  const char *text;
  int left_errno;
  CALL (self->library, "export_description", &self->client, text,
        self->library->plugin.export_description (self->handle));
  if (end (self->library, "export_description", text == NULL, left_errno) == -1)
    return NULL;
  return decoded (text);
}

#define FAST(function) (PyCFunction) (void (*) (void)) (function), METH_FASTCALL, NULL

static PyMethodDef client_methods[] = {
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

static PyType_Slot client_slots[] = {
  { Py_tp_dealloc, client_dealloc },
  { Py_tp_methods, client_methods },
  { 0, NULL },
};
static PyType_Spec client_spec = {
  .name = "nbdfork.plugins.c._native.Client",
  .basicsize = sizeof (Client),
  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
  .slots = client_slots,
};

PRIVATE PyObject *
make_client_type (void)
{
  return PyType_FromSpec (&client_spec);
}
