/* The requests of a client, as methods: see requests.h.
 *
 * The check that the client is open comes last before the call: what precedes it may run Python
 * code, which may close the client.
 */

#include "requests.h"

#include "handle.h"
#include "lists.h"

struct request {
  uint32_t count, flags;
  uint64_t offset;
};

/* Convert an int that is at most MOST.  Return -1, with an exception set, for anything else. */
static int
convert (PyObject *number, const char *what, unsigned long long most, unsigned long long *result)
{
  *result = PyLong_AsUnsignedLongLong (number);
  if (*result == (unsigned long long) -1 && PyErr_Occurred ())
    return -1;
  if (*result <= most)
    return 0;
  PyErr_Format (PyExc_OverflowError, "the %s is at most %llu", what, most);
  return -1;
}

/* Convert offset and flags, if there are some, for a request of COUNT bytes. */
static int
convert_rest (unsigned long long count, PyObject *offset, PyObject *flags, struct request *request)
{
  unsigned long long number;
  request->count = (uint32_t) count;
  if (convert (offset, "offset", INT64_MAX - count, &number) == -1)
    return -1;
  request->offset = number;
  number = 0;
  if (flags != NULL && convert (flags, "flags", UINT32_MAX, &number) == -1)
    return -1;
  request->flags = (uint32_t) number;
  return 0;
}

static int
check_number (Py_ssize_t given, Py_ssize_t wanted)
{
  if (given == wanted)
    return 0;
  PyErr_Format (PyExc_TypeError, "%zd arguments are needed, not %zd", wanted, given);
  return -1;
}

/* Convert the arguments count, offset and, if three are WANTED, flags. */
static int
take_request (PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted, struct request *request)
{
  unsigned long long count;
  if (check_number (given, wanted) == -1 || convert (args[0], "count", UINT32_MAX, &count) == -1)
    return -1;
  return convert_rest (count, args[1], wanted == 3 ? args[2] : NULL, request);
}

/* client.pread(count, offset) -> bytes */
PRIVATE PyObject *
client_pread (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  struct request r;
  if (take_request (args, given, 2, &r) == -1
      || !check_request (self, "pread", HAS_OPERATION (plugin, pread)))
    return NULL;
  PyObject *data = PyBytes_FromStringAndSize (NULL, r.count);
  if (data == NULL)
    return NULL;
  char *buffer = PyBytes_AsString (data);
  int result;
  CALL (plugin, "pread", &self->client,
        result = plugin->is_version_1
                     ? plugin->callbacks._pread_v1 (self->handle, buffer, r.count, r.offset)
                     : plugin->callbacks.pread (self->handle, buffer, r.count, r.offset, 0));
  if (finish_call (plugin, "pread", result == -1) == -1)
    Py_CLEAR (data);
  return data;
}

/* Write what is in a buffer, which may be of any length. */
static PyObject *
write_buffer (Client *self, const Py_buffer *data, PyObject *offset, PyObject *flags)
{
  struct plugin *plugin = self->plugin;
  struct request r;
  if (data->len > UINT32_MAX) {
    PyErr_SetString (PyExc_OverflowError, "there are more bytes than the API takes at once");
    return NULL;
  }
  if (convert_rest ((unsigned long long) data->len, offset, flags, &r) == -1
      || !check_request (self, "pwrite", HAS_OPERATION (plugin, pwrite)))
    return NULL;
  int result;
  CALL (plugin, "pwrite", &self->client,
        result = plugin->is_version_1
                     ? plugin->callbacks._pwrite_v1 (self->handle, data->buf, r.count, r.offset)
                     : plugin->callbacks.pwrite (self->handle, data->buf, r.count, r.offset,
                                                 r.flags));
  return finish_operation (plugin, "pwrite", result);
}

/* client.pwrite(data, offset, flags) */
PRIVATE PyObject *
client_pwrite (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Py_buffer data;
  if (check_number (given, 3) == -1 || PyObject_GetBuffer (args[0], &data, PyBUF_SIMPLE) == -1)
    return NULL;
  PyObject *outcome = write_buffer ((Client *) object, &data, args[1], args[2]);
  PyBuffer_Release (&data);
  return outcome;
}

/* client.flush(), which also the server asks for, after nbdkit_disconnect, too */
PRIVATE PyObject *
client_flush (PyObject *object, PyObject *unused)
{
  (void) unused;
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  if (!check_open (self, "flush", HAS_OPERATION (plugin, flush)))
    return NULL;
  int result;
  CALL (plugin, "flush", &self->client,
        result = plugin->is_version_1 ? plugin->callbacks._flush_v1 (self->handle)
                                      : plugin->callbacks.flush (self->handle, 0));
  return finish_operation (plugin, "flush", result);
}

/* client.trim(count, offset, flags) */
PRIVATE PyObject *
client_trim (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  struct request r;
  if (take_request (args, given, 3, &r) == -1
      || !check_request (self, "trim", HAS_OPERATION (plugin, trim)))
    return NULL;
  int result;
  CALL (plugin, "trim", &self->client,
        result = plugin->is_version_1
                     ? plugin->callbacks._trim_v1 (self->handle, r.count, r.offset)
                     : plugin->callbacks.trim (self->handle, r.count, r.offset, r.flags));
  return finish_operation (plugin, "trim", result);
}

/* client.zero(count, offset, flags) */
PRIVATE PyObject *
client_zero (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  struct request r;
  if (take_request (args, given, 3, &r) == -1
      || !check_request (self, "zero", HAS_OPERATION (plugin, zero)))
    return NULL;
  int result;
  CALL (plugin, "zero", &self->client,
        result = plugin->is_version_1
                     ? plugin->callbacks._zero_v1 (self->handle, r.count, r.offset,
                                                   r.flags & NBDKIT_FLAG_MAY_TRIM)
                     : plugin->callbacks.zero (self->handle, r.count, r.offset, r.flags));
  return finish_operation (plugin, "zero", result);
}

/* client.cache(count, offset) */
PRIVATE PyObject *
client_cache (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  struct request r;
  if (take_request (args, given, 2, &r) == -1
      || !check_request (self, "cache", plugin->callbacks.cache != NULL))
    return NULL;
  int result;
  CALL (plugin, "cache", &self->client,
        result = plugin->callbacks.cache (self->handle, r.count, r.offset, 0));
  return finish_operation (plugin, "cache", result);
}

static PyObject *
list_of_extents (const struct nbdkit_extents *extents)
{
  PyObject *list = PyList_New ((Py_ssize_t) extents->count);
  for (size_t i = 0; list != NULL && i < extents->count; i++) {
    const struct nbdkit_extent *extent = &extents->items[i];
    PyObject *item = Py_BuildValue ("KKI", (unsigned long long) extent->offset,
                                    (unsigned long long) extent->length, extent->type);
    if (item == NULL || PyList_SetItem (list, (Py_ssize_t) i, item) == -1)
      Py_CLEAR (list);
  }
  return list;
}

/* client.extents(count, offset, flags) -> [(offset, length, type)]: from OFFSET on, without gaps */
PRIVATE PyObject *
client_extents (PyObject *object, PyObject *const *args, Py_ssize_t given)
{
  Client *self = (Client *) object;
  struct plugin *plugin = self->plugin;
  struct request r;
  if (take_request (args, given, 3, &r) == -1
      || !check_request (self, "extents", plugin->callbacks.extents != NULL))
    return NULL;
  struct nbdkit_extents extents = { .start = r.offset, .end = r.offset + r.count };
  int result;
  CALL (plugin, "extents", &self->client,
        result = plugin->callbacks.extents (self->handle, r.count, r.offset, r.flags, &extents));
  PyObject *list = NULL;
  if (finish_call (plugin, "extents", result == -1) == 0)
    list = list_of_extents (&extents);
  clear_extents (&extents);
  return list;
}
