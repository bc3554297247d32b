"""The command nbdforkctl: what a running server does, and orders for it.

It speaks HTTP to the control socket, and knows nothing of the server but what that says.
"""

import argparse
import http.client
import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import nbdfork
from nbdfork import ctltop

RELOAD_SECONDS = 60.0
"""How long the new program may take until it is there."""


class Failure(Exception):
    """It cannot be done; the message says why."""


class _Connection(http.client.HTTPConnection):
    """HTTP on a Unix domain socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=RELOAD_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, what: str, order: Mapping[str, Any] | None = None) -> Any:
    """Ask the server at *path* for *what*, or give it an *order*; return its answer.

    Raises `Failure`.
    """
    connection = _Connection(path)
    try:
        if order is None:
            connection.request("GET", what)
        else:
            connection.request("POST", what, json.dumps(order))
        response = connection.getresponse()
        data = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        hint = ""
        if isinstance(error, ConnectionError | http.client.RemoteDisconnected) and not isinstance(
            error, ConnectionRefusedError
        ):
            hint = " (only root and the server's own user get an answer)"
        raise Failure(f"{path}: {reason or type(error).__name__}{hint}") from error
    finally:
        connection.close()
    if response.headers.get_content_type() != "application/json":
        return data.decode()
    answer = json.loads(data)
    if response.status != http.HTTPStatus.OK:
        raise Failure(str(answer.get("error", response.reason)))
    return answer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        run = _VERBS[arguments.verb][1]
        if arguments.control is None and run is not _checkpoint:
            raise Failure(f"{arguments.verb}: say which server, by --control SOCKET")
        run(arguments)
    except Failure as error:
        print(f"nbdforkctl: error: {error}", file=sys.stderr)
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nbdforkctl", description="See what an nbdfork server does, and tell it what to do."
    )
    parser.add_argument("--version", action="version", version=f"nbdforkctl {nbdfork.__version__}")
    parser.add_argument("--control", metavar="SOCKET", help="the socket of the server's --control")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    made = {verb: verbs.add_parser(verb, help=help_) for verb, (help_, _) in _VERBS.items()}
    made["status"].add_argument("--json", action="store_true", help="print all, as JSON")
    made["disconnect"].add_argument("id", metavar="ID", help="the client, as status shows it")
    made["log-level"].add_argument("level", choices=("debug", "info", "warning"))
    made["top"].add_argument(
        "--sort", choices=ctltop.COLUMNS, default="MB/s", help="by which column (%(default)s)"
    )
    made["top"].add_argument(
        "--interval", metavar="SECONDS", type=_interval, default=2.0, help="(%(default)g)"
    )
    made["checkpoint"].add_argument("directory", metavar="DIRECTORY", help="its bitmap-dir=")
    which = made["checkpoint"].add_mutually_exclusive_group()
    which.add_argument("--add", metavar="NAME", help="make one: what is written later is told")
    which.add_argument("--remove", metavar="NAME", help="forget one")
    made["top"].add_argument("--count", metavar="N", type=int, help="end after so many pictures")
    return parser


def _interval(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("from 0.1 to 3600 seconds")
    return value


# -- the verbs --------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> None:
    status = ask(arguments.control, "/status")
    if arguments.json:
        print(json.dumps(status, indent=1))
    else:
        print("\n".join(ctltop.picture(None, status, "id")))


def _top(arguments: argparse.Namespace) -> None:
    def look() -> Any:
        return ask(arguments.control, "/status")

    ctltop.run(look, arguments.sort, arguments.interval, arguments.count)


def _metrics(arguments: argparse.Namespace) -> None:
    print(ask(arguments.control, "/metrics"), end="")


def _drain(arguments: argparse.Namespace) -> None:
    clients = ask(arguments.control, "/drain", {})["clients"]
    print(f"nobody is let in any more; the server ends when its clients, {clients} now, have left")


def _reload(arguments: argparse.Namespace) -> None:
    before = ask(arguments.control, "/reload", {})["generation"]
    deadline = time.monotonic() + RELOAD_SECONDS
    while time.monotonic() < deadline:
        try:
            if ask(arguments.control, "/status")["generation"] > before:
                return
        except Failure:
            pass  # between two programs
        time.sleep(0.05)
    raise Failure("the new program is not there; see the log")


def _disconnect(arguments: argparse.Namespace) -> None:
    ask(arguments.control, "/disconnect", {"id": arguments.id})


def _log_level(arguments: argparse.Namespace) -> None:
    ask(arguments.control, "/log-level", {"level": arguments.level})


def _checkpoint(arguments: argparse.Namespace) -> None:
    """They are in files, which a server that uses them looks at for each write."""
    from nbdfork.filters._marks import Marks

    try:
        with closing(Marks(arguments.directory, make=False)) as marks:
            if arguments.add is not None:
                marks.add(arguments.add)
            elif arguments.remove is not None:
                marks.remove(arguments.remove)
            else:
                for name, one in marks.checkpoints().items():
                    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.made))
                    print(f"{made}  {name}")
    except OSError as error:
        raise Failure(f"checkpoint: {error.strerror} ({arguments.directory})") from error


_VERBS = {
    "status": ("what the server does now", _status),
    "top": ("the same, again and again", _top),
    "metrics": ("the same, for Prometheus", _metrics),
    "drain": ("let nobody in any more, and end when all clients have left", _drain),
    "reload": ("let the program that is installed, and its config file, take over", _reload),
    "disconnect": ("let one client's connection end", _disconnect),
    "checkpoint": ("list, make or forget checkpoints of the bitmap filter", _checkpoint),
    "log-level": ("how much is logged from now on", _log_level),
}


if __name__ == "__main__":
    sys.exit(main())
