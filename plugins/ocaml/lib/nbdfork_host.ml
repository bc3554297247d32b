(* The helper for scripts in OCaml: it speaks the protocol of nbdfork-host-plugin(3).

   A script registers its callbacks, each of which becomes a function from a request to a reply.
   `serve` is called when all modules are initialized.  The first process is the template, which
   configures the script and forks for each worker. *)

open Nbdfork_api

type request =
  { operation : int; handle : int; flags : int; count : int64; offset : int64; payload : string }

exception Closed

let notice = 0xFFFFFFFFl
let read_only, with_tls = 1, 2
let no_stdio, log_stderr = 1, 2
let eio = 5
let eopnotsupp = 95

(* The operations; the first has the number 1, see frames.py. *)
let operations =
  [| "load"; "dump_plugin"; "config"; "config_complete"; "thread_model"; "get_ready"; "unload";
     "start"; "wait"; "after_fork"; "cleanup"; "preconnect"; "list_exports"; "default_export";
     "open"; "close"; "get_size"; "export_description"; "block_size"; "is_rotational";
     "can_multi_conn"; "can_write"; "can_flush"; "can_trim"; "can_zero"; "can_fast_zero";
     "can_fua"; "can_cache"; "can_extents"; "pread"; "pwrite"; "flush"; "trim"; "zero"; "cache";
     "extents" |]

let callbacks : (string, request -> int64 * string) Hashtbl.t = Hashtbl.create 40
let clients : (int, client) Hashtbl.t = Hashtbl.create 8
let facts = ref []

(* -- bytes -- *)

let read_exactly socket count =
  let data = Bytes.create count in
  let rec fill position =
    if position < count then
      match Unix.read socket data position (count - position) with
      | 0 -> raise Closed
      | got -> fill (position + got)
      | exception Unix.Unix_error (EINTR, _, _) -> fill position
      | exception Unix.Unix_error (ECONNRESET, _, _) -> raise Closed
  in
  fill 0;
  data

let read_request socket =
  let header = read_exactly socket 32 in
  let number position = Int32.to_int (Bytes.get_int32_be header position) land 0xFFFFFFFF in
  { operation = number 4; handle = number 8; flags = number 12;
    count = Bytes.get_int64_be header 16; offset = Bytes.get_int64_be header 24;
    payload = Bytes.unsafe_to_string (read_exactly socket (number 0)) }

let reply socket error value payload =
  let length = String.length payload in
  let frame = Bytes.create (16 + length) in
  Bytes.set_int32_be frame 0 (Int32.of_int length);
  Bytes.set_int32_be frame 4 error;
  Bytes.set_int64_be frame 8 value;
  Bytes.blit_string payload 0 frame 16 length;
  try ignore (Unix.write socket frame 0 (16 + length))
  with Unix.Unix_error (EPIPE, _, _) -> raise Closed

let fail socket code text = reply socket (Int32.of_int code) 0L text

(* -- registering -- *)

let flags_of bits =
  List.filter_map (fun (bit, flag) -> if bits land bit <> 0 then Some flag else None)
    [ 1, May_trim; 2, FUA; 4, Req_one; 8, Fast_zero ]

let extents_of list =
  let data = Buffer.create 256 in
  let add { offset; length; is_hole; is_zero } =
    Buffer.add_int64_be data offset;
    Buffer.add_int64_be data length;
    Buffer.add_int32_be data (Int32.of_int (Bool.to_int is_hole + (2 * Bool.to_int is_zero)))
  in
  List.iter add list;
  Buffer.contents data

let block_size_of (minimum, preferred, maximum) =
  let data = Buffer.create 24 in
  List.iter (fun size -> Buffer.add_int64_be data (Int64.of_int size)) [ minimum; preferred ];
  Buffer.add_int64_be data maximum;
  Buffer.contents data

let exports_of list =
  let one { name; description } = name ^ "\000" ^ Option.value description ~default:"" ^ "\000" in
  String.concat "" (List.map one list)

let config_arguments payload =
  match String.index_opt payload '\000' with
  | Some i -> (String.sub payload 0 i, String.sub payload (i + 1) (String.length payload - i - 1))
  | None -> (payload, "")

let checked_read data request =
  let count = Int64.to_int request.count in
  if String.length data < count then failwith "the buffer returned from pread is too small";
  if String.length data > count then String.sub data 0 count else data

let register (type a) ~name ?(longname = "") ?(version = "") ?(description = "") ?load ?get_ready
    ?after_fork ?cleanup ?unload ?config ?config_complete ?(config_help = "") ?thread_model
    ?(magic_config_key = "") ?dump_plugin ?preconnect ?list_exports ?default_export
    ~(open_connection : bool -> a) ?export_description ?close ~get_size ?block_size ?can_cache
    ?can_extents ?can_fast_zero ?can_flush ?can_fua ?can_multi_conn ?can_trim ?can_write ?can_zero
    ?is_rotational ~pread ?pwrite ?flush ?trim ?zero ?extents ?cache () =
  let handles : (int, a) Hashtbl.t = Hashtbl.create 8 in
  let handle request = Hashtbl.find handles request.handle in
  let add callback action = Hashtbl.replace callbacks callback action in
  let optional callback action = Option.iter (fun f -> add callback (action f)) in
  let nothing f = fun request -> f request; (0L, "") in
  let plain f = nothing (fun _ -> f ()) in
  let text f = fun request -> (0L, f request) in
  let ask number f = fun request -> (Int64.of_int (number (f (handle request))), "") in
  let yes_or_no = ask Bool.to_int in
  let negotiating f = fun r -> f (r.flags land read_only <> 0) (r.flags land with_tls <> 0) in
  let on_range f = fun r -> f (handle r) r.count r.offset (flags_of r.flags) in
  let load_it _ = Option.iter (fun f -> f ()) load; (0L, "") in
  facts := List.filter (fun (_, value) -> value <> "")
    [ "plugin_name", name; "plugin_longname", longname; "plugin_version", version;
      "plugin_description", description; "magic_config_key", magic_config_key;
      "config_help", String.concat " " (String.split_on_char '\n' config_help) ];
  add "load" load_it;
  List.iter (fun (callback, f) -> optional callback plain f)
    [ "get_ready", get_ready; "after_fork", after_fork; "cleanup", cleanup; "unload", unload;
      "config_complete", config_complete; "dump_plugin", dump_plugin ];
  optional "config" (fun f -> nothing (fun r ->
    let key, value = config_arguments r.payload in f key value)) config;
  optional "thread_model" (fun f _ -> (Int64.of_int (Obj.magic (f () : thread_model) : int), ""))
    thread_model;
  optional "preconnect" (fun f -> nothing (fun r -> f (r.flags land read_only <> 0))) preconnect;
  optional "list_exports" (fun f -> text (fun r -> exports_of (negotiating f r))) list_exports;
  optional "default_export" (fun f -> text (negotiating f)) default_export;
  add "open" (fun r ->
    let client = { export = r.payload; is_secure = r.flags land with_tls <> 0 } in
    current := Some client;
    Hashtbl.replace handles r.handle (open_connection (r.flags land read_only <> 0));
    Hashtbl.replace clients r.handle client;
    (0L, ""));
  add "close" (fun r ->
    let value = handle r in
    Hashtbl.remove handles r.handle;
    Hashtbl.remove clients r.handle;
    Option.iter (fun f -> f value) close;
    (0L, ""));
  optional "export_description" (fun f -> text (fun r -> f (handle r))) export_description;
  add "get_size" (fun r -> (get_size (handle r), ""));
  optional "block_size" (fun f -> text (fun r -> block_size_of (f (handle r)))) block_size;
  List.iter (fun (callback, f) -> optional callback yes_or_no f)
    [ "can_extents", can_extents; "can_fast_zero", can_fast_zero; "can_flush", can_flush;
      "can_multi_conn", can_multi_conn; "can_trim", can_trim; "can_write", can_write;
      "can_zero", can_zero; "is_rotational", is_rotational ];
  optional "can_fua" (ask (function FuaNone -> 0 | FuaEmulate -> 1 | FuaNative -> 2)) can_fua;
  optional "can_cache" (ask (function CacheNone -> 0 | CacheEmulate -> 1 | CacheNop -> 2)) can_cache;
  add "pread" (fun r -> (0L, checked_read (on_range pread r) r));
  optional "pwrite" (fun f -> nothing (fun r ->
    f (handle r) r.payload r.offset (flags_of r.flags))) pwrite;
  optional "flush" (fun f -> nothing (fun r -> f (handle r) (flags_of r.flags))) flush;
  List.iter (fun (callback, f) -> optional callback (fun f -> nothing (on_range f)) f)
    [ "trim", trim; "zero", zero; "cache", cache ];
  optional "extents" (fun f -> text (fun r -> extents_of (on_range f r))) extents

(* -- answering -- *)

let one_process () = Sys.getenv_opt "NBDFORK_PROCESSES" <> Some "1"

let told () =
  let has = Array.to_list operations |> List.filter (Hashtbl.mem callbacks) in
  ("callbacks", String.concat " " has)
  :: ("one_process", if one_process () then "yes" else "no")
  :: ("ocaml_version", Sys.ocaml_version)
  :: !facts
  |> List.map (fun (key, value) -> key ^ "=" ^ value)
  |> String.concat "\n"

let message = function
  | Failure text | Invalid_argument text -> text
  | Unix.Unix_error (code, call, argument) ->
      Printf.sprintf "%s: %s %s" call (Unix.error_message code) argument
  | error -> Printexc.to_string error

let run request =
  if request.operation < 1 || request.operation > Array.length operations then
    failwith (Printf.sprintf "unknown operation %d" request.operation);
  let callback = operations.(request.operation - 1) in
  match callback, Hashtbl.find_opt callbacks callback with
  | "load", None -> failwith "the script has not called NBDKit.register_plugin"
  | "load", Some load -> ignore (load request); (0L, told ())
  | _, Some action ->
      let result = action request in
      if callback = "zero" && !last_error = eopnotsupp then
        failwith "the script asks for zeroes to be written";
      result
  | "unload", None -> (0L, "")
  | _, None -> failwith ("the script has no " ^ callback)

let code_of = function
  | _ when !last_error <> 0 -> !last_error
  | Unix.Unix_error (error, _, _) -> errno_of error
  | _ -> eio

let answer socket request =
  last_error := 0;
  if request.handle <> 0 then current := Hashtbl.find_opt clients request.handle;
  match run request with
  | value, payload -> flush_all (); reply socket 0l value payload
  | exception Closed -> raise Closed
  | exception error -> fail socket (code_of error) (message error)

let verbose = Sys.getenv_opt "NBDFORK_VERBOSE" = Some "1"

let notify_by socket = function
  | Debug text -> if verbose then reply socket notice 0L text
  | Shutdown -> reply socket notice 1L ""

(* -- the template -- *)

let forks : (int, Unix.process_status option) Hashtbl.t = Hashtbl.create 8
let has_forked = ref false

let dup_null fd mode =
  let null = Unix.openfile "/dev/null" [ mode ] 0 in
  Unix.dup2 null fd;
  Unix.close null

let inherited variable = descriptor (int_of_string (Sys.getenv variable))

let become request =
  let directory, uid, gid, groups =
    match String.split_on_char '\000' request.payload with
    | [ directory; uid; gid; groups ] -> (directory, int_of_string uid, int_of_string gid, groups)
    | _ -> failwith "start: four fields are expected"
  in
  Unix.chdir directory;
  (* These go to all processes of a terminal or service; what ends a fork is its connection. *)
  List.iter (fun signal -> Sys.set_signal signal Signal_ignore)
    Sys.[ sigint; sigterm; sighup; sigquit; sigpipe ];
  if request.flags land no_stdio <> 0 then begin
    dup_null Unix.stdin O_RDONLY;
    dup_null Unix.stdout O_WRONLY
  end;
  if request.flags land log_stderr <> 0 then Unix.dup2 (inherited "NBDFORK_LOG") Unix.stderr;
  if uid <> Unix.geteuid () || gid <> Unix.getegid () then begin
    let groups = List.filter (( <> ) "") (String.split_on_char ' ' groups) in
    Unix.setgroups (Array.of_list (List.map int_of_string groups));
    Unix.setgid gid;
    Unix.setuid uid
  end

let reap () =
  let running = Hashtbl.fold (fun pid status all -> if status = None then pid :: all else all) forks [] in
  List.iter (fun pid ->
    match Unix.waitpid [ WNOHANG ] pid with
    | 0, _ -> ()
    | _, status -> Hashtbl.replace forks pid (Some status)) running

(* at_exit functions run once only, in the process that has the script's state. *)
let leave ~in_fork =
  if in_fork = one_process () || (not in_fork && not !has_forked) then exit 0 else Unix._exit 0

let serve_clients socket =
  ignore (Unix.setsid ()); (* it may be killed with all that the script has started *)
  notify := notify_by socket;
  Random.self_init ();
  reply socket 0l (Int64.of_int (Unix.getpid ())) "";
  (try while true do answer socket (read_request socket) done with Closed -> ());
  leave ~in_fork:true

let start socket ~listener ~control request =
  match become request with
  | exception error -> fail socket eio (message error)
  | () ->
      reap ();
      flush_all ();
      has_forked := true;
      (match Unix.fork () with
       | 0 -> Unix.close listener; Unix.close control; serve_clients socket
       | pid -> Hashtbl.replace forks pid None)

(* The status as waitpid(2) gives it: OCaml has its own numbers for signals. *)
let raw_status = function
  | Unix.WEXITED code -> code lsl 8
  | WSIGNALED signal | WSTOPPED signal ->
      let known = Sys.[ sighup, 1; sigint, 2; sigquit, 3; sigill, 4; sigtrap, 5; sigabrt, 6;
        sigbus, 7; sigfpe, 8; sigkill, 9; sigsegv, 11; sigpipe, 13; sigalrm, 14; sigterm, 15 ] in
      Option.value (List.assoc_opt signal known) ~default:signal

let wait socket pid =
  match Hashtbl.find_opt forks pid with
  | None -> fail socket eio (Printf.sprintf "%d is no fork of this helper" pid)
  | Some known ->
      let status = match known with Some s -> s | None -> snd (Unix.waitpid [] pid) in
      Hashtbl.remove forks pid;
      reply socket 0l (Int64.of_int (raw_status status)) ""

let serve_worker ~listener ~control =
  let socket, _ = Unix.accept ~cloexec:true listener in
  Fun.protect ~finally:(fun () -> Unix.close socket) (fun () ->
    try
      let request = read_request socket in
      match operations.(request.operation - 1) with
      | "start" -> start socket ~listener ~control request
      | "wait" -> wait socket (Int64.to_int request.offset)
      | _ -> ()
    with Closed -> ())

let serve () =
  if Sys.getenv_opt "NBDFORK_SOCKET" = None then begin
    prerr_endline "run me with: nbdfork ocaml PROGRAM";
    exit 2
  end;
  let inherited = inherited "NBDFORK_SOCKET" in
  let listener = Unix.dup ~cloexec:true inherited in (* select only takes numbers below 1024 *)
  Unix.close inherited;
  let control, _ = Unix.accept ~cloexec:true listener in
  notify := notify_by control;
  try
    while true do
      match Unix.select [ control; listener ] [] [] (-1.) with
      | ready, _, _ when List.mem control ready -> answer control (read_request control)
      | _ -> serve_worker ~listener ~control
      | exception Unix.Unix_error (EINTR, _, _) -> ()
    done
  with Closed -> leave ~in_fork:false
