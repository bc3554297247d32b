/* --dump-plugin prints what the parsers make of some texts. */

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static const char *const sizes[] = {
  "0", "1", "-1", "+3", " 7", "7 ", "", "k", "10", "1b", "1B", "1s", "2S", "1k", "1K", "1m", "1M",
  "1g", "1T", "1p", "1E", "7E", "8E", "9223372036854775807", "9223372036854775808", "1kB", "0x10",
  "010", "1.5M", "99999999999999999999999",
};
static const char *const numbers[] = {
  "0", "1", "-1", "-0", "+3", " 7", " -7", "7 ", "", "x", "010", "0x1f", "1k", "127", "128",
  "-128", "-129", "255", "256", "32767", "32768", "-32768", "-32769", "65535", "65536",
  "2147483647", "2147483648", "-2147483648", "-2147483649", "4294967295", "4294967296",
  "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551615",
  "18446744073709551616",
};
static const char *const words[] = {
  "1", "0", "true", "TRUE", "t", "false", "F", "yes", "Y", "no", "n", "on", "ON", "off", "", "2",
};

#define COUNT(array) (sizeof (array) / sizeof (array)[0])

#define PRINT(name, type, format) \
  for (size_t i = 0; i < COUNT (numbers); i++) { \
    type number = 99; \
    int result = nbdkit_parse_##name ("what", numbers[i], &number); \
    printf ("%s[%s]=%d,%" format "\n", #name, numbers[i], result, number); \
  }

static void
print_password (const char *text)
{
  char *password = NULL;
  int result = nbdkit_read_password (text, &password);
  printf ("password[%s]=%d,%s\n", text, result, password ? password : "none");
  free (password);
}

static void
parse_dump_plugin (void)
{
  for (size_t i = 0; i < COUNT (sizes); i++)
    printf ("size[%s]=%" PRIi64 "\n", sizes[i], nbdkit_parse_size (sizes[i]));
  for (size_t i = 0; i < COUNT (words); i++)
    printf ("bool[%s]=%d\n", words[i], nbdkit_parse_bool (words[i]));
  PRINT (int, int, "d")
  PRINT (unsigned, unsigned, "u")
  PRINT (int8_t, int8_t, PRIi8)
  PRINT (uint8_t, uint8_t, PRIu8)
  PRINT (int16_t, int16_t, PRIi16)
  PRINT (uint16_t, uint16_t, PRIu16)
  PRINT (int32_t, int32_t, PRIi32)
  PRINT (uint32_t, uint32_t, PRIu32)
  PRINT (int64_t, int64_t, PRIi64)
  PRINT (uint64_t, uint64_t, PRIu64)
  print_password ("secret");
  print_password ("");
  print_password ("-1");
  print_password ("-x");
  print_password ("+/nonexistent");
  print_password ("+secret.txt");
  print_password ("+empty.txt");
  char *path = nbdkit_absolute_path ("some/file");
  printf ("absolute=%s\n", path);
  free (path);
  path = nbdkit_realpath ("/nonexistent");
  printf ("real=%s\n", path ? path : "none");
  printf ("real=%s\n", nbdkit_realpath ("./secret.txt"));
  printf ("intern=%s,%s,%s\n", nbdkit_strdup_intern ("abc"), nbdkit_strndup_intern ("abc", 2),
          nbdkit_printf_intern ("%d", 7));
  printf ("stdio=%d tls=%d\n", nbdkit_stdio_safe (), nbdkit_is_tls ());
}

static void *
parse_open (int readonly)
{
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
parse_get_size (void *handle)
{
  return 0;
}

static int
parse_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
  memset (buf, 0, count);
  return 0;
}

static struct nbdkit_plugin plugin = {
  .name = "parse",
  .dump_plugin = parse_dump_plugin,
  .open = parse_open,
  .get_size = parse_get_size,
  .pread = parse_pread,
};

NBDKIT_REGISTER_PLUGIN (plugin)
