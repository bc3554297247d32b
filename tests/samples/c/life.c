/* Every callback writes its name to the file log=FILE, with the process and its parent. */

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#ifndef MODEL
#define MODEL NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS
#endif

int life_debug_some_flag;

static char *log_name;
static char before[256] = "load ";
static unsigned char disk[65536];

static void
note (const char *callback)
{
  if (log_name == NULL) {
    snprintf (before + strlen (before), sizeof before - strlen (before), "%s ", callback);
    return;
  }
  FILE *file = fopen (log_name, "a");
  if (file == NULL)
    abort ();
  fprintf (file, "%d %s\n", (int) getpid (), callback);
  fclose (file);
}

static void
life_load (void)
{
  nbdkit_debug ("loaded, flag %d", life_debug_some_flag);
}

static void
life_unload (void)
{
  note ("unload");
}

static void
life_dump_plugin (void)
{
  printf ("life_says=hello\n");
}

static int
life_config (const char *key, const char *value)
{
  if (strcmp (key, "log") == 0) {
    free (log_name);
    log_name = nbdkit_absolute_path (value);
    note (nbdkit_printf_intern ("%sconfig", before));
    return log_name == NULL ? -1 : 0;
  }
  if (strcmp (key, "number") == 0) {
    int number;
    return nbdkit_parse_int ("number", value, &number);
  }
  nbdkit_error ("the key \"%s\" is not mine", key);
  return -1;
}

#define STEP(name) \
  static int life_##name (void) \
  { \
    note (#name); \
    return 0; \
  }

static int
life_config_complete (void)
{
  if (log_name == NULL) {
    nbdkit_error ("log=FILE is missing");
    return -1;
  }
  note ("config_complete");
  return 0;
}

STEP (get_ready)
STEP (after_fork)

static int
life_thread_model (void)
{
  return MODEL;
}

static void
life_cleanup (void)
{
  note ("cleanup");
}

static int
life_preconnect (int readonly)
{
  note ("preconnect");
  return 0;
}

static int
life_list_exports (int readonly, int is_tls, struct nbdkit_exports *exports)
{
  if (nbdkit_use_default_export (exports) == -1)
    return -1;
  return nbdkit_add_export (exports, "second", "the second one");
}

static const char *
life_default_export (int readonly, int is_tls)
{
  return "first";
}

static const char *
life_export_description (void *handle)
{
  return nbdkit_printf_intern ("this is %s", (const char *) handle);
}

static void *
life_open (int readonly)
{
  const char *name = nbdkit_export_name ();
  note (nbdkit_printf_intern ("open %s%s", name, readonly ? " readonly" : ""));
  if (strcmp (name, "refused") == 0) {
    nbdkit_error ("nobody gets this one");
    nbdkit_set_error (EACCES);
    return NULL;
  }
  return strdup (name);
}

static void
life_close (void *handle)
{
  note ("close");
  free (handle);
}

static int64_t
life_get_size (void *handle)
{
  return sizeof disk;
}

static int
life_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  if (offset == 4096) {
    nbdkit_error ("a bad sector");
    errno = ENOSPC; /* which does not count: errno_is_preserved is not set */
    return -1;
  }
  if (offset == 8192) {
    nbdkit_error ("out of %s", "memory");
    nbdkit_set_error (ENOMEM);
    return -1;
  }
  if (offset == 12288)
    nbdkit_error ("only a remark");
  if (offset == 16384)
    nbdkit_shutdown ();
  memcpy (buf, disk + offset, count);
  return 0;
}

static int
life_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  note (flags & NBDKIT_FLAG_FUA ? "pwrite fua" : "pwrite");
  memcpy (disk + offset, buf, count);
  return 0;
}

static int
life_flush (void *handle, uint32_t flags)
{
  note ("flush");
  return 0;
}

static int
life_can_fua (void *handle)
{
  return NBDKIT_FUA_NATIVE;
}

static int
life_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  note ("cache");
  return 0;
}

static struct nbdkit_plugin plugin = {
  .name = "life",
  .longname = "a plugin that keeps a diary",
  .version = "3.2.1",
  .description = "What it does is written down.",
  .config_help = "log=<FILE>  (required) The diary.",
  .magic_config_key = "log",
  .load = life_load,
  .unload = life_unload,
  .dump_plugin = life_dump_plugin,
  .config = life_config,
  .config_complete = life_config_complete,
  .thread_model = life_thread_model,
  .get_ready = life_get_ready,
  .after_fork = life_after_fork,
  .cleanup = life_cleanup,
  .preconnect = life_preconnect,
  .list_exports = life_list_exports,
  .default_export = life_default_export,
  .export_description = life_export_description,
  .open = life_open,
  .close = life_close,
  .get_size = life_get_size,
  .pread = life_pread,
  .pwrite = life_pwrite,
  .flush = life_flush,
  .can_fua = life_can_fua,
  .cache = life_cache,
};

NBDKIT_REGISTER_PLUGIN (plugin)
