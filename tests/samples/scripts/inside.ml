(* The part in OCaml of c_ocaml.c: a disk that is computed, and has a bad sector. *)

let () =
  Callback.register "get_size" (fun () -> 65536);
  Callback.register "pread" (fun count offset ->
    if offset = 512 then failwith "a bad sector";
    String.init count (fun i -> Char.chr ((offset + i) land 255)))
