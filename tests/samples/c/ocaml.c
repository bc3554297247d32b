/* A plugin as nbdkit's OCaml bindings make them: OCaml's runtime is in it, started by plugin_init. */

#include <string.h>

#include <caml/callback.h>
#include <caml/mlvalues.h>
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_ALL_REQUESTS

static void *
ocaml_open (int readonly)
{
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
ocaml_get_size (void *handle)
{
  return Long_val (caml_callback (*caml_named_value ("get_size"), Val_unit));
}

static int
ocaml_pread (void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
  value data = caml_callback2_exn (*caml_named_value ("pread"), Val_long (count), Val_long (offset));
  if (Is_exception_result (data)) {
    nbdkit_error ("an exception was raised");
    return -1;
  }
  memcpy (buffer, String_val (data), count);
  return 0;
}

static struct nbdkit_plugin plugin = {
  .name = "inocaml",
  .open = ocaml_open,
  .get_size = ocaml_get_size,
  .pread = ocaml_pread,
};

struct nbdkit_plugin *
plugin_init (void)
{
  char *argv[] = { "nbdkit", NULL };
  caml_startup (argv);
  plugin._struct_size = sizeof plugin;
  plugin._api_version = NBDKIT_API_VERSION;
  plugin._thread_model = THREAD_MODEL;
  return &plugin;
}
