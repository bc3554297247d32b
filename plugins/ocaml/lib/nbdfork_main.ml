(* Linked last, after the script: all callbacks are registered, so serve. *)

let () = Nbdfork_host.serve ()
