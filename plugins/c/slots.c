/* The callbacks of a plugin by their names: see slots.h. */

#include "slots.h"

#include <string.h>

#define SLOT(member) { #member, offsetof (struct nbdkit_plugin, member) }
#define SLOT_V1(member) { #member, offsetof (struct nbdkit_plugin, _##member##_v1) }
#define END { NULL, 0 }

PRIVATE const struct slot questions[] = {
  SLOT (can_write),     SLOT (can_flush), SLOT (is_rotational),  SLOT (can_trim),
  SLOT (can_zero),      SLOT (can_fua),   SLOT (can_multi_conn), SLOT (can_extents),
  SLOT (can_fast_zero), SLOT (can_cache), END,
};
PRIVATE const struct slot steps[] = {
  SLOT (config_complete), SLOT (thread_model), SLOT (get_ready), SLOT (after_fork), END,
};
PRIVATE const struct slot notices[] = {
  SLOT (load), SLOT (dump_plugin), SLOT (cleanup), SLOT (unload), END,
};
static const struct slot others[] = {
  SLOT (config), SLOT (open), SLOT (close), SLOT (get_size), SLOT (extents), SLOT (cache),
  SLOT (preconnect), SLOT (list_exports), SLOT (default_export), SLOT (export_description),
  SLOT (block_size), END,
};
static const struct slot operations_v1[] = {
  SLOT_V1 (pread), SLOT_V1 (pwrite), SLOT_V1 (flush), SLOT_V1 (trim), SLOT_V1 (zero), END,
};
static const struct slot operations_v2[] = {
  SLOT (pread), SLOT (pwrite), SLOT (flush), SLOT (trim), SLOT (zero), END,
};

PRIVATE const struct slot *
find_slot (const struct slot *table, PyObject *name)
{
  if (!PyUnicode_Check (name)) {
    PyErr_SetString (PyExc_TypeError, "the name of a callback is a str");
    return NULL;
  }
  for (const struct slot *slot = table; slot->name != NULL; slot++)
    if (PyUnicode_CompareWithASCIIString (name, slot->name) == 0)
      return slot;
  PyErr_SetObject (PyExc_KeyError, name);
  return NULL;
}

PRIVATE Notice
function_in (const struct plugin *plugin, const struct slot *slot)
{
  Notice function;
  memcpy (&function, (const char *) &plugin->callbacks + slot->offset, sizeof function);
  return function;
}

/* Add to NAMES those callbacks of TABLE that the plugin has. */
static int
add_names (PyObject *names, const struct plugin *plugin, const struct slot *table)
{
  for (const struct slot *slot = table; slot->name != NULL; slot++) {
    if (function_in (plugin, slot) == NULL)
      continue;
    PyObject *name = PyUnicode_FromString (slot->name);
    int result = name ? PySet_Add (names, name) : -1;
    Py_XDECREF (name);
    if (result == -1)
      return -1;
  }
  return 0;
}

PRIVATE PyObject *
callback_names (const struct plugin *plugin)
{
  const struct slot *tables[] = {
    notices, steps, questions, others, plugin->is_version_1 ? operations_v1 : operations_v2,
  };
  PyObject *names = PySet_New (NULL);
  for (size_t i = 0; names != NULL && i < sizeof tables / sizeof tables[0]; i++)
    if (add_names (names, plugin, tables[i]) == -1)
      Py_CLEAR (names);
  return names;
}
