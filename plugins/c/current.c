/* What is going on: see current.h. */

#include "current.h"

PRIVATE __thread struct call current;
PRIVATE atomic_bool is_python_gone;
PRIVATE const char *latest_plugin = "?";

PRIVATE const char *
current_plugin (void)
{
  return current.plugin ? current.plugin : latest_plugin;
}
