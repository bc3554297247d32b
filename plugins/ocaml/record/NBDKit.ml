(* The API of nbdkit up to 1.28: a plugin is a record of options, and counts are int32. *)

include Nbdfork_api

type 'a plugin = {
  name : string;
  longname : string;
  version : string;
  description : string;
  load : (unit -> unit) option;
  unload : (unit -> unit) option;
  dump_plugin : (unit -> unit) option;
  config : (string -> string -> unit) option;
  config_complete : (unit -> unit) option;
  config_help : string;
  thread_model : (unit -> thread_model) option;
  get_ready : (unit -> unit) option;
  after_fork : (unit -> unit) option;
  cleanup : (unit -> unit) option;
  preconnect : (bool -> unit) option;
  list_exports : (bool -> bool -> export list) option;
  default_export : (bool -> bool -> string) option;
  open_connection : (bool -> 'a) option;
  export_description : ('a -> string) option;
  close : ('a -> unit) option;
  get_size : ('a -> int64) option;
  can_cache : ('a -> cache_flag) option;
  can_extents : ('a -> bool) option;
  can_fast_zero : ('a -> bool) option;
  can_flush : ('a -> bool) option;
  can_fua : ('a -> fua_flag) option;
  can_multi_conn : ('a -> bool) option;
  can_trim : ('a -> bool) option;
  can_write : ('a -> bool) option;
  can_zero : ('a -> bool) option;
  is_rotational : ('a -> bool) option;
  pread : ('a -> int32 -> int64 -> flags -> string) option;
  pwrite : ('a -> string -> int64 -> flags -> unit) option;
  flush : ('a -> flags -> unit) option;
  trim : ('a -> int32 -> int64 -> flags -> unit) option;
  zero : ('a -> int32 -> int64 -> flags -> unit) option;
  extents : ('a -> int32 -> int64 -> flags -> extent list) option;
  cache : ('a -> int32 -> int64 -> flags -> unit) option;
}

let default_callbacks = {
  name = ""; longname = ""; version = ""; description = ""; load = None; unload = None;
  dump_plugin = None; config = None; config_complete = None; config_help = "";
  thread_model = None; get_ready = None; after_fork = None; cleanup = None; preconnect = None;
  list_exports = None; default_export = None; open_connection = None; export_description = None;
  close = None; get_size = None; can_cache = None; can_extents = None; can_fast_zero = None;
  can_flush = None; can_fua = None; can_multi_conn = None; can_trim = None; can_write = None;
  can_zero = None; is_rotational = None; pread = None; pwrite = None; flush = None; trim = None;
  zero = None; extents = None; cache = None;
}

let register_plugin p =
  let required name = function
    | Some callback -> callback
    | None -> failwith (Printf.sprintf "NBDKit.register_plugin: %s is required" name)
  in
  let counted f = fun handle count -> f handle (Int64.to_int32 count) in
  Nbdfork_host.register ~name:p.name ~longname:p.longname ~version:p.version
    ~description:p.description ?load:p.load ?get_ready:p.get_ready ?after_fork:p.after_fork
    ?cleanup:p.cleanup ?unload:p.unload ?config:p.config ?config_complete:p.config_complete
    ~config_help:p.config_help ?thread_model:p.thread_model ?dump_plugin:p.dump_plugin
    ?preconnect:p.preconnect ?list_exports:p.list_exports ?default_export:p.default_export
    ~open_connection:(required "open_connection" p.open_connection)
    ?export_description:p.export_description ?close:p.close
    ~get_size:(required "get_size" p.get_size) ?can_cache:p.can_cache ?can_extents:p.can_extents
    ?can_fast_zero:p.can_fast_zero ?can_flush:p.can_flush ?can_fua:p.can_fua
    ?can_multi_conn:p.can_multi_conn ?can_trim:p.can_trim ?can_write:p.can_write
    ?can_zero:p.can_zero ?is_rotational:p.is_rotational
    ~pread:(counted (required "pread" p.pread)) ?pwrite:p.pwrite ?flush:p.flush
    ?trim:(Option.map counted p.trim) ?zero:(Option.map counted p.zero)
    ?extents:(Option.map counted p.extents) ?cache:(Option.map counted p.cache) ()
