(** The API of nbdkit from 1.30 to 1.36: callbacks are labelled arguments, and counts are int64. *)

include module type of struct include Nbdfork_api end

val register_plugin :
  name:string ->
  ?longname:string ->
  ?version:string ->
  ?description:string ->
  ?load:(unit -> unit) ->
  ?get_ready:(unit -> unit) ->
  ?after_fork:(unit -> unit) ->
  ?cleanup:(unit -> unit) ->
  ?unload:(unit -> unit) ->
  ?config:(string -> string -> unit) ->
  ?config_complete:(unit -> unit) ->
  ?config_help:string ->
  ?thread_model:(unit -> thread_model) ->
  ?magic_config_key:string ->
  ?dump_plugin:(unit -> unit) ->
  ?preconnect:(bool -> unit) ->
  ?list_exports:(bool -> bool -> export list) ->
  ?default_export:(bool -> bool -> string) ->
  open_connection:(bool -> 'a) ->
  ?export_description:('a -> string) ->
  ?close:('a -> unit) ->
  get_size:('a -> int64) ->
  ?block_size:('a -> int * int * int64) ->
  ?can_cache:('a -> cache_flag) ->
  ?can_extents:('a -> bool) ->
  ?can_fast_zero:('a -> bool) ->
  ?can_flush:('a -> bool) ->
  ?can_fua:('a -> fua_flag) ->
  ?can_multi_conn:('a -> bool) ->
  ?can_trim:('a -> bool) ->
  ?can_write:('a -> bool) ->
  ?can_zero:('a -> bool) ->
  ?is_rotational:('a -> bool) ->
  pread:('a -> int64 -> int64 -> flags -> string) ->
  ?pwrite:('a -> string -> int64 -> flags -> unit) ->
  ?flush:('a -> flags -> unit) ->
  ?trim:('a -> int64 -> int64 -> flags -> unit) ->
  ?zero:('a -> int64 -> int64 -> flags -> unit) ->
  ?extents:('a -> int64 -> int64 -> flags -> extent list) ->
  ?cache:('a -> int64 -> int64 -> flags -> unit) ->
  unit ->
  unit
