/* The functions of the API that parse what the user has typed.
 *
 * All report mistakes with nbdkit_error, and set errno to EINVAL.
 */

#define _GNU_SOURCE
#include "api.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <termios.h>
#include <unistd.h>

/* -- numbers ----------------------------------------------------------------------------- */

static int
wrong (const char *what, const char *text, const char *why)
{
  nbdkit_error ("%s: %s: %s", what, text, why);
  errno = EINVAL;
  return -1;
}

/* After strtol or its like: report an error unless all of TEXT was a number. */
static int
check_end (const char *what, const char *text, const char *end)
{
  if (errno == ERANGE)
    return wrong (what, text, "the number is out of range");
  if (errno != 0)
    return wrong (what, text, strerror (errno));
  if (end == text)
    return wrong (what, text, "a number is expected");
  if (*end != '\0')
    return wrong (what, text, "there is more than a number");
  return 0;
}

static int
parse_signed (const char *what, const char *text, intmax_t least, intmax_t most, intmax_t *result)
{
  char *end;
  errno = 0;
  *result = strtoimax (text, &end, 0);
  if (check_end (what, text, end) == -1)
    return -1;
  if (*result < least || *result > most)
    return wrong (what, text, "the number is out of range");
  return 0;
}

static int
parse_unsigned (const char *what, const char *text, uintmax_t most, uintmax_t *result)
{
  const char *first = text;
  while (isspace ((unsigned char) *first))
    first++;
  if (*first == '-') /* strtoumax would let it pass */
    return wrong (what, text, "a negative number is not allowed");
  char *end;
  errno = 0;
  *result = strtoumax (text, &end, 0);
  if (check_end (what, text, end) == -1)
    return -1;
  if (*result > most)
    return wrong (what, text, "the number is out of range");
  return 0;
}

#define PARSE_SIGNED(name, type, least, most) \
  API int nbdkit_parse_##name (const char *what, const char *text, type *result) \
  { \
    intmax_t number; \
    if (parse_signed (what, text, least, most, &number) == -1) \
      return -1; \
    if (result != NULL) \
      *result = (type) number; \
    return 0; \
  }

#define PARSE_UNSIGNED(name, type, most) \
  API int nbdkit_parse_##name (const char *what, const char *text, type *result) \
  { \
    uintmax_t number; \
    if (parse_unsigned (what, text, most, &number) == -1) \
      return -1; \
    if (result != NULL) \
      *result = (type) number; \
    return 0; \
  }

PARSE_SIGNED (int, int, INT_MIN, INT_MAX)
PARSE_SIGNED (int8_t, int8_t, INT8_MIN, INT8_MAX)
PARSE_SIGNED (int16_t, int16_t, INT16_MIN, INT16_MAX)
PARSE_SIGNED (int32_t, int32_t, INT32_MIN, INT32_MAX)
PARSE_SIGNED (int64_t, int64_t, INT64_MIN, INT64_MAX)
PARSE_UNSIGNED (unsigned, unsigned, UINT_MAX)
PARSE_UNSIGNED (uint8_t, uint8_t, UINT8_MAX)
PARSE_UNSIGNED (uint16_t, uint16_t, UINT16_MAX)
PARSE_UNSIGNED (uint32_t, uint32_t, UINT32_MAX)
PARSE_UNSIGNED (uint64_t, uint64_t, UINT64_MAX)

/* A number of bytes, with a suffix for the unit. */
API int64_t
nbdkit_parse_size (const char *text)
{
  static const char what[] = "size";
  char *end;
  errno = 0;
  intmax_t number = strtoimax (text, &end, 0); /* as in nbdkit 1.48: 0x10 is 16, 010 is 8 */
  if (errno == ERANGE)
    return wrong (what, text, "too large: the limit is 2^63-1 bytes");
  if (end == text)
    return wrong (what, text, "write a number of bytes, or use a suffix as in 512k, 10M, 1G");
  if (number < 0)
    return wrong (what, text, "a size cannot be negative");
  static const char units[] = "kmgtpe";
  const char *unit = *end ? strchr (units, tolower ((unsigned char) *end)) : NULL;
  int64_t scale = 1;
  if (unit != NULL)
    scale = INT64_C (1) << (10 * (unit - units + 1));
  else if (*end == 's' || *end == 'S')
    scale = 512; /* sectors */
  else if (*end != 'b' && *end != 'B' && *end != '\0')
    return wrong (what, text, "the suffix is none of b, s, k, M, G, T, P, E");
  if (*end != '\0' && end[1] != '\0')
    return wrong (what, text, "there is more after the suffix");
  int64_t size;
  if (__builtin_mul_overflow (number, scale, &size))
    return wrong (what, text, "too large: the limit is 2^63-1 bytes");
  return size;
}

API int
nbdkit_parse_bool (const char *text)
{
  static const char *const yes[] = { "1", "true", "t", "yes", "y", "on" };
  static const char *const no[] = { "0", "false", "f", "no", "n", "off" };
  for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++) {
    if (strcasecmp (text, yes[i]) == 0)
      return 1;
    if (strcasecmp (text, no[i]) == 0)
      return 0;
  }
  nbdkit_error ("%s: expected true or false", text);
  errno = EINVAL;
  return -1;
}

static double
parse_real (const char *text, char **end)
{
  double number = strtod (text, end);
  if (errno == ERANGE && fabs (number) < 1)
    errno = 0; /* so small that 0 will do */
  return number;
}

/* A number such as 0.25, a percentage, or a fraction such as 1:4 or 1/4; 0:0 is 0. */
API int
nbdkit_parse_probability (const char *what, const char *text, double *result)
{
  char *end;
  errno = 0;
  double number = parse_real (text, &end);
  if (end != text && *end == '%' && end[1] == '\0') {
    number /= 100;
    end++;
  }
  else if (end != text && (*end == ':' || *end == '/')) {
    const char *second = end + 1;
    double divisor = parse_real (second, &end);
    if (end == second)
      end--;
    if (number != 0 || divisor != 0)
      number /= divisor;
  }
  if (check_end (what, text, end) == -1)
    return -1;
  if (!isfinite (number) || signbit (number))
    return wrong (what, text, "a probability is a number that is not negative");
  if (result != NULL)
    *result = number;
  return 0;
}

/* A time such as 10 or 0.5, in seconds unless a suffix names another unit. */
API int
nbdkit_parse_delay (const char *what, const char *text, unsigned *seconds, unsigned *nanoseconds)
{
  static const struct {
    const char *suffix;
    double nanoseconds;
  } units[] = {
    { "", 1e9 },  { "s", 1e9 },        { "ms", 1e6 },
    { "us", 1e3 }, { "\u00b5s", 1e3 }, { "\u03bcs", 1e3 }, /* the sign, and the letter mu */
    { "ns", 1 },
  };
  char *end;
  errno = 0;
  double number = parse_real (text, &end);
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
    if (end != text && strcmp (end, units[i].suffix) == 0) {
      number *= units[i].nanoseconds;
      end += strlen (end);
    }
  if (end != text && *end != '\0')
    return wrong (what, text, "the unit is none of s, ms, us, ns");
  if (check_end (what, text, end) == -1)
    return -1;
  if (!isfinite (number) || signbit (number))
    return wrong (what, text, "a delay is a number that is not negative");
  if (number >= (UINT_MAX + 1.0) * 1e9)
    return wrong (what, text, "the number is out of range");
  uint64_t rounded = (uint64_t) llrint (number);
  if (seconds != NULL)
    *seconds = (unsigned) (rounded / 1000000000);
  if (nanoseconds != NULL)
    *nanoseconds = (unsigned) (rounded % 1000000000);
  return 0;
}

/* -- passwords --------------------------------------------------------------------------- */

/* Read a line from FD, and close it.  The result is to be freed; NULL after a message. */
static char *
read_line (int fd, const char *name)
{
  FILE *file = fdopen (fd, "r");
  if (file == NULL) {
    nbdkit_error ("the password in %s: %m", name);
    close (fd);
    return NULL;
  }
  char *line = NULL;
  size_t room = 0;
  errno = 0;
  ssize_t length = getline (&line, &room, file);
  if (length == -1 && ferror (file)) {
    nbdkit_error ("the password in %s: %m", name);
    free (line);
    line = NULL;
  }
  else if (length == -1) { /* an empty file */
    free (line);
    line = strdup ("");
  }
  else if (length > 0 && line[length - 1] == '\n')
    line[length - 1] = '\0';
  fclose (file);
  return line;
}

static char *
ask_for_password (void)
{
  struct termios shown, hidden;
  if (!nbdkit_stdio_safe () || tcgetattr (STDIN_FILENO, &shown) == -1) {
    nbdkit_error ("password=- asks for it, but standard input is no terminal; use password=+FILE");
    errno = EINVAL;
    return NULL;
  }
  fputs ("password: ", stdout);
  fflush (stdout);
  hidden = shown;
  hidden.c_lflag &= ~(tcflag_t) ECHO;
  tcsetattr (STDIN_FILENO, TCSAFLUSH, &hidden);
  int fd = dup (STDIN_FILENO);
  char *line = fd == -1 ? NULL : read_line (fd, "standard input");
  tcsetattr (STDIN_FILENO, TCSAFLUSH, &shown);
  putchar ('\n');
  return line;
}

/* TEXT is not shown if it is no number: it may be a password that begins with "-". */
static char *
password_from_descriptor (const char *text)
{
  char *end;
  errno = 0;
  long fd = strtol (text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || fd > INT_MAX) {
    nbdkit_error ("password=-FD: a number is expected; any password can be in password=+FILE");
    errno = EINVAL;
    return NULL;
  }
  if (fd <= STDERR_FILENO) {
    nbdkit_error ("password=-%ld: the descriptor is closed after it is read; use one above 2", fd);
    errno = EINVAL;
    return NULL;
  }
  return read_line ((int) fd, "the descriptor");
}

static char *
password_from_file (const char *name)
{
  int fd = open (name, O_RDONLY | O_CLOEXEC);
  if (fd == -1) {
    nbdkit_error ("the password in %s: %m", name);
    return NULL;
  }
  return read_line (fd, name);
}

API int
nbdkit_read_password (const char *text, char **password)
{
  if (strcmp (text, "-") == 0)
    *password = ask_for_password ();
  else if (*text == '-')
    *password = password_from_descriptor (text + 1);
  else if (*text == '+')
    *password = password_from_file (text + 1);
  else if ((*password = strdup (text)) == NULL)
    nbdkit_error ("nbdkit_read_password: no memory");
  return *password == NULL ? -1 : 0;
}

/* -- file names -------------------------------------------------------------------------- */

API char *
nbdkit_absolute_path (const char *path)
{
  if (path == NULL || *path == '\0') {
    nbdkit_error ("a file name is expected");
    errno = EINVAL;
    return NULL;
  }
  char *result;
  if (*path == '/')
    result = strdup (path);
  else {
    char *directory = get_current_dir_name ();
    if (directory == NULL || asprintf (&result, "%s/%s", directory, path) == -1)
      result = NULL;
    free (directory);
  }
  if (result == NULL)
    nbdkit_error ("%s: %m", path);
  return result;
}

API char *
nbdkit_realpath (const char *path)
{
  if (path == NULL || *path == '\0') {
    nbdkit_error ("a file name is expected");
    errno = EINVAL;
    return NULL;
  }
  char *result = realpath (path, NULL);
  if (result == NULL)
    nbdkit_error ("%s: %m", path);
  return result;
}
