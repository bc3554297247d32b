(* The API of nbdkit from 1.38 on: like that of 1.30, but pread fills a buffer, and pwrite gets one. *)

include Nbdfork_api

type buf = (char, Bigarray.int8_unsigned_elt, Bigarray.c_layout) Bigarray.Array1.t

let filled pread handle count offset flags =
  let buffer = Bigarray.(Array1.create char c_layout (Int64.to_int count)) in
  pread handle buffer offset flags;
  String.init (Int64.to_int count) (Bigarray.Array1.unsafe_get buffer)

let emptied pwrite handle data offset flags =
  let buffer = Bigarray.(Array1.create char c_layout (String.length data)) in
  String.iteri (Bigarray.Array1.unsafe_set buffer) data;
  pwrite handle (buffer : buf) offset flags

(* The arguments that are not named here are those that are still missing. *)
let register_plugin ~pread ?pwrite =
  Nbdfork_host.register ~pread:(filled pread) ?pwrite:(Option.map emptied pwrite)
