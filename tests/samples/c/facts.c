/* A disk of 1 MiB of a pattern.  What it can do is chosen with -D: API, WRITE, FLUSH, ZERO ... */

#ifndef API
#define API 2
#endif
#define NBDKIT_API_VERSION API
#include <nbdkit-plugin.h>

#include <string.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#if API == 1
#define FLAGS
#define MAY_TRIM , int may_trim
#else
#define FLAGS , uint32_t flags
#define MAY_TRIM FLAGS
#endif

static unsigned char disk[1 << 20];

static void
fill (void)
{
  for (size_t i = 0; i < sizeof disk; i++)
    disk[i] = (unsigned char) (i >> 9);
}

static void *
facts_open (int readonly)
{
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
facts_get_size (void *handle)
{
  return sizeof disk;
}

static int
facts_pread (void *handle, void *buf, uint32_t count, uint64_t offset FLAGS)
{
  memcpy (buf, disk + offset, count);
  return 0;
}

static int
facts_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset FLAGS)
{
  memcpy (disk + offset, buf, count);
  return 0;
}

static int
#if API == 1
facts_flush (void *handle)
#else
facts_flush (void *handle, uint32_t flags)
#endif
{
  return 0;
}

static int
facts_trim (void *handle, uint32_t count, uint64_t offset FLAGS)
{
  memset (disk + offset, 0xEE, count);
  return 0;
}

/* An odd sector is zeroed; for an even one the server is asked to write the zeroes. */
static int
facts_zero (void *handle, uint32_t count, uint64_t offset MAY_TRIM)
{
  if (offset >> 9 & 1) {
    memset (disk + offset, 0, count);
    return 0;
  }
  nbdkit_set_error (EOPNOTSUPP);
  return -1;
}

#define ANSWER(name, value) \
  static int facts_##name (void *handle) { return value; }

#ifdef CAN_FUA
ANSWER (can_fua, CAN_FUA)
#endif
#ifdef CAN_ZERO
ANSWER (can_zero, CAN_ZERO)
#endif
#ifdef CAN_WRITE
ANSWER (can_write, CAN_WRITE)
#endif
#ifdef CAN_CACHE
ANSWER (can_cache, CAN_CACHE)
#endif
#ifdef CAN_MULTI_CONN
ANSWER (can_multi_conn, CAN_MULTI_CONN)
#endif
#ifdef IS_ROTATIONAL
ANSWER (is_rotational, IS_ROTATIONAL)
#endif

#ifdef EXTENTS
static int
facts_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
               struct nbdkit_extents *extents)
{
  /* More than was asked for, at both ends, and in two pieces of one type. */
  if (nbdkit_add_extent (extents, 0, 4096, 0) == -1)
    return -1;
  if (nbdkit_add_extent (extents, 4096, 4096, 0) == -1)
    return -1;
  return nbdkit_add_extent (extents, 8192, sizeof disk - 8192,
                            NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO);
}
#endif

#ifdef BLOCK_SIZE
static int
facts_block_size (void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
  *minimum = 512;
  *preferred = 8192;
  *maximum = 1 << 20;
  return 0;
}
#endif

static struct nbdkit_plugin plugin = {
  .name = "facts",
  .load = fill,
  .open = facts_open,
  .get_size = facts_get_size,
  .pread = facts_pread,
#ifdef WRITE
  .pwrite = facts_pwrite,
#endif
#ifdef FLUSH
  .flush = facts_flush,
#endif
#ifdef TRIM
  .trim = facts_trim,
#endif
#ifdef ZERO
  .zero = facts_zero,
#endif
#ifdef CAN_FUA
  .can_fua = facts_can_fua,
#endif
#ifdef CAN_ZERO
  .can_zero = facts_can_zero,
#endif
#ifdef CAN_WRITE
  .can_write = facts_can_write,
#endif
#ifdef CAN_CACHE
  .can_cache = facts_can_cache,
#endif
#ifdef CAN_MULTI_CONN
  .can_multi_conn = facts_can_multi_conn,
#endif
#ifdef IS_ROTATIONAL
  .is_rotational = facts_is_rotational,
#endif
#ifdef EXTENTS
  .extents = facts_extents,
#endif
#ifdef BLOCK_SIZE
  .block_size = facts_block_size,
#endif
};

#ifdef OLD
/* As a plugin of the first release is: its struct ends here. */
NBDKIT_DLL_PUBLIC struct nbdkit_plugin *
plugin_init (void)
{
  plugin._struct_size = offsetof (struct nbdkit_plugin, can_zero);
  plugin._api_version = 1;
  plugin._thread_model = THREAD_MODEL;
  return &plugin;
}
#else
NBDKIT_REGISTER_PLUGIN (plugin)
#endif
