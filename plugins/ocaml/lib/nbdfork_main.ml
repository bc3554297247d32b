(* Linked last, after the script: by now all callbacks are registered. *)

let () = Nbdfork_host.serve ()
