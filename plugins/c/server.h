/* What plugins may do to the server, and how they sleep until it ends. */

#ifndef NBDFORK_SERVER_H
#define NBDFORK_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

#include "api.h"

extern PRIVATE bool is_stdio_safe;

PRIVATE void serve_under (pid_t server); /* clients can come from now on */
PRIVATE void end_sleeps_by (int fd);     /* it is readable once this process ends */

#endif
