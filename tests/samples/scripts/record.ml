(* A RAM disk in the style of nbdkit up to 1.28. *)

open NBDKit

let disk = ref Bytes.empty
let failing = ref ""

let ram_config key value =
  match key with
  | "size" -> disk := Bytes.make (Int64.to_int (NBDKit.parse_size value)) '\000'
  | "fail" -> failing := value
  | _ -> failwith ("unknown parameter " ^ key)

let ram_pread () count offset _ =
  let count = Int32.to_int count in
  let buffer = Bytes.create count in
  Bytes.blit !disk (Int64.to_int offset) buffer 0 count;
  Bytes.unsafe_to_string buffer

let ram_pwrite () data offset _flags =
  if !failing = "pwrite" then (NBDKit.set_error Unix.ENOSPC; failwith "no room");
  Bytes.blit_string data 0 !disk (Int64.to_int offset) (String.length data)

let ram_clear () count offset _ =
  Bytes.fill !disk (Int64.to_int offset) (Int32.to_int count) '\000'

let plugin = {
  NBDKit.default_callbacks with
    NBDKit.name     = "record";
    version         = NBDKit.version ();
    config          = Some ram_config;
    open_connection = Some (fun _ -> ());
    get_size        = Some (fun () -> Int64.of_int (Bytes.length !disk));
    is_rotational   = Some (fun () -> true);
    can_fua         = Some (fun () -> FuaNative);
    pread           = Some ram_pread;
    pwrite          = Some ram_pwrite;
    flush           = Some (fun () _ -> ());
    trim            = Some ram_clear;
    zero            = Some ram_clear;
}

let () = NBDKit.register_plugin plugin
