(* A RAM disk in the style of nbdkit 1.30 to 1.36. *)

let disk = ref Bytes.empty
let failing = ref ""

let config key value =
  match key with
  | "size" -> disk := Bytes.make (Int64.to_int (NBDKit.parse_size value)) '\000'
  | "fail" -> failing := value
  | _ -> failwith ("unknown parameter " ^ key)

let open_connection _readonly = NBDKit.export_name ()

let pread _ count offset _ =
  NBDKit.debug "reading %Ld bytes at %Ld" count offset;
  Bytes.sub_string !disk (Int64.to_int offset) (Int64.to_int count)

let pwrite _ data offset _flags =
  if !failing = "kill" then Unix.kill (Unix.getpid ()) Sys.sigkill;
  if !failing = "unix" then raise (Unix.Unix_error (EROFS, "write", "disk"));
  if !failing = "pwrite" then (NBDKit.set_error Unix.ENOSPC; failwith "no room");
  Bytes.blit_string data 0 !disk (Int64.to_int offset) (String.length data)

let clear _ count offset _ = Bytes.fill !disk (Int64.to_int offset) (Int64.to_int count) '\000'

let zero h count offset flags =
  if !failing = "zero" then (NBDKit.set_error Unix.EOPNOTSUPP; failwith "cannot");
  clear h count offset flags

let extents _ count offset _ =
  let half = Int64.div count 2L in
  NBDKit.[
    { offset; length = half; is_hole = false; is_zero = false };
    { offset = Int64.add offset half; length = half; is_hole = true; is_zero = true } ]

let () =
  NBDKit.register_plugin
    ~name:"labelled"
    ~version:(NBDKit.version ())
    ~config
    ~thread_model:(fun () -> NBDKit.THREAD_MODEL_SERIALIZE_REQUESTS)
    ~list_exports:(fun _ _ -> NBDKit.[
      { name = "a"; description = Some "the first" }; { name = "b"; description = None } ])
    ~default_export:(fun _ _ -> "a")
    ~open_connection
    ~export_description:(fun name -> "export " ^ name)
    ~get_size:(fun _ -> Int64.of_int (Bytes.length !disk))
    ~block_size:(fun _ -> (1, 4096, 0xFFFFFFFFL))
    ~can_fua:(fun _ -> NBDKit.FuaNative)
    ~is_rotational:(fun _ -> true)
    ~pread
    ~pwrite
    ~flush:(fun _ _ -> ())
    ~trim:clear
    ~zero
    ~extents
    ()
