/* Plugins and their clients as objects of Python, and how callbacks are called.
 *
 * Every callback is called without the GIL, and whatever it reports becomes an exception.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */

#ifndef NBDFORK_OBJECTS_H
#define NBDFORK_OBJECTS_H

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "native.h"

typedef struct {
  PyObject_HEAD
  void *object; /* of dlopen */
  bool is_version_1;
  uint64_t declared_size;
  struct nbdkit_plugin plugin; /* a copy; what the plugin is too old for is NULL */
} Library;

typedef struct {
  PyObject_HEAD
  Library *library;
  void *handle; /* NULL: closed */
  struct client client;
} Client;

extern PRIVATE PyObject *library_type, *client_type;

/* Make the types.  Return NULL, with an exception set, on failure. */
PRIVATE PyObject *make_library_type (void); /* library.c */
PRIVATE PyObject *make_client_type (void);  /* client.c */

/* -- calling callbacks: module.c ----------------------------------------------------------- */

PRIVATE void note_plugin (const char *name);
PRIVATE PyObject *decoded (const char *text); /* None for NULL */
PRIVATE void begin (Library *library, const char *callback, struct client *client);
PRIVATE void succeed (void);
PRIVATE void fail (Library *library, const char *callback, int error);
PRIVATE int end (Library *library, const char *callback, bool failed, int left_errno);

/* Assign the result of EXPRESSION, a call of a callback, and what it has left in errno. */
#define CALL(library, callback, client, result, expression) \
  do { \
    begin (library, callback, client); \
    Py_BEGIN_ALLOW_THREADS \
    errno = 0; \
    (result) = (expression); \
    left_errno = errno; \
    Py_END_ALLOW_THREADS \
  } while (0)

/* The same for an operation, which is done often: nothing but a comparison or two if all is well. */
static inline PyObject *
outcome (Library *library, const char *callback, int result, int left_errno)
{
  if (result == -1) {
    fail (library, callback, left_errno);
    return NULL;
  }
  succeed ();
  Py_RETURN_NONE;
}

/* -- callbacks by their names: library.c ----------------------------------------------------- */

typedef int (*Ask) (void *handle);
typedef int (*Step) (void);
typedef void (*Notice) (void);

struct slot {
  const char *name;
  size_t offset;
};

extern PRIVATE const struct slot questions[]; /* of type Ask */
PRIVATE const struct slot *find_slot (const struct slot *table, const char *name);
PRIVATE Notice function_in (Library *library, const struct slot *slot);

#endif
