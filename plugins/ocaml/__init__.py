"""The ocaml plugin: sources written for nbdkit's OCaml API, compiled when they have changed.

The helper is a program linked from the source and the module NBDKit in this folder.  Programs are
kept in the user's cache, named by a hash of everything that went into them.
"""

import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from nbdfork.plugin import ConfigError, Parameter
from nbdfork.scripting import HelperPlugin

_HERE = os.path.dirname(__file__)

_ENGINE = ("nbdfork_api.ml", "nbdfork_host.ml")

_RECORD = ("record/NBDKit.ml",)
_LABELLED = ("lib/NBDKit.mli", "lib/NBDKit.ml")
_BUFFERS = ("buffers/NBDKit.ml",)
"""The module NBDKit as it was before nbdkit 1.30, from 1.30 on, and from 1.38 on."""

_COMPILE_LIMIT = 300
"""How long the compiler may take, in seconds."""


class Ocaml(HelperPlugin):
    """compile and run a source written for nbdkit's OCaml API"""

    name = "ocaml"

    script = Parameter(
        str,
        required=True,
        repeatable=True,
        magic=True,
        metavar="SOURCE",
        help="the source, or a program compiled from it; comes first",
    )

    def command(self, path: str) -> Sequence[str]:
        if path.endswith(".ml"):
            return [_program(path)]
        if not os.access(path, os.X_OK):
            raise ConfigError(f"ocaml: {path}: is neither a source (.ml) nor a program")
        return [path]


def _program(source: str) -> str:
    """Return the path of the program compiled from *source*; compile it unless it is cached."""
    compiler = shutil.which("ocamlopt")
    if compiler is None:
        raise ConfigError(
            "ocaml: there is no ocamlopt in the PATH: install it (Debian: ocaml-nox), or compile"
            f" {source} elsewhere and name the program"
        )
    apis = _apis(source)
    digest = hashlib.sha256(os.path.realpath(compiler).encode())
    for part in dict.fromkeys((source, *itertools.chain(*apis))):
        digest.update(_content(part))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = os.path.join(cache, "nbdfork", "ocaml")
    program = os.path.join(directory, digest.hexdigest())
    if not os.path.exists(program):
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _compile_to_one_of(apis, compiler, source, program)
        except OSError as error:
            raise ConfigError(
                f"ocaml: {source}: cannot compile it into {directory}: {error.strerror}; set"
                " XDG_CACHE_HOME to a directory that can be written"
            ) from error
    return program


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"ocaml: {path}: cannot read it: {error.strerror}") from error


def _apis(source: str) -> list[list[str]]:
    """Return, for each API that *source* may be written for, the files to compile before it."""
    is_record = b"default_callbacks" in _content(source)
    engine = [f"lib/{name}" for name in _ENGINE]
    return [
        [os.path.join(_HERE, name) for name in (*engine, *api)]
        for api in ((_RECORD,) if is_record else (_LABELLED, _BUFFERS))
    ]


def _compile_to_one_of(
    apis: Sequence[Sequence[str]], compiler: str, source: str, program: str
) -> None:
    """Compile *source* with the first of *apis* that its types agree with.

    Raises `ConfigError`, with the compiler's messages for the first one, if there is none.
    """
    errors = []
    for parts in apis:
        try:
            return _compile(compiler, source, parts, program)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _compile(compiler: str, source: str, parts: Sequence[str], program: str) -> None:
    """Compile in a directory of its own, because another server may be doing the same."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(program)) as directory:
        main = os.path.join(_HERE, "lib/nbdfork_main.ml")
        for path in (*parts, main):
            shutil.copy(path, directory)
        # The source's own name, such as my-disk.ml, need not be the name of a module.
        shutil.copy(source, os.path.join(directory, "script.ml"))
        ours = [os.path.basename(part) for part in parts]
        # OCaml 5 keeps the library unix in a directory of its own.
        command = [compiler, "-I", "+unix", "unix.cmxa", *ours, "script.ml", "nbdfork_main.ml"]
        done = subprocess.run(
            [*command, "-o", "program"], cwd=directory, capture_output=True, timeout=_COMPILE_LIMIT,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr or done.stdout).replace('"script.ml"', f'"{source}"').strip()
            raise ConfigError(f"ocaml: {source}: it cannot be compiled:\n{said}")
        os.rename(os.path.join(directory, "program"), program)
