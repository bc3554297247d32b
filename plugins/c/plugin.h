/* A plugin that has been loaded: its struct nbdkit_plugin, and its variables. */

#ifndef NBDFORK_PLUGIN_STRUCT_H
#define NBDFORK_PLUGIN_STRUCT_H

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "api.h"

struct plugin {
  void *object; /* of dlopen; never closed, for threads and exit handlers may be left in it */
  bool is_version_1;
  bool is_unloaded; /* its .unload has been called */
  unsigned calls;   /* callbacks in progress; the GIL protects it */
  uint64_t declared_size;
  struct nbdkit_plugin callbacks; /* a copy; what the plugin is too old for is NULL */
};

/* Load the file PATH.  On failure return -1 with OSError set, or ValueError if it is no plugin. */
PRIVATE int load_plugin (struct plugin *plugin, const char *path);

/* Return the plugin's variable NAME, if it has one of type int, or else NULL. */
PRIVATE int *find_variable (const struct plugin *plugin, const char *name);

/* Does it have this one of the five operations for which each API version has its own slots? */
#define HAS_OPERATION(plugin, name) \
  ((plugin)->is_version_1 ? (plugin)->callbacks._##name##_v1 != NULL \
                          : (plugin)->callbacks.name != NULL)

#endif
