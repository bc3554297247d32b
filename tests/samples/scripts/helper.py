"""A helper that breaks the protocol, or its own neck, in the way that its parameter way= names."""

import os
import select
import signal
import socket
import struct
import sys

CALLBACKS = "config open close get_size pread pwrite extents block_size thread_model"
LOAD, CONFIG, THREAD_MODEL, START, WAIT, GET_SIZE, BLOCK_SIZE, PREAD, PWRITE, EXTENTS = (
    *(1, 3, 5, 8, 9, 17, 19, 30, 31, 36),
)
NOTICE = 0xFFFFFFFF

way = ""
disk = bytearray(65536)


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def request(connection: socket.socket) -> tuple[int, int, int, int, int, bytes]:
    length, operation, handle, flags, count, offset = struct.unpack(
        ">IIIIQQ", receive(connection, 32)
    )
    return operation, handle, flags, count, offset, receive(connection, length)


def frame(value: int = 0, payload: bytes = b"", error: int = 0) -> bytes:
    return struct.pack(">IIq", len(payload), error, value) + payload


def read(count: int, offset: int) -> bytes:
    """Return the answer to a read."""
    data = bytes(disk[offset : offset + count])
    answers = {
        "short": frame(0, data[1:]),
        "stuck": frame(0, data[1:]),
        "long": frame(0, data + b"more"),
        "huge": struct.pack(">IIq", 0x7FFFFFFF, 0, 0),
        "notices": frame(0, b"one", NOTICE) + frame(0, b"two" * 400, NOTICE) + frame(0, data),
        "unknown notice": frame(77, b"", NOTICE),
        "error": frame(0, b"the disk is " + b"very " * 2000 + b"ill", 28),
    }
    if way == "hang":
        signal.pause()
    if way == "abort":
        os.kill(os.getpid(), signal.SIGABRT)
    return answers.get(way, frame(0, data))


def answer(connection: socket.socket) -> None:
    global way
    operation, _, _, count, offset, payload = request(connection)
    if operation == CONFIG:
        way = payload.split(b"\0")[1].decode()
        if way == "exit":
            sys.exit(4)
    if operation == PWRITE:
        disk[offset : offset + len(payload)] = payload
    answers = {
        LOAD: frame(0, f"callbacks={CALLBACKS}\nmagic_config_key=way\nflavour=mint".encode()),
        THREAD_MODEL: frame(2),
        GET_SIZE: frame(-1 if way == "negative" else len(disk)),
        BLOCK_SIZE: frame(0, b"odd" if way == "block_size" else bytes(24)),
        EXTENTS: frame(0, b"odd" if way == "extents" else struct.pack(">QQI", offset, count, 0)),
    }
    reply = read(count, offset) if operation == PREAD else answers.get(operation, frame())
    if way == "dribble":
        for i in range(0, len(reply), 7):
            connection.sendall(reply[i : i + 7])
            os.sched_yield()
    else:
        connection.sendall(reply)
    if way == "stuck" and operation == PREAD:
        signal.pause()


def serve(listener: socket.socket, control: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([control, listener], [], [])
        if control in ready:
            answer(control)
            continue
        worker, _ = listener.accept()
        operation, _, _, _, pid, _ = request(worker)
        if operation == WAIT:
            worker.sendall(frame(os.waitpid(pid, 0)[1]))
        elif operation == START and os.fork() == 0:
            listener.close()
            control.close()
            worker.sendall(frame(os.getpid()))
            while True:
                answer(worker)
        worker.close()


listening = socket.socket(fileno=int(os.environ["NBDFORK_SOCKET"]))
serve(listening, listening.accept()[0])
