/* Prints the layout of struct nbdkit_plugin, and the values of the constants, as a header has them. */

#include <nbdkit-plugin.h>

#include <stdio.h>

#define FIELD(name) \
  printf ("%s at %zu of %zu\n", #name, offsetof (struct nbdkit_plugin, name), \
          sizeof ((struct nbdkit_plugin *) 0)->name)
#define CONSTANT(name) printf ("%s %d\n", #name, NBDKIT_##name)

int
main (void)
{
  printf ("size %zu\n", sizeof (struct nbdkit_plugin));
  FIELD (_struct_size), FIELD (_api_version), FIELD (_thread_model);
  FIELD (name), FIELD (longname), FIELD (version), FIELD (description);
  FIELD (load), FIELD (unload), FIELD (config), FIELD (config_complete), FIELD (config_help);
  FIELD (open), FIELD (close), FIELD (get_size);
  FIELD (can_write), FIELD (can_flush), FIELD (is_rotational), FIELD (can_trim);
  FIELD (pread), FIELD (pwrite), FIELD (flush), FIELD (trim), FIELD (zero);
  FIELD (errno_is_preserved), FIELD (dump_plugin), FIELD (can_zero), FIELD (can_fua);
  FIELD (magic_config_key), FIELD (can_multi_conn), FIELD (can_extents), FIELD (extents);
  FIELD (can_cache), FIELD (cache), FIELD (thread_model), FIELD (can_fast_zero);
  FIELD (preconnect), FIELD (get_ready), FIELD (after_fork), FIELD (list_exports);
  FIELD (default_export), FIELD (export_description), FIELD (cleanup), FIELD (block_size);
  CONSTANT (THREAD_MODEL_SERIALIZE_CONNECTIONS), CONSTANT (THREAD_MODEL_SERIALIZE_ALL_REQUESTS);
  CONSTANT (THREAD_MODEL_SERIALIZE_REQUESTS), CONSTANT (THREAD_MODEL_PARALLEL);
  CONSTANT (FLAG_MAY_TRIM), CONSTANT (FLAG_FUA), CONSTANT (FLAG_REQ_ONE);
  CONSTANT (FLAG_FAST_ZERO), CONSTANT (FUA_NONE), CONSTANT (FUA_EMULATE), CONSTANT (FUA_NATIVE);
  CONSTANT (CACHE_NONE), CONSTANT (CACHE_EMULATE), CONSTANT (CACHE_NATIVE);
  CONSTANT (EXTENT_HOLE), CONSTANT (EXTENT_ZERO), CONSTANT (API_VERSION);
  return 0;
}
