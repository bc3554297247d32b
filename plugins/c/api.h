/* The API that the server implements: nbdkit's, of version 2, as the public header declares it.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */

#ifndef NBDFORK_API_H
#define NBDFORK_API_H

#define NBDKIT_API_VERSION 2
#include <nbdfork-plugin.h>

/* A plugin must find the functions of the API, and must not see any other symbol of this module. */
#define API NBDKIT_DLL_PUBLIC
#define PRIVATE __attribute__ ((__visibility__ ("hidden")))

#endif
