/* A file's pages as memory that can be sent without a copy; see nbdfork/plugin/mapping.py. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "batch.h"

enum { PAGE = 4096, MOST_PAGES = 128 };

/* Map the file, unless mincore(2) would not tell the truth: it says yes to a user who cannot write
 * the file. */
static void
map_file (struct map *map, int fd, const struct stat *status)
{
  char path[40];
  map->tried = 1;
  snprintf (path, sizeof path, "/proc/self/fd/%d", fd);
  if (!S_ISREG (status->st_mode) || status->st_size == 0 || sysconf (_SC_PAGESIZE) != PAGE
      || faccessat (AT_FDCWD, path, W_OK, AT_EACCESS) == -1)
    return;
  void *pages = mmap (NULL, status->st_size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (pages == MAP_FAILED)
    return;
  map->pages = pages;
  map->size = status->st_size;
}

const unsigned char *
resident (struct map *map, int fd, uint64_t start, size_t count)
{
  struct stat status;
  if ((map->tried && map->pages == NULL) || fstat (fd, &status) == -1)
    return NULL;
  if (!map->tried)
    map_file (map, fd, &status);
  /* mincore may still count what a large folio holds past the end. */
  uint64_t size = (uint64_t) status.st_size < map->size ? (uint64_t) status.st_size : map->size;
  if (map->pages == NULL || start > size || count > size - start)
    return NULL;
  unsigned char known[MOST_PAGES];
  uint64_t first = start / PAGE, last = (start + count - 1) / PAGE;
  if (last - first >= MOST_PAGES
      || mincore (map->pages + first * PAGE, (last - first + 1) * PAGE, known) == -1)
    return NULL;
  for (uint64_t i = 0; i <= last - first; i++)
    if (!(known[i] & 1))
      return NULL;
  return map->pages + start;
}
