/* nbdfork-plugin.h: what a disk written in C is made of.
 *
 * Define NBDKIT_API_VERSION as 2 before including this, fill in a `struct nbdkit_plugin`, and end
 * the file with NBDKIT_REGISTER_PLUGIN (plugin).  nbdfork-c-plugin(3) is the manual.
 *
 * The names, the numbers and the layout are those of nbdkit 1.32, so the same source compiles
 * against either header, and what it compiles to is served by either server.  Functions that came
 * to nbdkit later are marked: a plugin that calls one needs a newer nbdkit, or nbdfork.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */

#ifndef NBDFORK_PLUGIN_H
#define NBDFORK_PLUGIN_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#ifndef NBDKIT_API_VERSION
#define NBDKIT_API_VERSION 1 /* for the sake of plugins that know of no other */
#elif NBDKIT_API_VERSION - 0 != 1 && NBDKIT_API_VERSION - 0 != 2
#error NBDKIT_API_VERSION must be 1 or 2
#endif

/* The version of nbdkit that this header stands for. */
#define NBDKIT_VERSION_MAJOR 1
#define NBDKIT_VERSION_MINOR 32
#define NBDKIT_VERSION_MICRO 0
#define NBDKIT_VERSION_STRING "1.32.0"

#ifdef __cplusplus
extern "C" {
#endif

/* What must not happen at the same time: THREAD_MODEL, and what .thread_model returns. */
#define NBDKIT_THREAD_MODEL_SERIALIZE_CONNECTIONS 0
#define NBDKIT_THREAD_MODEL_SERIALIZE_ALL_REQUESTS 1
#define NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS 2
#define NBDKIT_THREAD_MODEL_PARALLEL 3

/* Flags of requests. */
#define NBDKIT_FLAG_MAY_TRIM (1 << 0)  /* zero: the range may become a hole */
#define NBDKIT_FLAG_FUA (1 << 1)       /* return when the data is on stable storage */
#define NBDKIT_FLAG_REQ_ONE (1 << 2)   /* extents: the first one is enough */
#define NBDKIT_FLAG_FAST_ZERO (1 << 3) /* zero: EOPNOTSUPP unless it is fast */

/* What .can_fua returns. */
#define NBDKIT_FUA_NONE 0
#define NBDKIT_FUA_EMULATE 1
#define NBDKIT_FUA_NATIVE 2

/* What .can_cache returns. */
#define NBDKIT_CACHE_NONE 0
#define NBDKIT_CACHE_EMULATE 1
#define NBDKIT_CACHE_NATIVE 2

/* Types of extents; 0 is data. */
#define NBDKIT_EXTENT_HOLE (1 << 0)
#define NBDKIT_EXTENT_ZERO (1 << 1)

/* A handle for plugins that need none: it is not NULL. */
#define NBDKIT_HANDLE_NOT_NEEDED (&errno)

#define NBDKIT_DLL_PUBLIC __attribute__ ((__visibility__ ("default")))

/* The compiler checks format strings; %m is for the text of errno. */
#define NBDFORK_PRINTF(format, first) __attribute__ ((__format__ (__printf__, format, first)))

struct nbdkit_extents;
struct nbdkit_exports;

struct nbdkit_extent { /* one of them; later than 1.32 */
  uint64_t offset;
  uint64_t length;
  uint32_t type;
};

/* The callbacks of the two API versions differ for these five operations only, and each version
 * has slots of its own for them.  Those of the other version are given names nobody uses.
 */
#if NBDKIT_API_VERSION == 1
#define NBDFORK_V1(name) name
#define NBDFORK_V2(name) _##name##_v2
#else
#define NBDFORK_V1(name) _##name##_v1
#define NBDFORK_V2(name) name
#endif

struct nbdkit_plugin {
  /* NBDKIT_REGISTER_PLUGIN sets these. */
  uint64_t _struct_size;
  int _api_version;
  int _thread_model;

  const char *name; /* letters, digits and "-" */
  const char *longname;
  const char *version;
  const char *description;

  void (*load) (void);
  void (*unload) (void);

  int (*config) (const char *key, const char *value);
  int (*config_complete) (void);
  const char *config_help;

  void *(*open) (int readonly);
  void (*close) (void *handle);

  int64_t (*get_size) (void *handle);

  int (*can_write) (void *handle);
  int (*can_flush) (void *handle);
  int (*is_rotational) (void *handle);
  int (*can_trim) (void *handle);

  int (*NBDFORK_V1 (pread)) (void *handle, void *buf, uint32_t count, uint64_t offset);
  int (*NBDFORK_V1 (pwrite)) (void *handle, const void *buf, uint32_t count, uint64_t offset);
  int (*NBDFORK_V1 (flush)) (void *handle);
  int (*NBDFORK_V1 (trim)) (void *handle, uint32_t count, uint64_t offset);
  int (*NBDFORK_V1 (zero)) (void *handle, uint32_t count, uint64_t offset, int may_trim);

  int errno_is_preserved;

  void (*dump_plugin) (void);

  int (*can_zero) (void *handle);
  int (*can_fua) (void *handle);

  int (*NBDFORK_V2 (pread)) (void *handle, void *buf, uint32_t count, uint64_t offset,
                             uint32_t flags);
  int (*NBDFORK_V2 (pwrite)) (void *handle, const void *buf, uint32_t count, uint64_t offset,
                              uint32_t flags);
  int (*NBDFORK_V2 (flush)) (void *handle, uint32_t flags);
  int (*NBDFORK_V2 (trim)) (void *handle, uint32_t count, uint64_t offset, uint32_t flags);
  int (*NBDFORK_V2 (zero)) (void *handle, uint32_t count, uint64_t offset, uint32_t flags);

  const char *magic_config_key;

  int (*can_multi_conn) (void *handle);

  int (*can_extents) (void *handle);
  int (*extents) (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                  struct nbdkit_extents *extents);
  int (*can_cache) (void *handle);
  int (*cache) (void *handle, uint32_t count, uint64_t offset, uint32_t flags);

  int (*thread_model) (void);

  int (*can_fast_zero) (void *handle);

  int (*preconnect) (int readonly);

  int (*get_ready) (void);
  int (*after_fork) (void);

  int (*list_exports) (int readonly, int is_tls, struct nbdkit_exports *exports);
  const char *(*default_export) (int readonly, int is_tls);
  const char *(*export_description) (void *handle);

  void (*cleanup) (void);

  int (*block_size) (void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum);
};

/* Messages, and the error that the client gets. */
extern void nbdkit_error (const char *format, ...) NBDFORK_PRINTF (1, 2);
extern void nbdkit_verror (const char *format, va_list args) NBDFORK_PRINTF (1, 0);
extern void nbdkit_debug (const char *format, ...) NBDFORK_PRINTF (1, 2);
extern void nbdkit_vdebug (const char *format, va_list args) NBDFORK_PRINTF (1, 0);
extern void nbdkit_set_error (int error);

/* Later than 1.32: the time as "2026-01-01 12:00:00.000333", in UTC, good until the thread's next call;
 * and debug messages that show bytes in memory, where START is the offset of the first.
 * PREFIX begins each line, and may be NULL.
 */
extern const char *nbdkit_timestamp (void);
extern void nbdkit_debug_hexdump (const void *buf, size_t len, const char *prefix, uint64_t start);
extern void nbdkit_debug_hexdiff (const void *buf1, const void *buf2, size_t len,
                                  const char *prefix, uint64_t start);

/* Parsing what the user has typed; -1 after a message. */
extern int64_t nbdkit_parse_size (const char *text);
extern int nbdkit_parse_bool (const char *text);
extern int nbdkit_parse_int (const char *what, const char *text, int *result);
extern int nbdkit_parse_unsigned (const char *what, const char *text, unsigned *result);
extern int nbdkit_parse_int8_t (const char *what, const char *text, int8_t *result);
extern int nbdkit_parse_uint8_t (const char *what, const char *text, uint8_t *result);
extern int nbdkit_parse_int16_t (const char *what, const char *text, int16_t *result);
extern int nbdkit_parse_uint16_t (const char *what, const char *text, uint16_t *result);
extern int nbdkit_parse_int32_t (const char *what, const char *text, int32_t *result);
extern int nbdkit_parse_uint32_t (const char *what, const char *text, uint32_t *result);
extern int nbdkit_parse_int64_t (const char *what, const char *text, int64_t *result);
extern int nbdkit_parse_uint64_t (const char *what, const char *text, uint64_t *result);
extern int nbdkit_read_password (const char *text, char **password);
extern char *nbdkit_absolute_path (const char *path);
extern char *nbdkit_realpath (const char *path);
extern int nbdkit_stdio_safe (void);
/* Later than 1.32: */
extern int nbdkit_parse_probability (const char *what, const char *text, double *result);
extern int nbdkit_parse_delay (const char *what, const char *text, unsigned *seconds,
                               unsigned *nanoseconds);

/* Strings that live as long as the client, or, outside of a client's callbacks, the server. */
extern const char *nbdkit_strdup_intern (const char *text);
extern const char *nbdkit_strndup_intern (const char *text, size_t most);
extern const char *nbdkit_printf_intern (const char *format, ...) NBDFORK_PRINTF (1, 2);
extern const char *nbdkit_vprintf_intern (const char *format, va_list args) NBDFORK_PRINTF (1, 0);

/* The client being served. */
extern const char *nbdkit_export_name (void);
extern int nbdkit_is_tls (void);
extern int nbdkit_peer_name (struct sockaddr *address, socklen_t *length);
extern int64_t nbdkit_peer_pid (void);
extern int64_t nbdkit_peer_uid (void);
extern int64_t nbdkit_peer_gid (void);
/* Later than 1.32, the first three to be freed by the caller: */
extern char *nbdkit_peer_security_context (void);
extern char *nbdkit_peer_tls_dn (void);
extern char *nbdkit_peer_tls_issuer_dn (void);
extern void nbdkit_disconnect (int force);

/* Results of .extents and .list_exports. */
extern int nbdkit_add_extent (struct nbdkit_extents *extents, uint64_t offset, uint64_t length,
                              uint32_t type);
extern int nbdkit_add_export (struct nbdkit_exports *exports, const char *name,
                              const char *description);
extern int nbdkit_use_default_export (struct nbdkit_exports *exports);
/* Later than 1.32: lists of extents for the plugin's own use, to be freed by it. */
extern struct nbdkit_extents *nbdkit_extents_new (uint64_t start, uint64_t end);
extern void nbdkit_extents_free (struct nbdkit_extents *extents);
extern size_t nbdkit_extents_count (const struct nbdkit_extents *extents);
extern struct nbdkit_extent nbdkit_get_extent (const struct nbdkit_extents *extents, size_t index);

/* A plugin that keeps nothing in variables that clients share says `int nbdfork_processes = 1;`
 * and each client is served by a process of its own.  nbdkit does not look at it.
 */
extern NBDKIT_DLL_PUBLIC int nbdfork_processes;

/* The server. */
extern int nbdkit_nanosleep (unsigned seconds, unsigned nanoseconds);
extern void nbdkit_shutdown (void);
/* Later than 1.32; NULL: it has none. */
extern const char *nbdkit_name (void);

#ifdef __cplusplus
}
#define NBDFORK_C_LINKAGE extern "C"
#else
#define NBDFORK_C_LINKAGE
#endif

#define NBDKIT_REGISTER_PLUGIN(plugin) \
  NBDFORK_C_LINKAGE NBDKIT_DLL_PUBLIC struct nbdkit_plugin *plugin_init (void) \
  { \
    (plugin)._struct_size = sizeof (plugin); \
    (plugin)._api_version = NBDKIT_API_VERSION; \
    (plugin)._thread_model = THREAD_MODEL; \
    return &(plugin); \
  }

#endif /* NBDFORK_PLUGIN_H */
