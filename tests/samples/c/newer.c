/* A plugin for an nbdkit newer than 1.32: it calls functions that this one did not have, and its
 * struct is longer than any server knows.
 *
 * --dump-plugin prints what the parsers make of some texts.  Sector 1 asks for the end of the
 * connection, sector 2 takes it by force, and sector 3 is dumped.
 */

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define COUNT(array) (sizeof (array) / sizeof (array)[0])

static const char *const delays[] = {
  "0", "10", "0.5", "1.5s", "250ms", "1.1ms", "7us", "7\u00b5s", "7\u03bcs", "999ns", "1e3ms", "4294967294",
  "4294967295", "1e-400", "", "s", "-1", "-0", "1h", "1 s", "1ms2", "nan", "inf", "4294967296", "ten",
};
static const char *const probabilities[] = {
  "0", "1", "0.25", "1e-3", "50%", "1:4", "1/8", "0:0", "2:1", "1e-400", "",
  "%", "-1", "-0", "1:", ":2", "1:0", "1%%", "nan", "inf", "half",
};

static void
print_extents (void)
{
  struct nbdkit_extents *extents = nbdkit_extents_new (100, 1000);

  if (extents == NULL || nbdkit_add_extent (extents, 0, 200, 3) == -1
      || nbdkit_add_extent (extents, 200, 5000, 0) == -1)
    abort ();
  for (size_t i = 0; i < nbdkit_extents_count (extents); i++) {
    struct nbdkit_extent extent = nbdkit_get_extent (extents, i);
    printf ("extent=%d,%d,%d\n", (int) extent.offset, (int) extent.length, (int) extent.type);
  }
  nbdkit_extents_free (extents);
  nbdkit_extents_free (NULL);
  printf ("backwards=%s\n", nbdkit_extents_new (2, 1) ? "yes" : "no");
  printf ("too_large=%s\n", nbdkit_extents_new (0, UINT64_C (1) << 63) ? "yes" : "no");
}

static void
newer_dump_plugin (void)
{
  for (size_t i = 0; i < COUNT (delays); i++) {
    unsigned seconds = 99, nanoseconds = 99;
    int result = nbdkit_parse_delay ("what", delays[i], &seconds, &nanoseconds);
    printf ("delay[%s]=%d,%u,%u\n", delays[i], result, seconds, nanoseconds);
  }
  for (size_t i = 0; i < COUNT (probabilities); i++) {
    double number = 99;
    int result = nbdkit_parse_probability ("what", probabilities[i], &number);
    printf ("probability[%s]=%d,%g\n", probabilities[i], result, number);
  }
  printf ("server_name=%s\n", nbdkit_name () ? nbdkit_name () : "none");
  printf ("timestamp=%s\n", nbdkit_timestamp ());
  print_extents ();
}

static void *
newer_open (int readonly)
{
  char *subject = nbdkit_peer_tls_dn (), *issuer = nbdkit_peer_tls_issuer_dn ();
  char *context = nbdkit_peer_security_context ();

  if (subject == NULL || issuer == NULL)
    return NULL;
  nbdkit_debug ("tls=%d", nbdkit_is_tls ());
  nbdkit_debug ("client: '%s' of '%s' is %s", subject, issuer, context ? context : "unlabelled");
  free (subject);
  free (issuer);
  free (context);
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
newer_get_size (void *handle)
{
  return 65536;
}

static int
newer_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  static const char one[] = "a line of text, and one more\n";
  static const char other[] = "a line of TEXT, and one more\n";

  memset (buf, 'n', count);
  if (offset == 512 || offset == 1024)
    nbdkit_disconnect (offset == 1024);
  if (offset == 1536) {
    nbdkit_debug_hexdump (one, sizeof one, "dump: ", 0x1008);
    nbdkit_debug_hexdiff (one, other, sizeof one, NULL, 0x1000);
  }
  return 0;
}

static int
newer_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  return 0;
}

static int
newer_flush (void *handle, uint32_t flags)
{
  return 0;
}

static struct {
  struct nbdkit_plugin known;
  void *later[8]; /* callbacks that no server has heard of */
} plugin = {
  .known = {
    .name = "newer",
    .dump_plugin = newer_dump_plugin,
    .open = newer_open,
    .get_size = newer_get_size,
    .pread = newer_pread,
    .pwrite = newer_pwrite,
    .flush = newer_flush,
  },
  .later = { &plugin, &plugin, &plugin, &plugin, &plugin, &plugin, &plugin, &plugin },
};

NBDKIT_DLL_PUBLIC struct nbdkit_plugin *
plugin_init (void)
{
  plugin.known._struct_size = sizeof plugin;
  plugin.known._api_version = NBDKIT_API_VERSION;
  plugin.known._thread_model = THREAD_MODEL;
  return &plugin.known;
}
