"""Servers on stacks of plugins and filters, what is behind them, and what can happen to all that.

What happens is a function that yields twice: first it has done its work, while requests are under
way; then it has put right what the server needs to go on, and goes on itself when all requests
have been answered.
"""

import gzip
import mmap
import os
import random
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.far import Far
from tests.support.faulty import Shim
from tests.support.harness import NBDFORK, Server, eventually, is_alive, need, output, suspend
from tests.support.libnbd import connected
from tests.support.nginx import Nginx
from tests.support.paths import SAMPLES
from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.support.sh import DISK, script
from tests.support.small import seen, small
from tests.support.sshd import Sshd
from tests.support.torture import BLOCK, SIZE, ZEROES, Model

MIB = 1 << 20


class Rig:
    """A server on the stack of *words*, in the directory *place*.

    *lossy*: requests may fail because of what happens.  *ghosts*, *together* and *forgets* are
    those of the model.  *flushes*: how likely each client is to flush in each round.
    """

    words: tuple[str, ...] = ("file", "PLACE/disk")
    disk_size = SIZE
    lossy = False
    ghosts = False
    together = True
    forgets = False
    flushes = 0.5

    def __init__(self, place: Path, stack: ExitStack, chance: random.Random) -> None:
        self.place = place
        self.stack = stack
        self.chance = chance
        self.model = Model(self.ghosts, self.together)
        self.model.forgets = self.forgets
        (place / "disk").write_bytes(bytes(self.disk_size))
        self.prepare()
        self.server = self.serve()
        stack.callback(lambda: self.server.__exit__(None, None, None))

    def prepare(self) -> None:
        """Start what is behind the server."""

    def serve(self) -> Server:
        """Start the server."""
        return Server("-n", *(word.replace("PLACE", str(self.place)) for word in self.words))

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        """Return what can happen to it."""
        return [self.kill_worker, self.stop_worker, self.few_files, self.no_memory]

    def worker(self) -> psutil.Process:
        """Return one of the workers that serve a client."""
        found: psutil.Process = self.chance.choice(eventually(self.server.serving))
        return found

    def kill_worker(self) -> Iterator[None]:
        with suppress(psutil.NoSuchProcess):
            self.worker().kill()
        yield
        yield

    def stop_worker(self) -> Iterator[None]:
        """It stands still for a while, and others do not."""
        worker = self.worker()
        suspend(worker)
        with connected(self.server.uri) as other:
            other.pread(BLOCK, 0)
        yield
        worker.resume()
        yield

    def few_files(self) -> Iterator[None]:
        """The supervisor can open nothing more, so a worker that is killed has no heir yet."""
        yield from self._without(resource.RLIMIT_NOFILE, lambda process: process.num_fds())

    def no_memory(self) -> Iterator[None]:
        """It can have no more memory."""
        yield from self._without(resource.RLIMIT_AS, lambda process: mmap.PAGESIZE)

    def _without(self, limit: int, used: Callable[[psutil.Process], int]) -> Iterator[None]:
        supervisor = psutil.Process(self.server.pid)
        before = supervisor.rlimit(limit)
        supervisor.rlimit(limit, (used(supervisor), before[1]))
        yield from self.kill_worker()
        supervisor.rlimit(limit, before)


class Lasting(Rig):
    """A disk that is there when the server is started anew."""

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [*super().happenings(), self.kill_supervisor]

    def kill_supervisor(self) -> Iterator[None]:
        """Its workers answer what has come, and end, though their clients are still there."""
        orphans = self.server.workers()
        self.server.kill()
        yield
        eventually(lambda: not any(map(is_alive, orphans)))
        self.server = self.serve()
        yield


class File(Lasting):
    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [*super().happenings(), self.move]

    def move(self) -> Iterator[None]:
        """The file is not where it was: who has it open does not notice."""
        (self.place / "disk").rename(self.place / "moved")
        yield
        (self.place / "moved").rename(self.place / "disk")
        yield


class CutFile(File):
    """A file that is made shorter, and longer again, by somebody else."""

    lossy = True
    forgets = True

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.cut, self.kill_worker]

    def cut(self) -> Iterator[None]:
        os.truncate(self.place / "disk", SIZE // 2)
        yield
        os.truncate(self.place / "disk", SIZE)
        yield
        for block in range(SIZE // 2 // BLOCK, SIZE // BLOCK):
            for known in (self.model.may, self.model.claimed, self.model.since):
                known[block].add(ZEROES)


class Filtered(Lasting):
    words = (
        *("--filter=truncate", "--filter=offset", "--filter=log", "partitioning", "PLACE/disk"),
        *("logfile=/dev/null", "offset=1M", f"range={SIZE}", f"truncate={SIZE}"),
    )


class Split(Lasting):
    words = ("-t", "3", "split", "PLACE/disk", "PLACE/half")
    disk_size = SIZE // 2

    def prepare(self) -> None:
        shutil.copy(self.place / "disk", self.place / "half")


class Cow(Rig):
    words = ("--filter=cow", "file", "PLACE/disk")


class Memory(Rig):
    words = ("memory", str(SIZE))


class Data(Rig):
    words = (
        "--filter=cow",
        "--filter=offset",
        "data",
        f"@{MIB} 0",
        f"size={2 * MIB}",
        f"offset={MIB}",
    )


class Gzip(Lasting):
    words = ("gzip", "PLACE/disk.gz")

    def prepare(self) -> None:
        content = self.chance.randbytes(BLOCK) * (SIZE // BLOCK // 2) + bytes(SIZE // 2)
        self.model = Model(self.ghosts, self.together, content)
        (self.place / "disk.gz").write_bytes(gzip.compress(content, 1))


class Xz(Lasting):
    words = ("--filter=xz", "file", "PLACE/disk.xz")

    def prepare(self) -> None:
        need("xz")
        content = self.chance.randbytes(SIZE // 8) * 8
        self.model = Model(self.ghosts, self.together, content)
        (self.place / "disk").write_bytes(content)
        output("xz", "--block-size=65536", self.place / "disk")


class Pattern(Lasting):
    words = ("-r", "pattern", str(SIZE))

    def prepare(self) -> None:
        content = struct.pack(f">{SIZE // 8}Q", *range(0, SIZE, 8))
        self.model = Model(self.ghosts, self.together, content)


class SmallMemory(Rig):
    """Workers that have no memory for large requests now and then."""

    words = ("file", "PLACE/disk")
    lossy = True

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.squeeze]

    def squeeze(self) -> Iterator[None]:
        worker = self.worker()
        worker.rlimit(resource.RLIMIT_AS, (worker.memory_info().vms + 65536, -1))
        yield
        with suppress(psutil.NoSuchProcess):
            worker.rlimit(resource.RLIMIT_AS, (-1, -1))
        yield


class FullDisk(Rig):
    """A file system that is full for a while."""

    lossy = True

    def serve(self) -> Server:
        within = small(self.place, 4 * SIZE, SIZE)
        return Server("-n", "file", self.place / "disk", within=within)

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.fill, self.kill_worker]

    def fill(self) -> Iterator[None]:
        path = seen(self.server, self.place / "more")
        with path.open("wb", 0) as more, suppress(OSError):
            while more.write(bytes(4096)):
                pass
        yield
        path.unlink()
        yield


class BrokenDisk(Rig):
    """One that cannot flush for a while."""

    lossy = True

    def prepare(self) -> None:
        self.shim = Shim(self.place)

    def serve(self) -> Server:
        return Server("-n", "file", self.place / "disk", environment=self.shim.environment)

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.break_it, self.kill_worker]

    def break_it(self) -> Iterator[None]:
        with self.shim.broken():
            yield
        yield


class Nbd(Lasting):
    """A server of ours behind the one that is killed."""

    words: tuple[str, ...] = ("nbd", "socket=PLACE/far")
    far_words: tuple[str | Path, ...] = ("file",)
    lossy = True
    ghosts = True
    together = False

    def prepare(self) -> None:
        path = self.place / "far"
        words = ["-f", "-n", "-U", path, *self.far_words, self.place / "disk"]
        self.far = self.stack.enter_context(Far(path, *NBDFORK, *words))

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [*super().happenings(), self.kill_far, self.kill_far_worker]

    def kill_far(self) -> Iterator[None]:
        self.far.kill()
        yield
        self.far.start()
        yield

    def kill_far_worker(self) -> Iterator[None]:
        assert self.far.process is not None
        workers = psutil.Process(self.far.process.pid).children()
        with suppress(psutil.NoSuchProcess):
            self.chance.choice(workers).kill()
        yield
        yield


class SharedNbd(Nbd):
    """One process for all clients."""

    words = ("nbd", "socket=PLACE/far", "shared=true")
    together = True

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.kill_far, self.kill_far_worker, self.kill_worker, self.kill_supervisor]


class Forgetful(Nbd):
    """A far end that loses what was not flushed when it is killed."""

    forgets = True
    flushes = 0.15

    far_words = (SAMPLES / "forgetful.py",)

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.kill_far, self.crash, self.crash, self.kill_worker]

    def crash(self) -> Iterator[None]:
        """All that was asked for has been answered, and is lost before anybody flushes it."""
        yield
        yield
        self.far.kill()
        self.far.start()
        self.model.crash()

    def kill_far(self) -> Iterator[None]:
        for _ in super().kill_far():
            yield
        self.model.crash()


class Ssh(Lasting):
    lossy = True
    ghosts = True
    together = False

    def prepare(self) -> None:
        self.far = self.stack.enter_context(Sshd())
        path = self.far.file("disk", bytes(SIZE))
        self.words = ("ssh", *self.far.way, f"path={path}")

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.end_sessions, self.kill_worker, self.kill_supervisor]

    def end_sessions(self) -> Iterator[None]:
        self.far.end_sessions()
        yield
        yield


_SCRIPT = r"""
my $path;
sub config { my ($key, $value) = @_; $path = $value }
sub open { CORE::open(my $file, '+<:raw', $path) or die "$path: $!\n"; return $file }
sub get_size { return -s $path }
sub pread {
    my ($file, $count, $offset) = @_;
    sysseek($file, $offset, 0);
    sysread($file, my $data, $count);
    return $data;
}
sub pwrite {
    my ($file, $data, $offset) = @_;
    sysseek($file, $offset, 0);
    syswrite($file, $data);
}
"""


class Perl(Rig):
    """A script inside of the workers."""

    words = ("perl", "PLACE/script.pl", "disk=PLACE/disk")

    def prepare(self) -> None:
        need("perl")
        (self.place / "script.pl").write_text(_SCRIPT)

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.kill_worker]  # there is one for all clients


_RUBY = """
NBDFORK_PROCESSES = true
def config(key, value) = $path = value
def open(readonly) = File.open($path, 'r+b')
def get_size(h) = File.size($path)
def pread(h, count, offset) = h.pread(count, offset)
def pwrite(h, data, offset) = h.pwrite(data, offset)
def flush(h) = h.fdatasync
"""


class Ruby(Rig):
    """Helpers that are killed, those who guard them, and what they are forked from."""

    words = ("ruby", "PLACE/script.rb", "disk=PLACE/disk")
    lossy = True
    ghosts = True  # a helper may finish what it does when its worker is gone already

    def prepare(self) -> None:
        need("ruby")
        (self.place / "script.rb").write_text(_RUBY)

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        # None is stopped: as their model demands, all requests wait for one that is under way.
        return [self.kill_helper, self.kill_helper, self.kill_worker]

    def kill_helper(self) -> Iterator[None]:
        supervisor = psutil.Process(self.server.pid)
        direct = supervisor.children()
        others = [one for one in supervisor.children(recursive=True) if one not in direct]
        with suppress(psutil.NoSuchProcess, IndexError):
            self.chance.choice(others).kill()
        yield
        yield


class Sh(Rig):
    """Scripts that are killed in the middle of a request."""

    words = ("sh", "PLACE/script")
    lossy = True
    ghosts = True  # what a script has started may go on without it

    def prepare(self) -> None:
        need("dd")
        methods = {key: DISK[key] for key in ("get_size", "pread", "pwrite", "can_write")}
        disk = {key: text.replace("$tmpdir", str(self.place)) for key, text in methods.items()}
        script(self.place, disk)

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.kill_script, self.kill_script, self.kill_worker]

    def kill_script(self) -> Iterator[None]:
        workers = psutil.Process(self.server.pid).children()
        with suppress(psutil.NoSuchProcess, IndexError):
            running = [one for worker in workers for one in worker.children(recursive=True)]
            self.chance.choice(running).kill()
        yield
        yield


class Web(Lasting):
    """A web server that is killed, and is there again."""

    lossy = True

    def prepare(self) -> None:
        pytest.importorskip("pycurl")
        content = self.chance.randbytes(SIZE)
        self.model = Model(self.ghosts, self.together, content)
        self.far = self.stack.enter_context(Nginx())
        self.far.file("torture", content)
        self.words = ("curl", f"{self.far.url}/torture")

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.kill_far, self.kill_far, self.kill_worker, self.kill_supervisor]

    def kill_far(self) -> Iterator[None]:
        self.far.kill()
        yield
        self.far.start()
        yield


class Store(Lasting):
    """The gateway of an object store is killed; each object has many blocks."""

    lossy = True
    ghosts = True
    together = False

    def prepare(self) -> None:
        pytest.importorskip("pycurl")
        self.far = self.stack.enter_context(S3Server())
        keys = (f"access-key={ACCESS_KEY}", f"secret-key={SECRET_KEY}")
        where = (f"endpoint-url={self.far.url}", f"bucket={BUCKET}", "torture")
        self.words = ("s3", *where, *keys, f"size={SIZE}", "object-size=65536")

    def happenings(self) -> list[Callable[[], Iterator[None]]]:
        return [self.kill_far, self.kill_far, self.kill_supervisor]

    def kill_far(self) -> Iterator[None]:
        self.far.gateway.kill()
        yield
        self.far.gateway.start()
        yield


RIGS: list[type[Rig]] = [
    *(File, CutFile, Filtered, Split, Cow, Memory, Data, Gzip, Xz, Pattern),
    *(SmallMemory, FullDisk, BrokenDisk),
    *(Nbd, SharedNbd, Forgetful, Ssh, Web, Store),
    *(Perl, Ruby, Sh),
]
