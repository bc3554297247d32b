/* A plugin that has been loaded: see plugin.h. */

#define _GNU_SOURCE
#include "plugin.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>

/* Copy the struct that plugin_init returned.  Its size tells which version the plugin is for. */
static int
take_struct (struct plugin *plugin, const struct nbdkit_plugin *given)
{
  uint64_t size = given->_struct_size;
  if (given->_api_version != 1 && given->_api_version != 2) {
    PyErr_Format (PyExc_ValueError, "it is built for API version %d, and there are 1 and 2",
                  given->_api_version);
    return -1;
  }
  if (size < offsetof (struct nbdkit_plugin, can_zero)) { /* the end of the very first version */
    PyErr_Format (PyExc_ValueError, "its struct nbdkit_plugin is cut off after %llu bytes",
                  (unsigned long long) size);
    return -1;
  }
  if (given->name == NULL) {
    PyErr_SetString (PyExc_ValueError, "it has no .name");
    return -1;
  }
  plugin->declared_size = size;
  plugin->is_version_1 = given->_api_version == 1;
  memcpy (&plugin->callbacks, given,
          size < sizeof plugin->callbacks ? size : sizeof plugin->callbacks);
  return 0;
}

PRIVATE int
load_plugin (struct plugin *plugin, const char *path)
{
  /* An interpreter is a library that a plugin depends on; modules that the interpreter loads refer
   * to it without naming it, and find it only if its symbols are global, as they are in nbdkit.
   */
  plugin->object = dlopen (path, RTLD_NOW | RTLD_GLOBAL);
  if (plugin->object == NULL) {
    PyErr_SetString (PyExc_OSError, dlerror ());
    return -1;
  }
  struct nbdkit_plugin *(*plugin_init) (void);
  *(void **) &plugin_init = dlsym (plugin->object, "plugin_init");
  if (plugin_init == NULL) {
    const char *why = dlsym (plugin->object, "filter_init") ? "it is a filter of nbdkit"
                                                            : "it has no function plugin_init";
    PyErr_SetString (PyExc_ValueError, why);
    return -1;
  }
  const struct nbdkit_plugin *given = plugin_init ();
  if (given == NULL) {
    PyErr_SetString (PyExc_ValueError, "its plugin_init returned NULL");
    return -1;
  }
  return take_struct (plugin, given);
}

PRIVATE int *
find_variable (const struct plugin *plugin, const char *name)
{
  void *found = dlsym (plugin->object, name);
  Dl_info info;
  const ElfW (Sym) *symbol = NULL;
  if (found == NULL || dladdr1 (found, &info, (void **) &symbol, RTLD_DL_SYMENT) == 0)
    return NULL;
  bool is_int = symbol != NULL && ELF64_ST_TYPE (symbol->st_info) == STT_OBJECT
                && symbol->st_size == sizeof (int);
  return is_int ? found : NULL;
}
