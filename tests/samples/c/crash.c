/* A disk that takes its process down: reading sector 1 to 4 is fatal, each in another way. */

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

int nbdfork_processes = 1;

static volatile char *nowhere;

static void *
crash_open (int readonly)
{
  setrlimit (RLIMIT_CORE, &(struct rlimit){ 0, RLIM_INFINITY });
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
crash_get_size (void *handle)
{
  return 65536;
}

static int
crash_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  switch (offset / 512) {
  case 1:
    *nowhere = 1;
    break;
  case 2:
    abort ();
  case 3:
    exit (0);
  case 4:
    raise (SIGBUS);
  }
  memset (buf, 0, count);
  return 0;
}

static struct nbdkit_plugin plugin = {
  .name = "crash",
  .open = crash_open,
  .get_size = crash_get_size,
  .pread = crash_pread,
};

NBDKIT_REGISTER_PLUGIN (plugin)
