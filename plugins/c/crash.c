/* The report of a crash: one line that names the plugin and the callback and has the messages that
 * the plugin has given.
 *
 * Everything here may run in a signal handler, at any moment, or in a child that a plugin has
 * forked, so it calls only what signal-safety(7) allows.  The exceptions are `give_stack` and
 * `report_crashes`, which prepare for that.
 */

#define _GNU_SOURCE
#include "crash.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "current.h"

static int log_fd = 2;
static char log_prefix[64];
static bool is_serving; /* else the server is starting, and a plugin may call exit */

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

struct line {
  size_t used;
  char text[512 + MAX_MESSAGES]; /* the last byte is for the newline */
};

/* Append as much of TEXT as there is room for. */
static void
append (struct line *line, const char *text)
{
  size_t length = strlen (text), room = sizeof line->text - 1 - line->used;
  if (length > room)
    length = room;
  memcpy (line->text + line->used, text, length);
  line->used += length;
}

static void
write_line (struct line *line)
{
  line->text[line->used++] = '\n';
  if (write (log_fd, line->text, line->used) == -1)
    return; /* there is nobody left to tell */
}

/* Write WHAT has happened to the plugin and in which callback, and HOW. */
static void
report (const char *what, const char *how)
{
  struct line line = { 0 };
  append (&line, log_prefix);
  if (current.callback != NULL) {
    append (&line, "the plugin ");
    append (&line, current.plugin);
    append (&line, what);
    append (&line, " in its callback ");
    append (&line, current.callback);
  }
  else { /* in a thread that the plugin has started, or not in the plugin's code */
    append (&line, "a process that serves a C plugin");
    append (&line, what);
    append (&line, " outside of its callbacks");
  }
  append (&line, " (");
  append (&line, how);
  append (&line, ")");
  if (current.messages != NULL) {
    append (&line, ": ");
    append (&line, current.messages);
  }
  write_line (&line);
}

PRIVATE void
write_message (const char *message)
{
  struct line line = { 0 };
  append (&line, log_prefix);
  append (&line, current_plugin ());
  append (&line, ": ");
  append (&line, message);
  write_line (&line);
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
  report (" crashed", name);
  /* The previous handler is in place again.  A fault of the processor happens again on return, at
   * the same instruction, so the core dump shows where; a signal that was sent has to be repeated.
   */
  if (info->si_code <= 0)
    raise (number);
}

static void
at_end (void)
{
  if (current.callback == NULL || is_python_gone)
    return; /* a child that a callback has forked, to run a command perhaps, ends nothing */
  if (is_serving || current.messages != NULL)
    report (" ended its process", "exit");
  if (is_serving)
    _exit (EXIT_FAILURE); /* the other exit handlers belong to the server */
}

/* -- preparations ------------------------------------------------------------------------ */

/* The handler cannot run on a stack that has overflowed, so each thread gets another one.  The
 * kernel saves the processor's registers on it, too: a few KiB, and 11 with AVX-512.
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
  current.has_stack = true;
  if (sigaltstack (NULL, &old) == -1 || !(old.ss_flags & SS_DISABLE))
    return; /* the thread has one already */
  stack.ss_sp = malloc (STACK_SIZE);
  if (stack.ss_sp != NULL && sigaltstack (&stack, NULL) == 0
      && pthread_setspecific (stack_key, stack.ss_sp) == 0)
    return;
  take_stack (stack.ss_sp); /* without it only an overflow goes unreported */
}

static int
install (void)
{
  struct sigaction action = {
    .sa_sigaction = on_crash,
    .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
  };
  int error = pthread_key_create (&stack_key, take_stack);
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
  strncpy (log_prefix, prefix, sizeof log_prefix - 1);
  is_serving = serving;
  if (is_installed)
    return 0;
  is_installed = true;
  return install ();
}
