/* A plugin with every callback there is, or, with -DEMPTY, with none.
 *
 * What a read does depends on its offset: at WAITS it writes a byte to the descriptor inside=FD and
 * waits for one from go=FD; at SAYS it says something while it is being carried out.
 */

#ifndef API
#define API 2
#endif
#define NBDKIT_API_VERSION API
#include <nbdkit-plugin.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define WAITS 512
#define SAYS 1024

#if API == 2
#define FLAGS , uint32_t flags
#define MAY_TRIM FLAGS
#else
#define FLAGS
#define MAY_TRIM , int may_trim
#endif

int handles_debug_flag = 3;
char handles_debug_text[] = "no number";

#ifndef EMPTY

static int inside, go;

static int
handles_config (const char *key, const char *value)
{
  return nbdkit_parse_int (key, value, strcmp (key, "go") == 0 ? &go : &inside);
}

static int
handles_step (void)
{
  return 0;
}

static void
handles_notice (void)
{
}

static int
handles_preconnect (int readonly)
{
  return 0;
}

static int
handles_list_exports (int readonly, int is_tls, struct nbdkit_exports *exports)
{
  return nbdkit_add_export (exports, nbdkit_printf_intern ("one of %d", 1), "the only one");
}

static const char *
handles_default_export (int readonly, int is_tls)
{
  return nbdkit_strdup_intern ("default");
}

static void *
handles_open (int readonly)
{
  return strdup (nbdkit_export_name ());
}

static void
handles_close (void *handle)
{
  free (handle);
}

static int64_t
handles_get_size (void *handle)
{
  return 65536;
}

static int
handles_block_size (void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
  *minimum = 1;
  *preferred = *maximum = 4096;
  return 0;
}

static const char *
handles_export_description (void *handle)
{
  return nbdkit_printf_intern ("described: %s", (const char *) handle);
}

static int
handles_can (void *handle)
{
  return 1;
}

static int
handles_pread (void *handle, void *buf, uint32_t count, uint64_t offset FLAGS)
{
  char byte = 'i';
  memset (buf, 'h', count);
  if (offset == WAITS && (write (inside, &byte, 1) != 1 || read (go, &byte, 1) != 1))
    return -1;
  if (offset == SAYS)
    nbdkit_debug ("a read says something");
  return 0;
}

static int
handles_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset FLAGS)
{
  return 0;
}

static int
handles_flush (void *handle FLAGS)
{
  return 0;
}

static int
handles_trim (void *handle, uint32_t count, uint64_t offset FLAGS)
{
  return 0;
}

static int
handles_zero (void *handle, uint32_t count, uint64_t offset MAY_TRIM)
{
  return 0;
}

static int
handles_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  return 0;
}

static int
handles_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                 struct nbdkit_extents *extents)
{
  for (uint64_t end = offset + count; offset < end; offset += 512)
    if (nbdkit_add_extent (extents, offset, 512, offset / 512 % 2) == -1)
      return -1;
  return 0;
}

#endif

static struct nbdkit_plugin plugin = {
  .name = "handles",
#ifndef EMPTY
  .load = handles_notice,
  .unload = handles_notice,
  .dump_plugin = handles_notice,
  .config = handles_config,
  .config_complete = handles_step,
  .thread_model = handles_step,
  .get_ready = handles_step,
  .after_fork = handles_step,
  .cleanup = handles_notice,
  .preconnect = handles_preconnect,
  .list_exports = handles_list_exports,
  .default_export = handles_default_export,
  .open = handles_open,
  .close = handles_close,
  .get_size = handles_get_size,
  .block_size = handles_block_size,
  .export_description = handles_export_description,
  .can_write = handles_can,
  .can_flush = handles_can,
  .is_rotational = handles_can,
  .can_trim = handles_can,
  .can_zero = handles_can,
  .can_fua = handles_can,
  .can_multi_conn = handles_can,
  .can_extents = handles_can,
  .can_cache = handles_can,
  .can_fast_zero = handles_can,
  .pread = handles_pread,
  .pwrite = handles_pwrite,
  .flush = handles_flush,
  .trim = handles_trim,
  .zero = handles_zero,
  .cache = handles_cache,
  .extents = handles_extents,
#endif
};

NBDKIT_REGISTER_PLUGIN (plugin)
