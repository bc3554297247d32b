(* A RAM disk in the style of nbdkit 1.38 and later: data are in Bigarrays. *)

open Bigarray

let empty size = Array1.init char c_layout size (fun _ -> '\000')
let disk = ref (empty 0)
let failing = ref ""

let config key value =
  match key with
  | "size" -> disk := empty (Int64.to_int (NBDKit.parse_size value))
  | "fail" -> failing := value
  | _ -> failwith ("unknown parameter " ^ key)

let part offset count = Array1.sub !disk (Int64.to_int offset) count

let pwrite _ buffer offset _flags =
  if !failing = "pwrite" then (NBDKit.set_error Unix.ENOSPC; failwith "no room");
  Array1.blit buffer (part offset (Array1.dim buffer))

let clear _ count offset _ = Array1.fill (part offset (Int64.to_int count)) '\000'

let () =
  NBDKit.register_plugin
    ~name:"buffers"
    ~config
    ~open_connection:(fun _readonly -> ())
    ~get_size:(fun () -> Int64.of_int (Array1.dim !disk))
    ~can_fua:(fun _ -> NBDKit.FuaNative)
    ~is_rotational:(fun _ -> true)
    ~pread:(fun () buffer offset _ -> Array1.blit (part offset (Array1.dim buffer)) buffer)
    ~pwrite
    ~flush:(fun _ _ -> ())
    ~trim:clear
    ~zero:clear
    ()
