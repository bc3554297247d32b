/* What is said when a plugin takes its process down: one line, with the plugin, the callback, and
 * what the plugin has said itself.
 *
 * Everything here may run in a signal handler, at any moment, or in a child that a plugin has
 * forked, so it calls nothing but what signal-safety(7) allows.  The exceptions prepare for that:
 * `give_stack` and `report_crashes`.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "native.h"

static int log_fd = 2;
static char log_prefix[64];
static bool is_serving; /* else it is starting, and a plugin may end it (nbdkit_shutdown(3)) */

static struct {
  int number;
  const char *name;
  struct sigaction previous;
} signals[] = {
  { .number = SIGSEGV, .name = "SIGSEGV" }, { .number = SIGBUS, .name = "SIGBUS" },
  { .number = SIGABRT, .name = "SIGABRT" }, { .number = SIGFPE, .name = "SIGFPE" },
  { .number = SIGILL, .name = "SIGILL" },
};
#define SIGNALS (sizeof signals / sizeof signals[0])

/* -- the line ---------------------------------------------------------------------------- */

static void
append (char *line, size_t size, const char *text)
{
  size_t used = strlen (line), more = strlen (text);
  if (more > size - used - 1)
    more = size - used - 1;
  memcpy (line + used, text, more);
  line[used + more] = '\0';
}

static void
write_line (char *line, size_t size)
{
  append (line, size, "\n");
  if (write (log_fd, line, strlen (line)) == -1)
    return; /* there is nobody left to tell */
}

/* Write which plugin has done what, and where. */
static void
report (const char *what, const char *why)
{
  char line[512 + MOST_HELD] = "";
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
  append (line, sizeof line, why);
  if (current.messages != NULL) {
    append (line, sizeof line, ": ");
    append (line, sizeof line - 1, current.messages);
  }
  write_line (line, sizeof line);
}

PRIVATE void
log_in_child (const char *message)
{
  char line[512 + MOST_HELD] = "";
  append (line, sizeof line, log_prefix);
  append (line, sizeof line, current.plugin);
  append (line, sizeof line, ": ");
  append (line, sizeof line - 1, message);
  write_line (line, sizeof line);
}

/* -- the ways to end --------------------------------------------------------------------- */

static void
on_crash (int number, siginfo_t *info, void *context)
{
  (void) context;
  const char *name = "a signal";
  for (size_t i = 0; i < SIGNALS; i++)
    if (signals[i].number == number) {
      name = signals[i].name;
      sigaction (number, &signals[i].previous, NULL);
    }
  char why[32] = " (";
  append (why, sizeof why, name);
  append (why, sizeof why, ")");
  report (" crashed", why);
  /* The handler before this one is in place again.  What the processor has raised comes again on
   * return, in the very place, which makes the better core dump.
   */
  if (info->si_code <= 0)
    raise (number);
}

static void
at_end (void)
{
  if (current.callback == NULL || current.is_child)
    return;
  if (is_serving || current.messages != NULL)
    report (" ended its process", " (exit)");
  if (is_serving)
    _exit (EXIT_FAILURE); /* what else runs at exit belongs to the server */
}

/* A callback may fork to start a command, and exit if it cannot: that is no end of this process. */
static void
in_child (void)
{
  current.is_child = current.callback != NULL;
}

/* -- preparations ------------------------------------------------------------------------ */

/* A stack that has overflowed is no place to report that on, so each thread has another, beside
 * which the kernel puts the processor's registers: a few KiB, on some 11.
 */
#define STACK_SIZE 65536

static pthread_key_t stack_key;

static void
take_stack (void *stack)
{
  sigaltstack (&(stack_t){ .ss_flags = SS_DISABLE }, NULL);
  free (stack);
}

PRIVATE void
give_stack (void)
{
  stack_t stack = { .ss_size = STACK_SIZE }, old;
  current.is_ready = true;
  if (sigaltstack (NULL, &old) == -1 || !(old.ss_flags & SS_DISABLE))
    return; /* somebody else takes care of this thread */
  stack.ss_sp = malloc (STACK_SIZE);
  if (stack.ss_sp != NULL && sigaltstack (&stack, NULL) == 0
      && pthread_setspecific (stack_key, stack.ss_sp) == 0)
    return;
  take_stack (stack.ss_sp); /* without it, only such an overflow is not reported */
}

static int
install (void)
{
  struct sigaction action = {
    .sa_sigaction = on_crash,
    .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
  };
  int error = pthread_key_create (&stack_key, take_stack);
  if (error == 0)
    error = pthread_atfork (NULL, NULL, in_child);
  if (error != 0) {
    errno = error;
    return -1;
  }
  for (size_t i = 0; i < SIGNALS; i++)
    if (sigaction (signals[i].number, &action, &signals[i].previous) == -1)
      return -1;
  return atexit (at_end);
}

PRIVATE int
report_crashes (int fd, const char *prefix, bool serving)
{
  static bool is_installed;
  log_fd = fd;
  log_prefix[0] = '\0';
  append (log_prefix, sizeof log_prefix, prefix);
  is_serving = serving;
  if (is_installed)
    return 0;
  is_installed = true;
  return install ();
}
