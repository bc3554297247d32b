"""The ways in which an NBD server may lie, break or be slow, by their names.

Each is what `LyingNbd` is given: all is as it should be but for what its name says.  What a client
is to make of each is for its tests to say.
"""

import struct
from collections.abc import Mapping

from tests.support import lying_nbd as nbd
from tests.support.lying_nbd import Answer, Asked, Conversation

Lies = Mapping[str, Mapping[str, Answer]]


def sending(data: bytes) -> Answer:
    """Return an answer that is *data* as it stands."""
    return lambda talk, asked: talk.send(data)


def silent(talk: Conversation, asked: Asked) -> None:
    talk.be_silent()


def gone(talk: Conversation, asked: Asked) -> None:
    talk.hang_up()


# -- the handshake ----------------------------------------------------------------------------


def exporting(
    size: int = 1 << 20, flags: int = nbd.FLAGS, *more: tuple[int, bytes], with_it: bool = True
) -> Answer:
    """Return an answer to GO: size and flags, unless not *with_it*, and *more* information."""

    def answer(talk: Conversation, asked: Asked) -> None:
        for kind, data in more:
            talk.inform(asked, kind, data)
        if with_it:
            talk.inform(asked, nbd.INFO_EXPORT, struct.pack(">QH", size, flags))
        talk.option_reply(asked, nbd.ACK)

    return answer


def blocks(*sizes: int) -> Answer:
    """Return an answer to GO with the three sizes of blocks."""
    return exporting(1 << 20, nbd.FLAGS, (nbd.INFO_BLOCK_SIZE, struct.pack(">III", *sizes)))


def described(text: bytes) -> Answer:
    """Return an answer to GO with a description."""
    return exporting(1 << 20, nbd.FLAGS, (nbd.INFO_DESCRIPTION, text))


def option(kind: int, data: bytes = b"") -> Answer:
    """Return an answer that is one reply to an option."""
    return lambda talk, asked: talk.option_reply(asked, kind, data)


def option_magic(magic: int, kind: int) -> Answer:
    """Return a good answer with another magic number, or of another option if *kind*."""

    def answer(talk: Conversation, asked: Asked) -> None:
        talk.send(struct.pack(">QIII", magic, kind or asked.kind, nbd.ACK, 0))

    return answer


def endless_options(kind: int, data: bytes) -> Answer:
    """Return an answer that never comes to the last reply to an option."""

    def answer(talk: Conversation, asked: Asked) -> None:
        reply = struct.pack(">QIII", nbd.OPTION_REPLY, asked.kind, kind, len(data)) + data
        talk.send_for_ever(reply * 64)

    return answer


def _drip(talk: Conversation, asked: Asked) -> None:
    """Never come to an end, a byte at a time, but never be silent for long either."""
    talk.send(struct.pack(">QIII", nbd.OPTION_REPLY, asked.kind, nbd.INFO_REPLY, 4000))
    for _ in range(4000):
        talk.send(b"\0")
        talk.pause(0.02)


SIZE = struct.pack(">HQH", nbd.INFO_EXPORT, 1 << 20, nbd.FLAGS)

HANDSHAKES: Lies = {
    "no magic": {"greeting": sending(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")},
    "half a magic": {"greeting": sending(b"NBDMAGIC????????\0\3")},
    "a greeting that hangs up": {"greeting": gone},
    "a greeting that is silence": {"greeting": silent},
    "options that are silence": {"structured": silent},
    "contexts that are silence": {"meta": silent},
    "GO that is silence": {"go": silent},
    "GO that drips": {"go": _drip},
    "GO that hangs up": {"go": gone},
    "another magic of an option": {"go": option_magic(0x1234, 0)},
    "a reply to another option": {"go": option_magic(nbd.OPTION_REPLY, nbd.LIST)},
    "an unknown reply": {"go": option(77)},
    "no flags": {"go": exporting(1 << 20, 0)},
    "GO without a size": {"go": exporting(with_it=False)},
    "a size of 2^63": {"go": exporting(1 << 63)},
    "a size of 2^64-1": {"go": exporting((1 << 64) - 1)},
    "no such export": {"go": option(nbd.UNKNOWN, b"\xff\x1b[31m no\n such" + b"x" * 3000)},
    "a policy": {"go": option(1 << 31 | 2, b"\xff\x1b[31mnot you")},
    "endless information": {"go": endless_options(nbd.INFO_REPLY, SIZE)},
    "endless contexts": {"meta": endless_options(nbd.META_REPLY, bytes(5))},
    "a context of 4 MB": {"meta": option(nbd.META_REPLY, bytes(4_000_000))},
    "a reply of 4 GB": {"go": sending(struct.pack(">QIII", nbd.OPTION_REPLY, 7, 3, 2**32 - 1))},
}
"""What is wrong when a client opens the export."""

HARMLESS: Lies = {
    "nothing": {},
    "blocks that are no powers of two": {"go": blocks(3, 5, 7)},
    "blocks of 0": {"go": blocks(0, 0, 0)},
    "blocks of 2 GB": {"go": blocks(1 << 31, 1 << 31, 1 << 31)},
    "blocks whose largest is too small": {"go": blocks(512, 4096, 1024)},
    "a description of 100,000 bytes": {"go": described(b"x" * 100_000)},
    "a description that is not UTF-8": {"go": described(b"\xff\x1b[31m")},
    "a description of escapes": {"go": described(b"a\n\x1b[31m\x00b")},
    "all flags": {"go": exporting(1 << 20, 0xFFFF & ~2)},
    "no structured replies": {"structured": Conversation.other, "read": Conversation.read_simply},
}
"""What is wrong, or strange, but does not keep a client from the right content."""


# -- replies to requests ----------------------------------------------------------------------


def data(start: int = 0, less: int = 0, more: bytes = b"", flags: int = nbd.DONE) -> Answer:
    """Return an answer to READ that begins elsewhere, or has *less* or *more*."""

    def answer(talk: Conversation, asked: Asked) -> None:
        part = talk.part(asked)[: asked.length - less] + more
        talk.chunk(asked, nbd.DATA, struct.pack(">Q", asked.offset + start) + part, flags)

    return answer


def chunk(kind: int, body: bytes = b"") -> Answer:
    """Return an answer that is one chunk."""
    return lambda talk, asked: talk.chunk(asked, kind, body)


def hole(start: int = 0, more: int = 0) -> Answer:
    """Return an answer to READ that is a hole, which begins elsewhere or is larger."""
    return lambda talk, asked: talk.chunk(
        asked, nbd.HOLE, struct.pack(">QI", asked.offset + start, asked.length + more)
    )


def halves(*starts: int) -> Answer:
    """Return an answer to READ in chunks of half its length, from *starts* on."""

    def answer(talk: Conversation, asked: Asked) -> None:
        half = asked.length // 2
        for start in starts:
            part = talk.part(asked)[start : start + half]
            talk.chunk(asked, nbd.DATA, struct.pack(">Q", asked.offset + start) + part, 0)
        talk.chunk(asked, nbd.NONE, b"")

    return answer


def endless_chunks(kind: int, body: bytes) -> Answer:
    """Return an answer that never comes to its last chunk; of content, at the right place."""

    def answer(talk: Conversation, asked: Asked) -> None:
        whole = struct.pack(">Q", asked.offset) + body if kind in (nbd.DATA, nbd.HOLE) else body
        head = struct.pack(">IHHQI", nbd.STRUCTURED_REPLY, 0, kind, asked.cookie, len(whole))
        talk.send_for_ever((head + whole) * 64)

    return answer


def other_cookie(talk: Conversation, asked: Asked) -> None:
    talk.read(asked._replace(cookie=asked.cookie + 99))


READS: Lies = {
    "another magic": {"read": sending(b"\x12\x34\x56\x78" * 5)},
    "another cookie": {"read": other_cookie},
    "a simple reply with data": {"read": Conversation.read_simply},
    "data from before": {"read": data(start=-1)},
    "data from after": {"read": data(start=1)},
    "data far away": {"read": data(start=1 << 62)},
    "a byte too many": {"read": data(more=b"x")},
    "a byte too few": {"read": data(less=1)},
    "one half": {"read": halves(0)},
    "the other half": {"read": halves(2048)},
    "one half twice": {"read": halves(0, 0)},
    "halves that overlap": {"read": halves(0, 1024, 2048)},
    "no data": {"read": chunk(nbd.NONE)},
    "NONE with something": {"read": chunk(nbd.NONE, b"xx")},
    "a hole that is larger": {"read": hole(more=1)},
    "a hole before": {"read": hole(start=-1)},
    "a hole of no length": {"read": chunk(nbd.HOLE, struct.pack(">QI", 4096, 0))},
    "a hole that is cut off": {"read": chunk(nbd.HOLE, b"123")},
    "data without an offset": {"read": chunk(nbd.DATA, b"123")},
    "an unknown chunk": {"read": chunk(99, b"xx")},
    "extents instead of data": {"read": Conversation.status},
    "error 0": {"read": chunk(nbd.ERROR, struct.pack(">IH", 0, 0))},
    "error 999": {"read": chunk(nbd.ERROR, struct.pack(">IH", 999, 0))},
    "an error with escapes": {"read": chunk(nbd.ERROR, struct.pack(">IH", 5, 6) + b"\xff\x1b[31m")},
    "an error with too long a text": {"read": chunk(nbd.ERROR, struct.pack(">IH", 5, 5000) + b"x")},
    "a chunk of 4 GB": {
        "read": sending(struct.pack(">IHHQI", nbd.STRUCTURED_REPLY, 1, 1, 1, 2**32 - 1))
    },
    "endless data": {"read": endless_chunks(nbd.DATA, bytes(512))},
    "endless holes": {"read": endless_chunks(nbd.HOLE, struct.pack(">I", 512))},
    "endless errors": {"read": endless_chunks(nbd.ERROR, struct.pack(">IH", 5, 0))},
    "a reply that hangs up": {"read": gone},
    "a reply that is silence": {"read": silent},
}
"""What is wrong with the replies to READ."""


# -- extents ----------------------------------------------------------------------------------


def extents(*numbers: int, context: int = nbd.CONTEXT_ID) -> Answer:
    """Return an answer to BLOCK_STATUS: lengths and types by turns."""
    body = struct.pack(f">{1 + len(numbers)}I", context, *numbers)
    return chunk(nbd.STATUS, body)


def _two_chunks(talk: Conversation, asked: Asked) -> None:
    body = struct.pack(">III", nbd.CONTEXT_ID, 512, 0)
    talk.chunk(asked, nbd.STATUS, body, 0)
    talk.chunk(asked, nbd.STATUS, body)


EXTENTS: Lies = {
    "an extent of no length": {"status": extents(0, 0)},
    "extents of another context": {"status": extents(4096, 0, context=99)},
    "no extents": {"status": extents()},
    "no chunk of extents": {"status": chunk(nbd.NONE)},
    "half an extent": {"status": chunk(nbd.STATUS, struct.pack(">IIH", nbd.CONTEXT_ID, 4096, 0))},
    "two chunks of extents": {"status": _two_chunks},
    "endless extents": {
        "status": endless_chunks(nbd.STATUS, struct.pack(">III", nbd.CONTEXT_ID, 512, 0))
    },
    "data instead of extents": {"status": Conversation.read},
    "a chunk of extents of 4 GB": {
        "status": sending(struct.pack(">IHHQI", nbd.STRUCTURED_REPLY, 1, 5, 1, 2**32 - 4))
    },
    "extents that are silence": {"status": silent},
}
"""What is wrong with the replies to BLOCK_STATUS."""

MANY_EXTENTS = {"status": extents(*(1, 0) * (2 << 20))}
"""A reply of two million extents, of one byte each."""

# -- lists of exports -------------------------------------------------------------------------


def listing(*items: bytes) -> Answer:
    """Return an answer to LIST: names, with their lengths, and descriptions."""

    def answer(talk: Conversation, asked: Asked) -> None:
        for item in items:
            talk.option_reply(asked, nbd.SERVER, item)
        talk.option_reply(asked, nbd.ACK)

    return answer


def entry(name: bytes, description: bytes = b"") -> bytes:
    """Return an item of a list."""
    return struct.pack(">I", len(name)) + name + description


ENDLESS_LIST = {"list": endless_options(nbd.SERVER, entry(b"disk"))}
ENDLESS_LONG_LIST = {"list": endless_options(nbd.SERVER, entry(b"n" * 4000, b"d" * 4000))}

LISTS: Lies = {
    "a name that is cut off": {"list": listing(struct.pack(">I", 50) + b"x" * 10)},
    "a name of 5,000 bytes": {"list": listing(entry(b"x" * 5000))},
    "a list that is silence": {"list": silent},
    "a list that hangs up": {"list": gone},
    "a list that is refused": {"list": option(1 << 31 | 2, b"go away\xff")},
    "a list of something else": {"list": option(nbd.INFO_REPLY, b"xxx")},
}
"""What is wrong with the replies to LIST."""
