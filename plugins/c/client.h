/* Client: what a plugin's .open has returned, as an object of Python. */

#ifndef NBDFORK_CLIENT_H
#define NBDFORK_CLIENT_H

#include "plugin.h"

/* Make the type.  Return NULL, with an exception set, on failure. */
PRIVATE PyObject *make_client_type (void);

/* Call .open, and return a Client.  OWNER is the object that PLUGIN belongs to. */
PRIVATE PyObject *open_client (PyObject *owner, struct plugin *plugin, const char *export_name,
                               int read_only);

#endif
