/* The requests of a client, as methods of Client.
 *
 * Counts are of 32 bits and offsets of 63, as in the API; what is larger is an OverflowError.
 */

#ifndef NBDFORK_REQUESTS_H
#define NBDFORK_REQUESTS_H

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "api.h"

PRIVATE PyObject *client_pread (PyObject *self, PyObject *const *args, Py_ssize_t given);
PRIVATE PyObject *client_pwrite (PyObject *self, PyObject *const *args, Py_ssize_t given);
PRIVATE PyObject *client_flush (PyObject *self, PyObject *unused);
PRIVATE PyObject *client_trim (PyObject *self, PyObject *const *args, Py_ssize_t given);
PRIVATE PyObject *client_zero (PyObject *self, PyObject *const *args, Py_ssize_t given);
PRIVATE PyObject *client_cache (PyObject *self, PyObject *const *args, Py_ssize_t given);
PRIVATE PyObject *client_extents (PyObject *self, PyObject *const *args, Py_ssize_t given);

#endif
