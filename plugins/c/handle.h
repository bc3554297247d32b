/* What a plugin's .open has returned, and whether a callback may be called for it. */

#ifndef NBDFORK_HANDLE_H
#define NBDFORK_HANDLE_H

#include "calls.h"

typedef struct {
  PyObject_HEAD
  PyObject *owner; /* the object that the plugin belongs to */
  struct plugin *plugin;
  void *handle; /* NULL: closed */
  struct client client;
} Client;

/* May CALLBACK, if it EXISTS, be called for this client?  If not, an exception is set. */
PRIVATE bool check_open (const Client *self, const char *callback, bool exists);

/* The same for requests of the client, of which a plugin gets no more once it has disconnected it. */
PRIVATE bool check_request (const Client *self, const char *callback, bool exists);

/* Call .close, unless it has been called.  Return -1, with an exception set, if that cannot be. */
PRIVATE int close_handle (Client *self);

/* Free what belongs to the client. */
PRIVATE void release_client (Client *self);

#endif
