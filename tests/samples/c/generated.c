/* A disk that answers by a table: the parameter `behaviour`, bytes in hexadecimal, of which each
   callback takes what it needs.  With none left it answers well.  Whatever it answers, the server
   must not use memory wrongly: so it answers with numbers, texts, extents and exports of any kind,
   and calls whatever a plugin may call. */

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define SIZE 65536
#define LONG 70000

static unsigned char table[4096];
static size_t length, at;
static char long_text[LONG + 1], odd_text[64];

static unsigned
take (void)
{
  return at < length ? table[at++] : 0;
}

static uint64_t
take_number (void)
{
  uint64_t number = 0;

  switch (take () % 12) {
  case 0: return take ();
  case 1: return take () << 9;
  case 2: return -1;
  case 3: return -take ();
  case 4: return SIZE;
  case 5: return INT32_MAX;
  case 6: return UINT32_MAX;
  case 7: return INT64_MAX;
  case 8: return INT64_MIN;
  case 9: return SIZE - take ();
  }
  for (int i = 0; i < 8; i++)
    number = number << 8 | take ();
  return number;
}

static const char *
take_text (void)
{
  switch (take () % 12) {
  case 0: return "disk";
  case 1: return "";
  case 2: return "%s%n%d%%";
  case 3: return "two\nlines\n";
  case 4: return "\xff\xfe\xed\xa0\x80";
  case 5: return "\x1b[31m\r\b\x7f";
  case 6: return long_text;
  case 7: return long_text + LONG - 4096;
  case 8: return long_text + LONG - 4097;
  case 9: return "1M";
  case 10: return "-5";
  }
  for (size_t i = 0; i < sizeof odd_text - 1; i++)
    odd_text[i] = (char) take ();
  return odd_text;
}

static const char *
take_text_or_null (void)
{
  return take () % 8 == 7 ? NULL : take_text ();
}

static void
call_something (void)
{
  struct sockaddr_storage address;
  socklen_t size = take () % (sizeof address + 1);
  char *made = NULL;
  double probability;
  unsigned seconds, nanoseconds;
  int number;

  switch (take () % 24) {
  case 1: nbdkit_debug ("%s", take_text ()); break;
  case 2: nbdkit_error ("%s", take_text ()); break;
  case 3: nbdkit_set_error ((int) take_number ()); break;
  case 4: nbdkit_parse_size (take_text ()); break;
  case 5: nbdkit_parse_bool (take_text ()); break;
  case 6: nbdkit_parse_int (take_text (), take_text (), &number); break;
  case 7: nbdkit_parse_unsigned (take_text (), take_text (), &seconds); break;
  case 8: nbdkit_parse_probability (take_text (), take_text (), &probability); break;
  case 9: nbdkit_parse_delay (take_text (), take_text (), &seconds, &nanoseconds); break;
  case 10: made = nbdkit_absolute_path (take_text ()); break;
  case 11: made = nbdkit_realpath (take_text ()); break;
  case 12: nbdkit_strdup_intern (take_text ()); break;
  case 13: nbdkit_strndup_intern (take_text (), take ()); break;
  case 14: nbdkit_printf_intern ("%s and %s", take_text (), take_text ()); break;
  case 15: nbdkit_export_name (); nbdkit_is_tls (); nbdkit_stdio_safe (); break;
  case 16: nbdkit_peer_name ((struct sockaddr *) &address, &size); break;
  case 17: nbdkit_peer_pid (); nbdkit_peer_uid (); nbdkit_peer_gid (); break;
  case 18: made = nbdkit_peer_tls_dn (); break;
  case 19: made = nbdkit_peer_security_context (); break;
  case 20: nbdkit_debug_hexdump (long_text, take () * 16, take_text (), take_number ()); break;
  case 21: nbdkit_debug_hexdiff (table, long_text, take () * 16, take_text (), 0); break;
  case 22: if (take () == 255) nbdkit_disconnect (take () % 2); break;
  case 23: nbdkit_nanosleep (0, 0); break;
  }
  free (made);
}

/* What a callback returns that has done its work, or has not. */
static int64_t
answer (int64_t good)
{
  for (unsigned calls = take () % 4; calls; calls--)
    call_something ();
  switch (take () % 8) {
  case 5:
    nbdkit_set_error ((int) take_number ());
    return -1;
  case 6:
    nbdkit_error ("%s", take_text ());
    return -1;
  case 7:
    return (int64_t) take_number ();
  }
  return good;
}

static void
generated_load (void)
{
  memset (long_text, 'x', LONG);
}

static int
generated_config (const char *key, const char *value)
{
  char pair[3] = "";

  if (strcmp (key, "behaviour") != 0) {
    nbdkit_error ("there is no parameter %s", key);
    return -1;
  }
  for (length = at = 0; length < sizeof table && value[2 * length]; length++) {
    memcpy (pair, value + 2 * length, 2);
    table[length] = (unsigned char) strtoul (pair, NULL, 16);
  }
  return 0;
}

static int
generated_preconnect (int readonly)
{
  return (int) answer (0);
}

static int
generated_list_exports (int readonly, int is_tls, struct nbdkit_exports *exports)
{
  if (take () % 4 == 1 && nbdkit_use_default_export (exports) == -1)
    return -1;
  for (unsigned count = take (); count; count--)
    if (nbdkit_add_export (exports, take_text (), take_text_or_null ()) == -1 && take () % 2)
      return -1;
  return (int) answer (0);
}

static const char *
generated_default_export (int readonly, int is_tls)
{
  call_something ();
  return take_text_or_null ();
}

static const char *
generated_description (void *handle)
{
  call_something ();
  return take_text_or_null ();
}

static void *
generated_open (int readonly)
{
  return answer (0) == 0 ? malloc (1) : NULL;
}

static void
generated_close (void *handle)
{
  call_something ();
  free (handle);
}

static int64_t
generated_get_size (void *handle)
{
  return answer (SIZE);
}

static int
generated_block_size (void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
  if (take () % 2) {
    *minimum = (uint32_t) take_number ();
    *preferred = (uint32_t) take_number ();
    *maximum = (uint32_t) take_number ();
  }
  else {
    *minimum = 1;
    *preferred = 4096;
    *maximum = UINT32_MAX;
  }
  return (int) answer (0);
}

#define FACT(name) \
  static int generated_##name (void *handle) { return (int) answer (1); }

FACT (can_write)
FACT (can_flush)
FACT (can_trim)
FACT (can_zero)
FACT (can_fast_zero)
FACT (can_fua)
FACT (can_cache)
FACT (can_multi_conn)
FACT (can_extents)
FACT (is_rotational)

static int
generated_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  memset (buf, (int) take (), count);
  return (int) answer (0);
}

static int
generated_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  volatile unsigned char sum = 0;

  for (uint32_t i = 0; i < count; i++) /* all of it can be read */
    sum ^= ((const unsigned char *) buf)[i];
  return (int) answer (0);
}

static int
generated_flush (void *handle, uint32_t flags)
{
  return (int) answer (0);
}

#define REQUEST(name) \
  static int generated_##name (void *handle, uint32_t count, uint64_t offset, uint32_t flags) \
  { return (int) answer (0); }

REQUEST (trim)
REQUEST (zero)
REQUEST (cache)

static int
generated_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                   struct nbdkit_extents *extents)
{
  uint64_t next = take () % 4 ? offset : take_number ();

  for (unsigned pieces = take (); pieces; pieces--) {
    uint64_t size = take_number ();
    if (nbdkit_add_extent (extents, next, size, (uint32_t) take_number ()) == -1 && take () % 2)
      return -1;
    next = take () % 16 ? next + size : take_number ();
  }
  return (int) answer (0);
}

static struct nbdkit_plugin plugin = {
  .name = "generated",
  .load = generated_load,
  .config = generated_config,
  .preconnect = generated_preconnect,
  .list_exports = generated_list_exports,
  .default_export = generated_default_export,
  .export_description = generated_description,
  .open = generated_open,
  .close = generated_close,
  .get_size = generated_get_size,
  .block_size = generated_block_size,
  .can_write = generated_can_write,
  .can_flush = generated_can_flush,
  .can_trim = generated_can_trim,
  .can_zero = generated_can_zero,
  .can_fast_zero = generated_can_fast_zero,
  .can_fua = generated_can_fua,
  .can_cache = generated_can_cache,
  .can_multi_conn = generated_can_multi_conn,
  .can_extents = generated_can_extents,
  .is_rotational = generated_is_rotational,
  .pread = generated_pread,
  .pwrite = generated_pwrite,
  .flush = generated_flush,
  .trim = generated_trim,
  .zero = generated_zero,
  .cache = generated_cache,
  .extents = generated_extents,
};

NBDKIT_REGISTER_PLUGIN (plugin)
