"""The ceiling: as little as a Python program can do and still keep a client of the protocol going.

It is no NBD server: no request is looked at.  The first one says what all the others are, reads
or writes of one size; from then on what one receive brings is answered with one send of as many
prepared replies, whose cookies are copied by two slices for all of them at once.  What a server
in Python reaches of this is what its protocol, its checks and its disk leave of the sockets.

    python ceiling.py SIZE SOCKET|PORT
"""

import os
import signal
import socket
import sys

from nbdfork.protocol import wire

BATCH = 1 << 20
"""Bytes of requests, and of replies, that are dealt with at once, at most."""

WORDS_OF_REQUEST = wire.REQUEST.size // 4
WORDS_OF_REPLY = wire.SIMPLE_REPLY.size // 4
COOKIE_IN_REQUEST = 2  # words before it
COOKIE_IN_REPLY = 2


def receive(client: socket.socket, count: int) -> bytes:
    """Return *count* bytes, or raise `EOFError`."""
    data = client.recv(count, socket.MSG_WAITALL)
    if len(data) < count:
        raise EOFError
    return data


def handshake(client: socket.socket, size: int) -> None:
    """Agree to whatever export is asked for, and to no extension."""
    flags = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
    client.sendall(wire.NEWSTYLE_GREETING.pack(wire.INIT_MAGIC, wire.OPTION_MAGIC, flags))
    receive(client, wire.CLIENT_FLAGS.size)
    while True:
        _, option, length = wire.OPTION.unpack(receive(client, wire.OPTION.size))
        receive(client, length)
        if option == wire.OPT_EXPORT_NAME:
            client.sendall(wire.EXPORT_NAME_REPLY.pack(size, wire.TRANSMIT_HAS_FLAGS))
            return
        if option not in (wire.OPT_GO, wire.OPT_INFO):
            client.sendall(option_reply(option, wire.REP_ERR_UNSUP))
            continue
        info = wire.INFO_EXPORT_DATA.pack(wire.INFO_EXPORT, size, wire.TRANSMIT_HAS_FLAGS)
        reply = option_reply(option, wire.REP_INFO, info) + option_reply(option, wire.REP_ACK)
        client.sendall(reply)
        if option == wire.OPT_GO:
            return


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def answer(client: socket.socket) -> None:
    """Answer requests until the client goes."""
    first = client.recv(wire.REQUEST.size, socket.MSG_PEEK | socket.MSG_WAITALL)
    if len(first) < wire.REQUEST.size:
        return
    _, _, command, _, _, length = wire.REQUEST.unpack(first)
    writing = command == wire.CMD_WRITE
    taken = WORDS_OF_REQUEST + (length // 4 if writing else 0)
    given = WORDS_OF_REPLY + (0 if writing else length // 4)
    most = max(1, BATCH // (4 * max(taken, given)))
    received = memoryview(bytearray(most * 4 * taken))
    header = wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, bytes(8))
    replies = memoryview(bytearray((header + bytes(4 * given - len(header))) * most))
    received_words, reply_words = received.cast("I"), replies.cast("I")
    filled = 0
    while got := client.recv_into(received[filled:]):
        filled += got
        count = filled // (4 * taken)
        if not count:
            continue
        end = count * taken
        for word in (0, 1):
            source = received_words[COOKIE_IN_REQUEST + word : end : taken]
            reply_words[COOKIE_IN_REPLY + word : count * given : given] = source
        client.sendall(replies[: count * given * 4])
        rest = filled - end * 4
        received[:rest] = received[end * 4 : filled]
        filled = rest


def serve(client: socket.socket, size: int) -> None:
    """Serve one client to its end."""
    if client.family != socket.AF_UNIX:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        handshake(client, size)
        answer(client)
    except (EOFError, ConnectionError):
        pass  # which is how every client ends


def main() -> None:
    """Fork a process for each client, as the servers that it is compared with do."""
    size, where = int(sys.argv[1]), sys.argv[2]
    if where.isdigit():
        listener = socket.create_server(("127.0.0.1", int(where)), backlog=128)
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
        listener.listen(128)
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(client, size)
            os._exit(0)
        client.close()


def reap() -> None:
    """Reap the children that have ended, so that their CPU time counts as this process's."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                return
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
