"""The disks that nbdkit and nbdfork serve by the same plugin, with the same words.

Scripts, plugins written in C, a file on a web server, what NBD and SSH reach, compressed
files.
"""

import random
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from contrib.bench import far
from contrib.bench.errors import BenchError
from contrib.bench.materials import MIB, Disk, Materials

SCRIPTS = Path(__file__).parent / "scripts"

LANGUAGES = {"perl": "ram.pl", "ruby": "ram.rb", "lua": "ram.lua", "tcl": "ram.tcl"}
"""The plugins that run a RAM disk's script, and the script."""

READ_ONLY = "pattern.so"

C_PLUGINS = ("memory.so", "null.so", READ_ONLY, "file.so")
"""The plugins of nbdkit that nbdfork loads, too."""

COMPRESSORS = {
    "gzip": ("gz", ["gzip", "-k", "-1"]),
    "xz": ("xz", ["xz", "-k", "-1", "--block-size=1MiB"]),
}
"""The filters that unpack a disk; the suffix of its name, and what compresses it."""

COMPRESSED_SIZE = 128 * MIB


def _in_language(language: str, materials: Materials) -> Disk:
    size = materials.ram_size
    script = SCRIPTS / LANGUAGES[language]
    arguments = (language, str(script), f"size={size}")
    return Disk("plugin", size, arguments=arguments, filling=materials.filling)


def _shell(materials: Materials) -> Disk:
    size = materials.ram_size
    return Disk("plugin", size, arguments=("sh", str(SCRIPTS / "dd.sh"), f"size={size}"))


def _in_c(name: str, materials: Materials) -> Disk:
    """Return a disk of one of nbdkit's own plugins."""
    path = _path_of_plugin(name.removesuffix(".so"))
    if name == "file.so":
        return Disk("plugin", materials.size, arguments=(path, f"file={materials.file}"))
    filling = materials.filling if name == "memory.so" else None
    size = materials.ram_size
    return Disk("plugin", size, arguments=(path, f"size={size}"), filling=filling)


def _path_of_plugin(name: str) -> str:
    text = _output("nbdkit", name, "--dump-plugin")
    return dict(line.split("=", 1) for line in text.splitlines())["path"]


def _web(scheme: str, materials: Materials) -> Disk:
    """Return a file on an nginx of its own, which runs until the end."""
    _need("nginx")
    _need("openssl")
    from tests.support.nginx import Nginx  # and with it pytest, which nothing else here needs

    server = materials.stack.enter_context(Nginx())
    server.file("disk", materials.filling.read_bytes())
    words = [f"{server.url}/disk"]
    if scheme == "https":
        words = [f"{server.tls_url}/disk", f"cainfo={server.ca}"]
    return Disk("plugin", materials.ram_size, arguments=("-r", "curl", *words))


def _compressed(name: str, materials: Materials) -> Disk:
    suffix, command = COMPRESSORS[name]
    size = min(materials.size, COMPRESSED_SIZE)
    path = materials.directory / f"for-{name}"
    _write_mixture(path, size)
    _output(*command, str(path))
    arguments = (f"--filter={name}", "file", f"{path}.{suffix}")
    return Disk("plugin", size, arguments=arguments, prepared_by_first_client=True)


def _write_mixture(path: Path, size: int) -> None:
    """Write noise, zeroes and text, the same in every run."""
    chance = random.Random(1)
    with path.open("wb") as disk:
        for number in range(size // MIB):
            if number % 4 == 0:
                disk.write(chance.randbytes(MIB))
            elif number % 4 == 1:
                disk.write(bytes(MIB))
            else:
                lines = b"".join(b"line %d\n" % chance.randrange(10**9) for _ in range(80000))
                disk.write(lines[:MIB].ljust(MIB, b"."))


def _output(*command: str) -> str:
    """Run a program that takes no more than moments, and return what it printed."""
    _need(command[0])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise BenchError(f"{program} is not installed")


DISKS: Mapping[str, Callable[[Materials], Disk]] = {
    **{language: partial(_in_language, language) for language in LANGUAGES},
    "sh": _shell,
    **{name: partial(_in_c, name) for name in C_PLUGINS},
    **{scheme: partial(_web, scheme) for scheme in ("http", "https")},
    **far.DISKS,
    **{name: partial(_compressed, name) for name in COMPRESSORS},
}
"""How each disk is made, by its name.  Raises `BenchError`."""
