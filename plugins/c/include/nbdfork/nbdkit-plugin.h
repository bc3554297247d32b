/* So that a plugin written for nbdkit compiles as it is. */
#ifndef NBDKIT_PLUGIN_H
#define NBDKIT_PLUGIN_H
#include <nbdfork-plugin.h>
#endif
