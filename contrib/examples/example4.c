/* A disk in C: a RAM disk that stays sparse.  Copy it and change it.
 *
 *   cc -O2 -shared -fPIC $(pkg-config --cflags nbdfork) -o example4.so example4.c
 *   nbdfork ./example4.so size=1G
 *
 * It is divided into pages, and a page is allocated when it is written for the first time; one
 * that was never written reads as zeroes.  All clients share it, which is why it does not say
 * `int nbdfork_processes = 1`: they are served by one process, each in a thread.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */

#define NBDKIT_API_VERSION 2
#include <nbdfork-plugin.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Requests of all clients may run at the same time; `lock` is what makes that safe. */
#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define PAGE_SIZE 32768

static int64_t size = -1;
static char **pages; /* NULL: never written */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;

/* -- starting: what is wrong here is told to the user --------------------------------------- */

static int
example4_config (const char *key, const char *value)
{
  if (strcmp (key, "size") != 0) {
    nbdkit_error ("unknown parameter %s=; the parameter is size=SIZE", key);
    return -1;
  }
  size = nbdkit_parse_size (value); /* reports what is wrong with it */
  return size == -1 ? -1 : 0;
}

static int
example4_config_complete (void)
{
  if (size == -1) {
    nbdkit_error ("the parameter size=SIZE is required");
    return -1;
  }
  return 0;
}

static int
example4_get_ready (void)
{
  pages = calloc ((size_t) (size / PAGE_SIZE + 1), sizeof *pages);
  if (pages == NULL) {
    nbdkit_error ("no memory for the table of a disk of %lld bytes", (long long) size);
    return -1;
  }
  return 0;
}

/* -- clients ------------------------------------------------------------------------------ */

static void *
example4_open (int readonly)
{
  (void) readonly; /* the server itself turns down writes */
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
example4_get_size (void *handle)
{
  (void) handle;
  return size;
}

/* A write is seen by all clients at once, and there is nothing that a flush would have to do. */
static int
example4_can_multi_conn (void *handle)
{
  (void) handle;
  return 1;
}

/* -- requests: the server has checked that they lie within the disk ------------------------- */

/* Return how many of COUNT bytes from OFFSET lie in the page that OFFSET is in. */
static uint32_t
within_page (uint32_t count, uint64_t offset)
{
  uint64_t left = PAGE_SIZE - offset % PAGE_SIZE;
  return count < left ? count : (uint32_t) left;
}

static int
example4_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  (void) flags;
  pthread_rwlock_rdlock (&lock);
  for (char *to = buf; count > 0;) {
    uint32_t n = within_page (count, offset);
    const char *page = pages[offset / PAGE_SIZE];
    if (page != NULL)
      memcpy (to, page + offset % PAGE_SIZE, n);
    else
      memset (to, 0, n);
    to += n;
    offset += n;
    count -= n;
  }
  pthread_rwlock_unlock (&lock);
  return 0;
}

static int
example4_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  (void) flags;
  int result = 0;
  pthread_rwlock_wrlock (&lock);
  for (const char *from = buf; count > 0;) {
    uint32_t n = within_page (count, offset);
    char **page = &pages[offset / PAGE_SIZE];
    if (*page == NULL && (*page = calloc (1, PAGE_SIZE)) == NULL) {
      nbdkit_error ("no memory for another page");
      nbdkit_set_error (ENOSPC); /* what the client gets */
      result = -1;
      break;
    }
    memcpy (*page + offset % PAGE_SIZE, from, n);
    from += n;
    offset += n;
    count -= n;
  }
  pthread_rwlock_unlock (&lock);
  return result;
}

/* Tell where the disk is empty, so that copying it takes no time there. */
static int
example4_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                  struct nbdkit_extents *extents)
{
  (void) handle;
  (void) flags;
  int result = 0;
  pthread_rwlock_rdlock (&lock);
  while (count > 0 && result == 0) {
    uint32_t n = within_page (count, offset);
    uint32_t type = pages[offset / PAGE_SIZE] ? 0 : NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
    result = nbdkit_add_extent (extents, offset, n, type); /* merges neighbours of one type */
    offset += n;
    count -= n;
  }
  pthread_rwlock_unlock (&lock);
  return result;
}

static struct nbdkit_plugin plugin = {
  .name = "example4",
  .longname = "a sparse RAM disk, as an example",
  .config = example4_config,
  .config_complete = example4_config_complete,
  .config_help = "size=SIZE  (required) the size of the disk",
  .magic_config_key = "size",
  .get_ready = example4_get_ready,
  .open = example4_open,
  .get_size = example4_get_size,
  .can_multi_conn = example4_can_multi_conn,
  .pread = example4_pread,
  .pwrite = example4_pwrite,
  .extents = example4_extents,
};

NBDKIT_REGISTER_PLUGIN (plugin)
