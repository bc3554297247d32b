/* A stand-in for VMware's VixDiskLib: the same functions, structs and error codes, on raw files.
 *
 * The structs are those of VMware's public vixDiskLib.h, with all their fields.  Environment:
 *
 *   STAND_IN_TRACE      a file to which each call is written, with its arguments
 *   STAND_IN_DATASTORE  the directory of "[datastore] NAME"
 *   STAND_IN_FAIL       a file, which need not be there, with "FUNCTION:ERROR" in it: the error
 *                       that the function FUNCTION is to return
 *
 * Compiled with -DDEPENDENCY it is the library that the other one needs; with -DOLD it lacks what
 * came after version 5.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef DEPENDENCY

int stand_in_sector_size (void) { return 512; }

#else

extern int stand_in_sector_size (void);

typedef uint64_t VixError;
typedef uint64_t VixDiskLibSectorType;
typedef char Bool;

enum {
  VIX_OK = 0,
  VIX_E_INVALID_ARG = 3,
  VIX_E_FILE_NOT_FOUND = 4,
  VIX_E_FILE_ERROR = 7,
  VIX_E_FILE_READ_ONLY = 11,
};

enum {
  VIXDISKLIB_FLAG_OPEN_READ_ONLY = 4,
};

typedef enum {
  VIXDISKLIB_CRED_UID = 1,
  VIXDISKLIB_CRED_SESSIONID = 2,
} VixDiskLibCredType;

typedef enum { VIXDISKLIB_SPEC_VMX = 0 } VixDiskLibSpecType;

typedef enum { VIXDISKLIB_ADAPTER_SCSI_LSILOGIC = 3 } VixDiskLibAdapterType;

typedef struct {
  char *vmxSpec;
  char *serverName;
  char *thumbPrint;
  long privateUse;
  VixDiskLibCredType credType;
  union VixDiskLibCreds {
    struct { char *userName; char *password; } uid;
    struct { char *cookie; char *userName; char *key; } sessionId;
    struct { char dummy; } *ticketId;
  } creds;
  uint32_t port;
  uint32_t nfcHostPort;
  char *vimApiVer;
  char reserved[8];
  void *state;
  VixDiskLibSpecType specType;
} VixDiskLibConnectParams;

typedef struct { uint32_t cylinders, heads, sectors; } VixDiskLibGeometry;

typedef struct {
  VixDiskLibGeometry biosGeo;
  VixDiskLibGeometry physGeo;
  VixDiskLibSectorType capacity;
  VixDiskLibAdapterType adapterType;
  int numLinks;
  char *parentFileNameHint;
  char *uuid;
} VixDiskLibInfo;

typedef struct {
  VixDiskLibSectorType offset;
  VixDiskLibSectorType length;
} VixDiskLibBlock;

typedef struct {
  uint32_t numBlocks;
  VixDiskLibBlock blocks[1];
} VixDiskLibBlockList;

typedef void VixDiskLibGenericLogFunc (const char *format, va_list arguments);

typedef struct { Bool readOnly; } *VixDiskLibConnection;
typedef struct { int fd; } *VixDiskLibHandle;

/* ---- for the tests ---- */

#define FIELD(type, field) \
  { #type "." #field, offsetof (VixDiskLib##type, field), sizeof ((VixDiskLib##type *) 0)->field }

const struct { const char *name; size_t offset, size; } stand_in_layouts[] = {
  FIELD (ConnectParams, vmxSpec),
  FIELD (ConnectParams, serverName),
  FIELD (ConnectParams, thumbPrint),
  FIELD (ConnectParams, privateUse),
  FIELD (ConnectParams, credType),
  FIELD (ConnectParams, creds),
  FIELD (ConnectParams, creds.uid.userName),
  FIELD (ConnectParams, creds.uid.password),
  FIELD (ConnectParams, creds.sessionId.cookie),
  FIELD (ConnectParams, creds.sessionId.userName),
  FIELD (ConnectParams, creds.sessionId.key),
  FIELD (ConnectParams, creds.ticketId),
  FIELD (ConnectParams, port),
  FIELD (ConnectParams, nfcHostPort),
  FIELD (Info, biosGeo),
  FIELD (Info, biosGeo.cylinders),
  FIELD (Info, biosGeo.heads),
  FIELD (Info, biosGeo.sectors),
  FIELD (Info, physGeo),
  FIELD (Info, capacity),
  FIELD (Info, adapterType),
  FIELD (Info, numLinks),
  FIELD (Info, parentFileNameHint),
  FIELD (Block, offset),
  FIELD (Block, length),
  FIELD (BlockList, numBlocks),
  FIELD (BlockList, blocks),
  { NULL, 0, 0 },
};

static int initialised;

static const char *
shown (const char *text)
{
  return text ? text : "(null)";
}

static void __attribute__ ((format (printf, 1, 2)))
trace (const char *format, ...)
{
  const char *path = getenv ("STAND_IN_TRACE");
  if (!path)
    return;
  FILE *file = fopen (path, "a");
  if (!file)
    abort ();
  fprintf (file, "%d %ld ", getpid (), syscall (SYS_gettid));
  va_list arguments;
  va_start (arguments, format);
  vfprintf (file, format, arguments);
  va_end (arguments);
  fputc ('\n', file);
  fclose (file);
}

/* Return the error that FUNCTION is to fail with, or VIX_OK. */
static VixError
failure (const char *function)
{
  char text[200] = "";
  const char *path = getenv ("STAND_IN_FAIL");
  FILE *file = path ? fopen (path, "r") : NULL;
  if (!file)
    return VIX_OK;
  if (!fgets (text, sizeof text, file))
    text[0] = 0;
  fclose (file);
  size_t length = strlen (function);
  if (strncmp (text, function, length) != 0 || text[length] != ':')
    return VIX_OK;
  /* Beyond the code are codes of the system, which mean nothing to callers. */
  return strtoull (text + length + 1, NULL, 10) | (uint64_t) 0xABCD << 32;
}

#define FAIL_IF_TOLD(function) \
  do { \
    VixError error = failure (function); \
    if (error) \
      return error; \
  } while (0)

/* ---- logging ---- */

static VixDiskLibGenericLogFunc *log_function, *warn_function, *panic_function;

static void __attribute__ ((format (printf, 2, 3)))
say (VixDiskLibGenericLogFunc *function, const char *format, ...)
{
  va_list arguments;
  va_start (arguments, format);
  function (format, arguments);
  va_end (arguments);
}

static void *
say_in_thread (void *unused)
{
  say (log_function, "said in a thread of %s", "the library");
  return NULL;
}

/* ---- the functions ---- */

VixError
VixDiskLib_InitEx (uint32_t major, uint32_t minor, VixDiskLibGenericLogFunc *log,
                   VixDiskLibGenericLogFunc *warn, VixDiskLibGenericLogFunc *panic,
                   const char *libDir, const char *configFile)
{
  trace ("InitEx %u.%u %s %s", major, minor, shown (libDir), shown (configFile));
  FAIL_IF_TOLD ("InitEx");
  initialised = 1;
  log_function = log;
  warn_function = warn;
  panic_function = panic;
  /* More than fit into registers, of every kind. */
  say (log, "formatted: %s %d %lu %5.2f %c %#x %s %lld %g %s\n\n", "text", -1, 1UL << 40, 1.5, 'x',
       255, "more", -(1LL << 50), 2.5, "last");
  char *long_text = malloc (5001);
  memset (long_text, 'y', 5000);
  long_text[5000] = 0;
  say (log, "long: %s", long_text);
  free (long_text);
  say (warn, "a warning of %s", "the library");
  say (panic, "a panic of %s", "the library");
  pthread_t thread;
  if (pthread_create (&thread, NULL, say_in_thread, NULL) != 0 || pthread_join (thread, NULL) != 0)
    abort ();
  return VIX_OK;
}

void
VixDiskLib_Exit (void)
{
  trace ("Exit");
}

char *
VixDiskLib_GetErrorText (VixError error, const char *locale)
{
  char *text;
  if (asprintf (&text, "stand-in text of %d", (int) (error & 0xFFFF)) < 0)
    abort ();
  trace ("GetErrorText %s", shown (locale));
  return text;
}

void
VixDiskLib_FreeErrorText (char *text)
{
  trace ("FreeErrorText");
  free (text);
}

#ifndef OLD
VixDiskLibConnectParams *
VixDiskLib_AllocateConnectParams (void)
{
  trace ("AllocateConnectParams");
  return calloc (1, sizeof (VixDiskLibConnectParams));
}

void
VixDiskLib_FreeConnectParams (VixDiskLibConnectParams *params)
{
  trace ("FreeConnectParams");
  free (params);
}
#endif

VixError
VixDiskLib_ConnectEx (const VixDiskLibConnectParams *params, Bool readOnly, const char *snapshotRef,
                      const char *transportModes, VixDiskLibConnection *connection)
{
  if (!initialised)
    abort ();
  trace ("ConnectEx %s %s %s read-only=%d snapshot=%s transports=%s port=%u nfc=%u spec=%d",
         shown (params->vmxSpec), shown (params->serverName), shown (params->thumbPrint), readOnly,
         shown (snapshotRef), shown (transportModes), params->port, params->nfcHostPort,
         params->specType);
  if (params->credType == VIXDISKLIB_CRED_UID)
    trace ("uid %s %s", params->creds.uid.userName, params->creds.uid.password);
  else if (params->credType == VIXDISKLIB_CRED_SESSIONID)
    trace ("session %s %s %s", params->creds.sessionId.cookie, params->creds.sessionId.userName,
           params->creds.sessionId.key);
  if (params->vimApiVer || params->state)
    return VIX_E_INVALID_ARG;
  FAIL_IF_TOLD ("ConnectEx");
  *connection = malloc (sizeof **connection);
  (*connection)->readOnly = readOnly;
  return VIX_OK;
}

VixError
VixDiskLib_Disconnect (VixDiskLibConnection connection)
{
  trace ("Disconnect");
  free (connection);
  FAIL_IF_TOLD ("Disconnect");
  return VIX_OK;
}

VixError
VixDiskLib_Open (VixDiskLibConnection connection, const char *path, uint32_t flags,
                 VixDiskLibHandle *handle)
{
  trace ("Open %s %u", path, flags);
  FAIL_IF_TOLD ("Open");
  char file[4096];
  const char *name = path;
  if (strncmp (path, "[datastore] ", 12) == 0) {
    snprintf (file, sizeof file, "%s/%s", getenv ("STAND_IN_DATASTORE"), path + 12);
    name = file;
  }
  int readOnly = connection->readOnly || (flags & VIXDISKLIB_FLAG_OPEN_READ_ONLY);
  int fd = open (name, readOnly ? O_RDONLY : O_RDWR);
  if (fd < 0)
    return VIX_E_FILE_NOT_FOUND;
  *handle = malloc (sizeof **handle);
  (*handle)->fd = fd;
  return VIX_OK;
}

VixError
VixDiskLib_Close (VixDiskLibHandle handle)
{
  trace ("Close");
  close (handle->fd);
  free (handle);
  FAIL_IF_TOLD ("Close");
  return VIX_OK;
}

const char *
VixDiskLib_GetTransportMode (VixDiskLibHandle handle)
{
  return "file";
}

VixError
VixDiskLib_GetInfo (VixDiskLibHandle handle, VixDiskLibInfo **info)
{
  trace ("GetInfo");
  FAIL_IF_TOLD ("GetInfo");
  struct stat status;
  if (fstat (handle->fd, &status) != 0)
    return VIX_E_FILE_ERROR;
  *info = calloc (1, sizeof **info);
  **info = (VixDiskLibInfo) {
    .biosGeo = { 1, 2, 3 },
    .physGeo = { 4, 5, 6 },
    .capacity = status.st_size / stand_in_sector_size (),
    .adapterType = VIXDISKLIB_ADAPTER_SCSI_LSILOGIC,
    .numLinks = 7,
    .parentFileNameHint = strdup ("parent.vmdk"),
  };
  return VIX_OK;
}

void
VixDiskLib_FreeInfo (VixDiskLibInfo *info)
{
  trace ("FreeInfo");
  free (info->parentFileNameHint);
  free (info);
}

VixError
VixDiskLib_Read (VixDiskLibHandle handle, VixDiskLibSectorType start, VixDiskLibSectorType count,
                 uint8_t *buffer)
{
  trace ("Read %lu %lu", start, count);
  FAIL_IF_TOLD ("Read");
  ssize_t size = count * stand_in_sector_size ();
  off_t offset = start * stand_in_sector_size ();
  return pread (handle->fd, buffer, size, offset) == size ? VIX_OK : VIX_E_FILE_ERROR;
}

VixError
VixDiskLib_Write (VixDiskLibHandle handle, VixDiskLibSectorType start, VixDiskLibSectorType count,
                  const uint8_t *buffer)
{
  trace ("Write %lu %lu", start, count);
  FAIL_IF_TOLD ("Write");
  ssize_t size = count * stand_in_sector_size ();
  off_t offset = start * stand_in_sector_size ();
  return pwrite (handle->fd, buffer, size, offset) == size ? VIX_OK : VIX_E_FILE_READ_ONLY;
}

#ifndef OLD
VixError
VixDiskLib_Flush (VixDiskLibHandle handle)
{
  trace ("Flush");
  FAIL_IF_TOLD ("Flush");
  return fdatasync (handle->fd) == 0 ? VIX_OK : VIX_E_FILE_ERROR;
}

/* Return whether a chunk has anything but zeroes in it. */
static int
is_allocated (int fd, off_t offset, size_t size)
{
  char buffer[size];
  if (pread (fd, buffer, size, offset) != (ssize_t) size)
    abort ();
  for (size_t i = 0; i < size; ++i)
    if (buffer[i])
      return 1;
  return 0;
}

VixError
VixDiskLib_QueryAllocatedBlocks (VixDiskLibHandle handle, VixDiskLibSectorType start,
                                 VixDiskLibSectorType count, VixDiskLibSectorType chunk,
                                 VixDiskLibBlockList **list)
{
  trace ("QueryAllocatedBlocks %lu %lu %lu", start, count, chunk);
  FAIL_IF_TOLD ("QueryAllocatedBlocks");
  struct stat status;
  /* What VMware's documentation demands. */
  if (chunk < 128 || start % chunk || count % chunk || count / chunk > 512 * 1024 || count == 0 ||
      fstat (handle->fd, &status) != 0 ||
      (start + count) * stand_in_sector_size () > (uint64_t) status.st_size)
    return VIX_E_INVALID_ARG;
  uint32_t found = 0;
  *list = calloc (1, sizeof **list + count / chunk * sizeof (VixDiskLibBlock));
  for (VixDiskLibSectorType at = start; at < start + count; at += chunk) {
    size_t size = chunk * stand_in_sector_size ();
    if (!is_allocated (handle->fd, at * stand_in_sector_size (), size))
      continue;
    VixDiskLibBlock *last = &(*list)->blocks[found - 1];
    if (found && last->offset + last->length == at)
      last->length += chunk;
    else
      (*list)->blocks[found++] = (VixDiskLibBlock) { at, chunk };
  }
  (*list)->numBlocks = found;
  return VIX_OK;
}

VixError
VixDiskLib_FreeBlockList (VixDiskLibBlockList *list)
{
  trace ("FreeBlockList");
  free (list);
  return VIX_OK;
}
#endif

#endif /* DEPENDENCY */
