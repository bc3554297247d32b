/* Threads and children that are there when Python is not: what do=WHAT starts in .get_ready, of
 * those below.
 */

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static const char *what = "";

/* Use every function that asks or tells Python something. */
static void
use_python (const char *where)
{
  nbdkit_error ("an error in %s", where);
  nbdkit_debug ("debug in %s", where);
  nbdkit_disconnect (1);
  nbdkit_nanosleep (0, 1);
  nbdkit_stdio_safe ();
  nbdkit_peer_pid ();
}

static void *
fork_a_child (void *unused)
{
  int status;
  pid_t child = fork ();
  if (child == 0) {
    use_python ("a child");
    _exit (0);
  }
  waitpid (child, &status, 0);
  nbdkit_error ("the child's status is %d", status);
  return NULL;
}

/* Until the process has ended. */
static void *
log_for_ever (void *unused)
{
  for (;;)
    nbdkit_debug ("still here");
  return NULL;
}

static void *
read_for_ever (void *unused)
{
  for (;;)
    use_python ("a thread");
  return NULL;
}

__attribute__ ((__destructor__)) static void
at_the_end (void)
{
  if (strcmp (what, "exit") == 0)
    use_python ("the exit");
}

static int
outlives_config (const char *key, const char *value)
{
  what = value;
  return 0;
}

static int
outlives_get_ready (void)
{
  pthread_t thread;
  if (strcmp (what, "fork") == 0)
    return pthread_create (&thread, NULL, fork_a_child, NULL) || pthread_join (thread, NULL);
  if (strcmp (what, "log") == 0)
    return pthread_create (&thread, NULL, log_for_ever, NULL);
  if (strcmp (what, "ask") == 0)
    return pthread_create (&thread, NULL, read_for_ever, NULL);
  return 0;
}

static void *
outlives_open (int readonly)
{
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
outlives_get_size (void *handle)
{
  return 65536;
}

static int
outlives_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  memset (buf, 'o', count);
  return 0;
}

static struct nbdkit_plugin plugin = {
  .name = "outlives",
  .config = outlives_config,
  .get_ready = outlives_get_ready,
  .open = outlives_open,
  .get_size = outlives_get_size,
  .pread = outlives_pread,
};

NBDKIT_REGISTER_PLUGIN (plugin)
