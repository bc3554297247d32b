(* What scripts find in the module NBDKit besides register_plugin: the types of nbdkit's API, and
   its functions.  Nbdfork_host says how a notice gets to the server. *)

type thread_model =
  | THREAD_MODEL_SERIALIZE_CONNECTIONS
  | THREAD_MODEL_SERIALIZE_ALL_REQUESTS
  | THREAD_MODEL_SERIALIZE_REQUESTS
  | THREAD_MODEL_PARALLEL

type flag = May_trim | FUA | Req_one | Fast_zero
type flags = flag list
type fua_flag = FuaNone | FuaEmulate | FuaNative
type cache_flag = CacheNone | CacheEmulate | CacheNop
type extent = { offset : int64; length : int64; is_hole : bool; is_zero : bool }
type export = { name : string; description : string option }

(* -- what Nbdfork_host sets and reads -- *)

type notice = Debug of string | Shutdown

let notify : (notice -> unit) ref = ref ignore

(* The client whose request is being carried out. *)
type client = { export : string; is_secure : bool }

let current : client option ref = ref None
let last_error = ref 0

(* The numbers are Linux's; errors that no disk has become EINVAL. *)
let errno_of = function
  | Unix.EPERM -> 1 | ENOENT -> 2 | EINTR -> 4 | EIO -> 5 | ENXIO -> 6 | EBADF -> 9
  | EAGAIN | EWOULDBLOCK -> 11 | ENOMEM -> 12 | EACCES -> 13 | EFAULT -> 14 | EBUSY -> 16
  | EEXIST -> 17 | ENODEV -> 19 | ENOTDIR -> 20 | EISDIR -> 21 | EINVAL -> 22 | ENFILE -> 23
  | EMFILE -> 24 | EFBIG -> 27 | ENOSPC -> 28 | ESPIPE -> 29 | EROFS -> 30 | EPIPE -> 32
  | EDOM -> 33 | ERANGE -> 34 | ENAMETOOLONG -> 36 | ENOSYS -> 38 | ELOOP -> 40
  | EOVERFLOW -> 75 | EOPNOTSUPP -> 95 | ENETDOWN -> 100 | ENETUNREACH -> 101
  | ECONNABORTED -> 103 | ECONNRESET -> 104 | ESHUTDOWN -> 108 | ETIMEDOUT -> 110
  | ECONNREFUSED -> 111 | EHOSTDOWN -> 112 | EHOSTUNREACH -> 113
  | EUNKNOWNERR number -> number
  | _ -> 22

(* -- functions for scripts -- *)

let set_error error = last_error := errno_of error

let debug format = Printf.ksprintf (fun text -> !notify (Debug text)) format

let shutdown () = !notify Shutdown

let export_name () =
  match !current with
  | Some client -> client.export
  | None -> failwith "export_name: no client has chosen an export here"

let parse_size text =
  let fail () = invalid_arg (Printf.sprintf "parse_size: %S is no size" text) in
  let length = String.length text in
  if length = 0 then fail ();
  let unit_size, digits =
    let is_hex = length > 2 && text.[0] = '0' && Char.lowercase_ascii text.[1] = 'x' in
    match Char.lowercase_ascii text.[length - 1] with
    | '0' .. '9' -> (1L, length)
    | 'a' .. 'f' when is_hex -> (1L, length)
    | 's' -> (512L, length - 1)
    | letter -> (
        match String.index_opt "bkmgtpe" letter with
        | Some power -> (Int64.shift_left 1L (10 * power), length - 1)
        | None -> fail ())
  in
  let number = String.sub text 0 digits in
  if number = "" || number.[0] < '0' || number.[0] > '9' then fail ();
  let is_octal = String.length number > 1 && number.[0] = '0' && number.[1] <= '9' in
  let number = if is_octal then "0o" ^ number else number in
  match Int64.of_string_opt number with
  | Some n when n >= 0L && n <= Int64.div Int64.max_int unit_size -> Int64.mul n unit_size
  | _ -> fail ()

let parse_bool text =
  match String.lowercase_ascii text with
  | "1" | "true" | "t" | "yes" | "y" | "on" -> true
  | "0" | "false" | "f" | "no" | "n" | "off" -> false
  | _ -> invalid_arg (Printf.sprintf "parse_bool: %S is neither true nor false" text)

(* "12%" and "1:8" are probabilities, too. *)
let parse_probability what text =
  let number s = match float_of_string_opt s with Some f when f >= 0. -> f | _ ->
    invalid_arg (Printf.sprintf "%s: %S is no probability" what text) in
  let length = String.length text in
  if length > 0 && text.[length - 1] = '%' then number (String.sub text 0 (length - 1)) /. 100.
  else match String.split_on_char ':' text with
    | [ part; whole ] when number part > 0. -> number part /. number whole
    | _ -> number text

let first_line channel = try input_line channel with End_of_file -> ""

let hidden_line () =
  if not (Unix.isatty Unix.stdin) then first_line stdin
  else begin
    let settings = Unix.tcgetattr Unix.stdin in
    let echo on = Unix.tcsetattr Unix.stdin TCSAFLUSH { settings with c_echo = on } in
    prerr_string "password: "; flush stderr;
    echo false;
    let line = Fun.protect ~finally:(fun () -> echo settings.c_echo) (fun () -> first_line stdin) in
    prerr_newline ();
    line
  end

(* A descriptor is its number on Unix. *)
let descriptor (number : int) : Unix.file_descr = Obj.magic number

let read_password text =
  let rest () = String.sub text 1 (String.length text - 1) in
  let from channel = Fun.protect ~finally:(fun () -> close_in channel) (fun () -> first_line channel) in
  if text = "-" then hidden_line ()
  else if text <> "" && text.[0] = '+' then from (open_in (rest ()))
  else if text <> "" && text.[0] = '-' then
    match int_of_string_opt (rest ()) with
    | Some number -> from (Unix.in_channel_of_descr (descriptor number))
    | None -> invalid_arg "read_password: write -, -NUMBER of a descriptor, +FILE or the password"
  else text

let rec realpath path =
  if Filename.is_relative path then realpath (Filename.concat (Sys.getcwd ()) path)
  else Unix.realpath path

let nanosleep seconds nanoseconds =
  Unix.sleepf (float_of_int seconds +. (float_of_int nanoseconds /. 1e9))

let is_tls () = match !current with Some client -> client.is_secure | None -> false

(* The release of nbdkit whose API this is. *)
let version () = "1.32.5"
