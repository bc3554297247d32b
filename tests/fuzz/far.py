"""Targets: what far ends and scripts send, compressed data, and what the user writes."""

import errno
import os
from collections.abc import Callable
from functools import cache

from nbdfork.plugins._link.reconnecting import LinkLost
from nbdfork.plugins._link.timeout import Patience
from nbdfork.plugins._web.reply import Reply, scheme_of, shown_url
from nbdfork.plugins.data.expressions import weight_of
from nbdfork.plugins.data.language import parse_data
from nbdfork.plugins.data.sources import Sources
from nbdfork.plugins.s3 import listing, meaning
from nbdfork.plugins.sh import output
from nbdfork.plugins.ssh.sftp import READ, Sftp

from nbdfork.cli import UsageError, parse_arguments
from nbdfork.configfile import read as read_config
from nbdfork.filters import gzip, lz4, xz, zstd
from nbdfork.filters._source import Learnt, Source
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.filters.partition import Partition
from nbdfork.plugin import ConfigError, Server
from tests.support.compressed import Below

_MOST = 1024 * 1024


def options(data: bytes) -> None:
    """A command line is parsed, or refused in one line by a `UsageError`."""
    words = [word.decode(errors="surrogateescape") for word in data.split(b"\0")]
    try:
        parse_arguments(words)
    except UsageError as error:
        assert str(error)


class NoSources(Sources):  # type: ignore[misc]
    """Files and scripts that are not read, for nobody knows what would be run."""

    def file(self, path: str, limit: int | None) -> bytes:
        return b"file"[:limit]

    def script(self, script: str, limit: int | None) -> bytes:
        return b"script"[:limit]


def data_language(data: bytes) -> None:
    """Text is refused by a ValueError, or its pieces are inside the disk and not many."""
    variables = {"a": "1 $b", "b": "$c @+2 $c", "c": "2*3 \\n", "loop": "$loop"}
    try:
        made = parse_data(data.decode(errors="surrogateescape"), variables, NoSources(0, "most"))
        weight = weight_of(made, made.size)
    except ValueError:
        return
    if weight <= _MOST:
        for number, piece in enumerate(made.pieces(0, made.size)):
            assert number <= weight // 1024
            assert 0 <= piece.offset <= piece.offset + piece.size <= made.size
            assert piece.content is None or len(piece.content) == piece.size


class _Forgetful:
    """Instead of an `IndexStore`: what was learnt of the last input does not help with the next."""

    def __init__(self) -> None:
        self._last: tuple[Source | None, Learnt | None] = (None, None)

    def get(self, source: Source, learn: Callable[[], tuple[bytes, list[bytes]]]) -> Learnt:
        if self._last[0] is not source or self._last[1] is None:
            facts, parts = learn()
            bulk = b"".join(parts)
            known = Learnt(facts, lambda count, offset: bulk[offset : offset + count])
            self._last = (source, known)
            return known
        return self._last[1]


def _ready(filter: UnpackFilter) -> UnpackFilter:
    filter.get_ready()
    filter.__dict__["_store"] = _Forgetful()
    return filter


@cache
def _filters() -> dict[str, UnpackFilter]:
    return {
        "gzip": _ready(gzip.Gzip(gzip_index_size=_MOST, gzip_scratch=0)),
        "lz4": _ready(lz4.Lz4(lz4_max_block=_MOST, lz4_scratch=0)),
        "xz": _ready(xz.Xz(xz_max_block=_MOST, xz_scratch=0)),
        "zstd": _ready(zstd.Zstd(zstd_max_block=_MOST, zstd_scratch=0)),
    }


def _unpack(name: str, data: bytes) -> None:
    try:
        disk = _filters()[name].unpack(Below(data), "disk")
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.EIO), error
        return
    size = disk.get_size()
    for count, offset in ((min(size, 512), 0), (min(size, 512), size - min(size, 512))):
        try:
            assert not count or len(disk.pread(count, offset)) == count
        except OSError as error:
            assert error.errno == errno.EIO, error
    disk.close()


def xz_data(data: bytes) -> None:
    """Data are refused with EINVAL or EIO, or make a disk that reads or fails with EIO."""
    _unpack("xz", data)


def zstd_data(data: bytes) -> None:
    """Data are refused with EINVAL or EIO, or make a disk that reads or fails with EIO."""
    _unpack("zstd", data)


def lz4_data(data: bytes) -> None:
    """Data are refused with EINVAL or EIO, or make a disk that reads or fails with EIO."""
    _unpack("lz4", data)


def gzip_data(data: bytes) -> None:
    """Data are refused with EINVAL or EIO, or make a disk that reads or fails with EIO."""
    _unpack("gzip", data)


def partition_table(data: bytes) -> None:
    """A disk whose table may be anything is refused with EINVAL, or has a partition within it."""
    number, sector = (data[0] % 8 + 1, (512, 4096)[data[0] >> 7]) if data else (1, 512)
    below = Below(data[1:])
    found = Partition(partition=number, partition_sectorsize=str(sector))
    try:
        export = found.wrap(below, "", True)
    except OSError as error:
        assert error.errno == errno.EINVAL, error
        return
    size = export.get_size()
    assert 0 <= size <= below.get_size()
    if size:
        assert len(export.pread(1, size - 1)) == 1


def config_file(data: bytes) -> None:
    """A file is a config file, or refused with a message that names the file."""
    if b"include" in data:
        return  # nobody knows what would be read
    fd = os.memfd_create("config")
    try:
        os.write(fd, data)
        path = f"/proc/self/fd/{fd}"
        read_config(path)
    except ConfigError as error:
        assert path in str(error)
    finally:
        os.close(fd)


def http_reply(data: bytes) -> None:
    """Any headers are a reply, and a URL is shown without what is secret in it."""
    reply = Reply(data.split(b"\n"))
    reply.offers_ranges()
    reply.refuses_ranges()
    facts = reply.facts(4096)
    assert not facts.difference(facts)
    if found := reply.content_range():
        assert all(number is None or abs(number) < 2**64 for number in found)
    assert reply.failure("it").errno
    url = data.decode("latin-1")
    if scheme := scheme_of(url):
        assert "@" not in shown_url(url)[len(scheme) + 1 :].lstrip("/").partition("/")[0]


def s3_error(data: bytes) -> None:
    """Whatever the store says becomes an errno and one line, or keys in their order."""
    for status in (200, 403, 404, 503):
        error = meaning.meaning(status, data, "key", "s3://bucket/key")
        assert error.errno in (errno.EIO, errno.EACCES, errno.ENOENT, errno.ENOSPC)
        assert str(error.strerror).isprintable()
    for listed in (True, False):
        try:
            listing.page(data, "key/", "") if listed else listing.not_deleted(data)
        except ValueError as error_of_xml:
            assert str(error_of_xml).isprintable()


def script_output(data: bytes) -> None:
    """What a script prints is understood, or is a ValueError."""
    text = data.decode(errors="surrogateescape")
    for parse in (output.size, output.support, output.block_size, output.exports):
        try:
            parse(text)
        except ValueError:
            pass
    try:
        for extent in output.extents(text, 0):
            assert 0 <= extent.type <= 3
    except ValueError:
        pass


def sftp_replies(data: bytes) -> None:
    """Whatever a server of SFTP says, a request is answered, fails, or the link is lost."""
    theirs, ours = os.pipe()
    from_server, to_us = os.pipe()
    try:
        os.write(to_us, data[:60000])
        os.close(to_us)
        link = Sftp(ours, from_server, Patience(Server().wait, 1.0))
        link.start()
        handle = link.open(b"disk", READ, 0)
        link.attributes(handle)
        buffer = bytearray(70000)
        assert 0 <= link.read(handle, memoryview(buffer), 0) <= len(buffer)
        link.fsync(handle)
    except LinkLost:
        pass
    except OSError as error:
        assert error.errno
    finally:
        for descriptor in (theirs, ours, from_server):
            os.close(descriptor)
