/* Library: a plugin that has been loaded, as an object of Python. */

#ifndef NBDFORK_LIBRARY_H
#define NBDFORK_LIBRARY_H

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "api.h"

/* Make the type.  Return NULL, with an exception set, on failure. */
PRIVATE PyObject *make_library_type (void);

#endif
