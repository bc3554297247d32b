/* What is said when a plugin takes its process down: one line, with the plugin and the callback.
 *
 * Everything here may run in a signal handler, at any moment, so it calls nothing but what
 * signal-safety(7) allows.
 */

#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "native.h"

static int log_fd = 2;
static char log_prefix[64];

static const struct {
  int number;
  const char *name;
} signals[] = {
  { SIGSEGV, "SIGSEGV" }, { SIGBUS, "SIGBUS" }, { SIGABRT, "SIGABRT" },
  { SIGFPE, "SIGFPE" },   { SIGILL, "SIGILL" },
};
#define SIGNALS (sizeof signals / sizeof signals[0])

/* A stack that has overflowed is no place to report that on. */
static char handler_stack[16384];

static void
append (char *line, size_t size, const char *text)
{
  size_t used = strlen (line), more = strlen (text);
  if (more > size - used - 1)
    more = size - used - 1;
  memcpy (line + used, text, more);
  line[used + more] = '\0';
}

/* Write which plugin has done what, and where. */
static void
report (const char *what, const char *why)
{
  char line[256] = "";
  append (line, sizeof line, log_prefix);
  if (current.callback != NULL) {
    append (line, sizeof line, "the plugin ");
    append (line, sizeof line, current.plugin);
    append (line, sizeof line, what);
    append (line, sizeof line, " in its callback ");
    append (line, sizeof line, current.callback);
  }
  else { /* in a thread that the plugin has started, or not in the plugin at all */
    append (line, sizeof line, "a process that serves a C plugin");
    append (line, sizeof line, what);
    append (line, sizeof line, " outside of its callbacks");
  }
  append (line, sizeof line - 1, why);
  append (line, sizeof line, "\n");
  if (write (log_fd, line, strlen (line)) == -1)
    return; /* there is nobody left to tell */
}

static void
on_crash (int number, siginfo_t *info, void *context)
{
  (void) context;
  const char *name = "a signal";
  for (size_t i = 0; i < SIGNALS; i++)
    if (signals[i].number == number)
      name = signals[i].name;
  char why[32] = " (";
  append (why, sizeof why, name);
  append (why, sizeof why, ")");
  report (" crashed", why);
  /* The handler is gone by now.  What the processor has raised comes again on return, in the
   * very place, which makes the better core dump.
   */
  if (info->si_code <= 0)
    raise (number);
}

static void
at_end (void)
{
  if (current.callback == NULL)
    return;
  report (" ended its process", " (exit)");
  _exit (EXIT_FAILURE); /* what else runs at exit belongs to the server */
}

/* From now on, crashes of this process are reported on FD. */
PRIVATE int
report_crashes (int fd, const char *prefix)
{
  log_fd = fd;
  log_prefix[0] = '\0';
  append (log_prefix, sizeof log_prefix, prefix);
  stack_t stack = { .ss_sp = handler_stack, .ss_size = sizeof handler_stack };
  if (sigaltstack (&stack, NULL) == -1)
    return -1;
  struct sigaction action = {
    .sa_sigaction = on_crash,
    .sa_flags = SA_SIGINFO | SA_ONSTACK | (int) SA_RESETHAND | SA_NODEFER,
  };
  for (size_t i = 0; i < SIGNALS; i++)
    if (sigaction (signals[i].number, &action, NULL) == -1)
      return -1;
  return atexit (at_end);
}
