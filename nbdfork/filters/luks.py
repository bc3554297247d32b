"""The luks filter: serve what is in a LUKS container, decrypted.

Versions 1 and 2 are known, with AES in XTS mode and plain64 sector numbers, as cryptsetup makes
them.  The passphrase is tried once, for the first client; all workers share the key.
"""

import errno
import hashlib
import json
import struct
from base64 import b64decode
from collections.abc import Callable
from typing import Any, NamedTuple

from nbdfork.filters._part import PartExport
from nbdfork.filters._source import Source
from nbdfork.plugin import (
    BlockSize,
    Buffer,
    ConfigError,
    Export,
    Filter,
    FilterExport,
    Needs,
    Secret,
    SharedBuffer,
    SharedLock,
    read_password,
)

_MAGIC = b"LUKS\xba\xbe"
_HEADER = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT = struct.Struct(">II32sII")
_SLOTS = 8
_ENABLED = 0x00AC71F3
_SECTOR = 512
_MOST_JSON = 4 * 1024 * 1024
_MOST_KEY = 128
_MOST_ITERATIONS = 100_000_000
_MOST_MATERIAL = 8 * 1024 * 1024
_HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "whirlpool")


class Luks(Filter):
    """serve what is in a LUKS container"""

    passphrase = Secret(str, required=True, metavar="SECRET|-|+FILENAME|-FD", help="the passphrase")

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher  # noqa: F401
        except ImportError:
            raise ConfigError('luks needs cryptography: pip install "nbdfork[luks]"') from None
        self._secret = read_password("passphrase", self.passphrase)

    def get_ready(self) -> None:
        self._known = SharedBuffer(32 + 1 + _MOST_KEY)  # of which header, how long, and the key
        self._lock = SharedLock()

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        source = Source(next, f"export {export_name!r}" if export_name else "the disk below")
        container = _container(source)
        key = self._key(source, container)
        length = container.length
        if length is None:
            length = source.end - container.place
            length -= length % container.sector
        part = PartExport(next, container.place, length, "luks")
        return LuksExport(part, key, container.sector)

    def _key(self, source: Source, container: "Container") -> bytes:
        """Return the volume key; finding it takes some seconds, by intent."""
        digest = hashlib.sha256(container.identity).digest()
        with self._lock:
            if self._known[0:32] != digest:
                key = container.unlock(self._secret.encode(errors="surrogateescape"))
                self._known[0 : 33 + len(key)] = digest + bytes([len(key)]) + key
            length = self._known[32:33][0]
            return self._known[33 : 33 + length]


class Container(NamedTuple):
    """What a header says: where the data are (None: to the end), in sectors of what size, and how a
    passphrase becomes the key.  *identity* is what another container would not have.
    """

    place: int
    length: int | None
    sector: int
    identity: bytes
    unlock: Callable[[bytes], bytes]


def _container(source: Source) -> Container:
    head = source.pread(_HEADER.size + _SLOTS * _SLOT.size, 0)
    if not head.startswith(_MAGIC):
        raise OSError(
            errno.EINVAL, f"{source.name} is no LUKS container: it begins with {head[:6].hex(' ')}"
        )
    version = int.from_bytes(head[6:8], "big")
    if version == 1:
        return _version_1(source, head)
    if version == 2:
        return _version_2(source)
    raise _refused(f"version {version} is not known")


def _refused(text: str) -> OSError:
    return OSError(errno.EINVAL, f"the LUKS container cannot be opened: {text}")


def _wrong() -> OSError:
    return OSError(errno.EACCES, "the passphrase fits none of the keys of the LUKS container")


def _check_cipher(cipher: str) -> None:
    if cipher != "aes-xts-plain64":
        raise _refused(f"it is encrypted with {cipher}, and only aes-xts-plain64 is known")


def _check_hash(name: str) -> str:
    if name not in _HASHES or name not in hashlib.algorithms_available:
        raise _refused(f"the hash {name} is not known")
    return name


# -- version 1 --------------------------------------------------------------------------------


def _version_1(source: Source, head: bytes) -> Container:
    fields = _HEADER.unpack_from(head)
    cipher, mode, spec = (field.rstrip(b"\0").decode("ascii", "replace") for field in fields[2:5])
    place, length, digest, salt, iterations, identity = fields[5:]
    _check_cipher(f"{cipher}-{mode}")
    algorithm = _check_hash(spec)
    if not 0 < length <= _MOST_KEY or not 0 < iterations <= _MOST_ITERATIONS:
        raise _refused("the header is damaged")
    slots = [_SLOT.unpack_from(head, _HEADER.size + n * _SLOT.size) for n in range(_SLOTS)]

    def unlock(secret: bytes) -> bytes:
        for state, rounds, slot_salt, material, stripes in slots:
            if state != _ENABLED:
                continue
            _check_rounds(rounds, length * stripes)
            slot_key = hashlib.pbkdf2_hmac(algorithm, secret, slot_salt, rounds, length)
            data = source.pread(length * stripes, material * _SECTOR)
            key = _merge(_decrypted(slot_key, data), length, stripes, algorithm)
            if hashlib.pbkdf2_hmac(algorithm, key, salt, iterations, 20) == digest:
                return key
        raise _wrong()

    return Container(place * _SECTOR, None, _SECTOR, bytes(identity) + digest, unlock)


def _check_rounds(rounds: int, material: int) -> None:
    if not 0 < rounds <= _MOST_ITERATIONS or not 0 < material <= _MOST_MATERIAL:
        raise _refused("the header is damaged")


# -- version 2 --------------------------------------------------------------------------------


def _version_2(source: Source) -> Container:
    size = int.from_bytes(source.pread(8, 8), "big")
    if not 4096 < size <= _MOST_JSON:
        raise _refused("the header is damaged")
    text = source.pread(size - 4096, 4096)
    try:
        found: dict[str, Any] = json.loads(text.partition(b"\0")[0])
        segments = [one for one in found["segments"].values() if "flags" not in one]
        if len(segments) != 1 or segments[0]["type"] != "crypt":
            raise _refused("its data are not in one piece: an operation on it is unfinished")
        [segment] = segments
        _check_cipher(segment["encryption"])
        if "integrity" in segment:
            raise _refused("it has integrity data")
        if int(segment.get("iv_tweak", 0)):
            raise _refused("its sectors are counted from another number than 0")
        length = None if segment["size"] == "dynamic" else int(segment["size"])
        return Container(
            int(segment["offset"]),
            length,
            int(segment["sector_size"]),
            text,
            lambda secret: _unlock_2(source, found, secret),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused(f"the header is damaged: {error!r}") from error


def _unlock_2(source: Source, found: dict[str, Any], secret: bytes) -> bytes:
    try:
        for number, slot in found["keyslots"].items():
            if slot["type"] != "luks2" or slot.get("priority") == 0:
                continue
            area, merging, length = slot["area"], slot["af"], int(slot["key_size"])
            _check_cipher(area["encryption"])
            stripes = int(merging["stripes"])
            _check_rounds(1, length * stripes)
            slot_key = _derived(slot["kdf"], secret, int(area["key_size"]))
            data = source.pread(length * stripes, int(area["offset"]))
            data = data.ljust(-(-len(data) // _SECTOR) * _SECTOR, b"\0")
            key = _merge(_decrypted(slot_key, data), length, stripes, _check_hash(merging["hash"]))
            if any(
                number in digest["keyslots"] and _fits(digest, key)
                for digest in found["digests"].values()
            ):
                return key
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused(f"the header is damaged: {error!r}") from error
    raise _wrong()


def _fits(digest: dict[str, Any], key: bytes) -> bool:
    wanted = b64decode(digest["digest"])
    salt, rounds = b64decode(digest["salt"]), int(digest["iterations"])
    _check_rounds(rounds, 1)
    return (
        hashlib.pbkdf2_hmac(_check_hash(digest["hash"]), key, salt, rounds, len(wanted)) == wanted
    )


def _derived(way: dict[str, Any], secret: bytes, length: int) -> bytes:
    """Return the key that a passphrase stands for."""
    salt = b64decode(way["salt"])
    if way["type"] == "pbkdf2":
        rounds = int(way["iterations"])
        _check_rounds(rounds, length)
        return hashlib.pbkdf2_hmac(_check_hash(way["hash"]), secret, salt, rounds, length)
    if way["type"] != "argon2id":
        raise _refused(f"keys made by {way['type']} are not known")
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    return Argon2id(
        salt=salt,
        length=length,
        iterations=int(way["time"]),
        lanes=int(way["cpus"]),
        memory_cost=int(way["memory"]),
    ).derive(secret)


# -- keys and sectors -------------------------------------------------------------------------


def _merge(material: bytes, length: int, stripes: int, algorithm: str) -> bytes:
    """Return the key that was spread over *stripes*."""
    block = bytes(length)
    for number in range(stripes):
        stripe = material[number * length : (number + 1) * length]
        block = _xor(block, stripe)
        if number < stripes - 1:
            block = _diffused(block, algorithm)
    return block


def _diffused(block: bytes, algorithm: str) -> bytes:
    size = hashlib.new(algorithm).digest_size
    parts = []
    for number in range(-(-len(block) // size)):
        part = block[number * size : (number + 1) * size]
        digest = hashlib.new(algorithm, number.to_bytes(4, "big") + part).digest()
        parts.append(digest[: len(part)])
    return b"".join(parts)


def _xor(one: bytes, two: bytes) -> bytes:
    number = int.from_bytes(one, "little") ^ int.from_bytes(two, "little")
    return number.to_bytes(len(one), "little")


def _decrypted(key: bytes, data: bytes) -> bytes:
    return Sectors(key, _SECTOR).decrypted(data, 0)


class Sectors:
    """Encrypts and decrypts sectors of *size* bytes; they are counted in units of 512."""

    def __init__(self, key: bytes, size: int) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        self._size = size

        def cipher(offset: int) -> Any:
            tweak = (offset // _SECTOR).to_bytes(16, "little")
            return Cipher(algorithms.AES(key), modes.XTS(tweak))

        self._cipher = cipher

    def decrypted(self, data: Buffer, offset: int) -> bytes:
        """Decrypt whole sectors from *offset*."""
        return self._each(lambda place: self._cipher(place).decryptor(), data, offset)

    def encrypted(self, data: Buffer, offset: int) -> bytes:
        """Encrypt whole sectors from *offset*."""
        return self._each(lambda place: self._cipher(place).encryptor(), data, offset)

    def _each(self, begin: Callable[[int], Any], data: Buffer, offset: int) -> bytes:
        result = bytearray(len(data) + 15)
        view, out = memoryview(data), memoryview(result)
        for at in range(0, len(data), self._size):
            begin(offset + at).update_into(view[at : at + self._size], out[at:])
        return bytes(out[: len(data)])


class LuksExport(FilterExport):
    """*next*, the data of a container, decrypted with *key*."""

    def __init__(self, next: Export, key: bytes, sector: int) -> None:
        super().__init__(next)
        self._sectors = Sectors(key, sector)
        self._sector = sector

    def block_size(self) -> BlockSize:
        below = self.next.block_size()
        minimum = max(below.minimum, self._sector)
        most = below.maximum
        if most != 2**32 - 1:
            most -= most % minimum
        return below._replace(
            minimum=minimum, preferred=max(below.preferred, minimum), maximum=most
        )

    def is_lenient(self) -> bool:
        return False  # a part of a sector cannot be decrypted

    def can_zero(self) -> bool:
        return False

    def can_fast_zero(self) -> bool:
        return True  # it tells at once that it is none

    def can_extents(self) -> bool:
        return False

    def can_trim(self) -> bool:
        return False  # what is trimmed below reads as noise here

    def pread(self, count: int, offset: int) -> Buffer:
        return self._sectors.decrypted(self.next.pread(count, offset), offset)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.next.pwrite(memoryview(self._sectors.encrypted(data, offset)), offset, flags)
