/* The extension module `_native`: exchanges, as Python sees them.
 *
 * Everything here that Python gives is checked before it is used.  The interpreter's lock is not
 * held while requests are carried out.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "exchange.h"

typedef struct {
  PyObject_HEAD
  Py_buffer buffer; /* what is received into */
  int running;
  struct exchange exchange;
} Exchange;

/* Exchange(buffer, room, most_received, dialect, fd, start, most_read, most_written, misaligned,
 * least_sparse, writable) */
static int
exchange_init (PyObject *object, PyObject *args, PyObject *keywords)
{
  Exchange *self = (Exchange *) object;
  struct exchange *e = &self->exchange;
  struct disk *disk = &e->batch.disk;
  PyObject *buffer;
  Py_ssize_t room, most_received;
  int dialect;
  unsigned long long start, most_read, most_written, misaligned, least_sparse;
  if (keywords != NULL && PyDict_Size (keywords) != 0) {
    PyErr_SetString (PyExc_TypeError, "there are no keyword arguments");
    return -1;
  }
  if (!PyArg_ParseTuple (args, "OnniiKKKKKp", &buffer, &room, &most_received, &dialect, &disk->fd,
                         &start, &most_read, &most_written, &misaligned, &least_sparse,
                         &disk->writable))
    return -1;
  if (e->batch.replies != NULL) {
    PyErr_SetString (PyExc_RuntimeError, "it is made already");
    return -1;
  }
  if (dialect < 0 || dialect >= DIALECTS || room <= 0 || room > INT_MAX || most_received <= 0
      || start > LLONG_MAX || most_read > INT_MAX || most_written > INT_MAX
      || (size_t) room < reply_room (most_read)) {
    PyErr_SetString (PyExc_ValueError, "a number is out of range");
    return -1;
  }
  if (PyObject_GetBuffer (buffer, &self->buffer, PyBUF_WRITABLE) == -1)
    return -1;
  e->batch.replies = malloc (room);
  if (e->batch.replies == NULL) {
    PyBuffer_Release (&self->buffer);
    PyErr_NoMemory ();
    return -1;
  }
  e->batch.room = room;
  e->batch.dialect = dialect;
  e->batch.received = self->buffer.buf;
  e->received_size = self->buffer.len;
  e->most_received = most_received;
  disk->start = start;
  disk->most_read = most_read;
  disk->most_written = most_written;
  disk->misaligned = misaligned;
  disk->least_sparse = least_sparse;
  return 0;
}

static void
exchange_dealloc (PyObject *object)
{
  Exchange *self = (Exchange *) object;
  PyTypeObject *type = Py_TYPE (object);
  if (self->exchange.batch.map.pages != NULL)
    munmap (self->exchange.batch.map.pages, self->exchange.batch.map.size);
  if (self->exchange.batch.replies != NULL) {
    free (self->exchange.batch.replies);
    PyBuffer_Release (&self->buffer);
  }
  ((freefunc) PyType_GetSlot (type, Py_tp_free)) (object);
  Py_DECREF (type);
}

static int
check_run (Exchange *self, Py_ssize_t from, Py_ssize_t end, unsigned long long size)
{
  if (self->exchange.batch.replies == NULL || self->running) {
    PyErr_SetString (PyExc_RuntimeError, "it is running already, or was never made");
    return -1;
  }
  if (from < 0 || end < from || end > self->buffer.len
      || size > LLONG_MAX - self->exchange.batch.disk.start) {
    PyErr_SetString (PyExc_ValueError, "a number is out of range");
    return -1;
  }
  return 0;
}

/* exchange.run(start, end, size, data, data_end, socket, spin, spin_most, moved, time)
 *   -> start, end, requests, bytes_read, bytes_written, moved, waited, missed, error, lost,
 *      unsent */
static PyObject *
exchange_run (PyObject *object, PyObject *args)
{
  Exchange *self = (Exchange *) object;
  struct exchange *e = &self->exchange;
  struct batch *batch = &e->batch;
  Py_ssize_t from, end;
  unsigned long long size, data, data_end, spin, spin_most, moved, time;
  int socket;
  if (!PyArg_ParseTuple (args, "nnKKKiKKKK", &from, &end, &size, &data, &data_end, &socket, &spin,
                         &spin_most, &moved, &time)
      || check_run (self, from, end, size) == -1)
    return NULL;
  batch->from = from;
  batch->end = end;
  batch->disk.size = size;
  batch->disk.data = data;
  batch->disk.data_end = data_end;
  batch->made = 0;
  batch->requests = batch->bytes_read = batch->bytes_written = 0;
  e->socket = socket;
  e->spin = spin;
  e->spin_most = spin_most;
  e->time = time;
  e->moved = moved;
  e->unsent = e->waited = 0;
  e->missed = e->error = e->lost = 0;
  self->running = 1;
  Py_BEGIN_ALLOW_THREADS
  exchange (e);
  Py_END_ALLOW_THREADS
  self->running = 0;
  PyObject *unsent;
  if (batch->made == 0)
    unsent = Py_NewRef (Py_None);
  else
    unsent = PyMemoryView_FromMemory ((char *) batch->replies + e->unsent, batch->made - e->unsent,
                                      PyBUF_READ);
  return Py_BuildValue ("nnKKKKKiiiN", (Py_ssize_t) batch->from, (Py_ssize_t) batch->end,
                        (unsigned long long) batch->requests,
                        (unsigned long long) batch->bytes_read,
                        (unsigned long long) batch->bytes_written, (unsigned long long) e->moved,
                        (unsigned long long) e->waited, e->missed, e->error, e->lost, unsent);
}

/* exchange.stop(): leave everything from now on; any thread may call it */
static PyObject *
exchange_stop (PyObject *object, PyObject *unused)
{
  (void) unused;
  ((Exchange *) object)->exchange.batch.stopped = 1;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
  { "run", exchange_run, METH_VARARGS, NULL },
  { "stop", exchange_stop, METH_NOARGS, NULL },
  { NULL, NULL, 0, NULL },
};

static PyType_Slot slots[] = {
  { Py_tp_init, exchange_init },
  { Py_tp_dealloc, exchange_dealloc },
  { Py_tp_methods, methods },
  { 0, NULL },
};

static PyType_Spec spec = {
  .name = "nbdfork.speedups._native.Exchange",
  .basicsize = sizeof (Exchange),
  .flags = Py_TPFLAGS_DEFAULT,
  .slots = slots,
};

static struct PyModuleDef definition = {
  PyModuleDef_HEAD_INIT,
  .m_name = "_native",
  .m_size = -1,
};

PyMODINIT_FUNC
PyInit__native (void)
{
  PyObject *module = PyModule_Create (&definition);
  PyObject *type = module ? PyType_FromSpec (&spec) : NULL;
  if (type == NULL || PyModule_AddObjectRef (module, "Exchange", type) == -1)
    Py_CLEAR (module);
  Py_XDECREF (type);
  return module;
}
