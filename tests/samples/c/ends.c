/* The callback when=NAME does how=WHAT, of those below; most of it ends something.  What came of it
 * is written to the file diary=FILE.
 */

#define _GNU_SOURCE
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static const char *when = "", *how = "", *diary = "/dev/null";
static pthread_t thread;

#define NOTE(...) \
  do { \
    FILE *file = fopen (diary, "a"); \
    fprintf (file, __VA_ARGS__); \
    fclose (file); \
  } while (0)

static int
sleep_long (unsigned seconds)
{
  int result = nbdkit_nanosleep (seconds, 0), error = errno;
  NOTE ("woke: %d %d\n", result, error);
  return result;
}

static void *
sleep_in_thread (void *unused)
{
  sleep_long (1000);
  return NULL;
}

static int
fork_a_child (void)
{
  int status;
  pid_t child = fork ();
  if (child == 0) {
    nbdkit_error ("said by a child");
    exit (0);
  }
  if (child == -1 || waitpid (child, &status, 0) == -1)
    return -1;
  NOTE ("child: %d\n", status);
  return 0;
}

static int
recurse (volatile char *previous)
{
  volatile char large[4096];
  large[0] = previous[0];
  return large[0] == 0 ? recurse (large) + large[0] : 0; /* it always is */
}

/* Return what the callback NAME is to return. */
static int
act (const char *name)
{
  if (strcmp (when, name) != 0)
    return 0;
  if (strcmp (how, "exit") == 0) {
    nbdkit_error ("the first reason");
    nbdkit_error ("the second reason");
    exit (3);
  }
  if (strcmp (how, "leave") == 0)
    exit (3);
  if (strcmp (how, "abort") == 0) {
    nbdkit_error ("the first reason");
    nbdkit_error ("the second reason");
    abort ();
  }
  if (strcmp (how, "child") == 0)
    return fork_a_child ();
  if (strcmp (how, "complain") == 0) {
    for (int i = 0; i < 20000; i++)
      nbdkit_error ("complaint %d.", i);
    return -1;
  }
  if (strcmp (how, "recurse") == 0)
    return recurse ("");
  if (strcmp (how, "sleep") == 0)
    return sleep_long (1000);
  if (strcmp (how, "oversleep") == 0)
    return sleep_long (UINT_MAX);
  if (strcmp (how, "thread") == 0)
    return pthread_create (&thread, NULL, sleep_in_thread, NULL);
  abort ();
}

static int
ends_config (const char *key, const char *value)
{
  if (strcmp (key, "when") == 0)
    when = value;
  else if (strcmp (key, "how") == 0)
    how = value;
  else if (strcmp (key, "diary") == 0)
    diary = value;
  setrlimit (RLIMIT_CORE, &(struct rlimit){ 0, RLIM_INFINITY });
  NOTE ("stdio is %ssafe\n", nbdkit_stdio_safe () ? "" : "un");
  return strcmp (key, "last") == 0 ? act ("config") : 0;
}

static int
ends_config_complete (void)
{
  return act ("config_complete");
}

static int
ends_get_ready (void)
{
  return act ("get_ready");
}

static int
ends_after_fork (void)
{
  return act ("after_fork");
}

static void *
ends_open (int readonly)
{
  return act ("open") == -1 ? NULL : NBDKIT_HANDLE_NOT_NEEDED;
}

static void
ends_close (void *handle)
{
  NOTE ("close\n");
}

static void
ends_cleanup (void)
{
  if (thread)
    pthread_join (thread, NULL);
  NOTE ("cleanup\n");
}

static int64_t
ends_get_size (void *handle)
{
  return 65536;
}

static int
ends_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  memset (buf, 0, count);
  NOTE ("pread\n");
  return act ("pread");
}

static int
ends_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
              struct nbdkit_extents *extents)
{
  return nbdkit_add_extent (extents, offset, count, 0xfe); /* bits that no server knows, and one */
}

static struct nbdkit_plugin plugin = {
  .name = "ends",
  .config = ends_config,
  .config_complete = ends_config_complete,
  .get_ready = ends_get_ready,
  .after_fork = ends_after_fork,
  .open = ends_open,
  .close = ends_close,
  .cleanup = ends_cleanup,
  .get_size = ends_get_size,
  .pread = ends_pread,
  .extents = ends_extents,
};

NBDKIT_REGISTER_PLUGIN (plugin)
