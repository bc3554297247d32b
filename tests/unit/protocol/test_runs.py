"""Runs of plain requests: the same comes of them, and Python has what it must have."""

import logging
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.plugin import DescriptorExport
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import CutShort, Disconnected
from nbdfork.protocol.runs import RunChannel, RunTransmission
from nbdfork.protocol.transmission import Session
from tests.support import twins
from tests.support.requests import Counted, request
from tests.support.speedups import need_speedups
from tests.support.stream import Recorder

STREAMS = int(os.environ.get("NBDFORK_TWINS", "600"))
PARTS = 4
READ, WRITE, DISC = 0, 1, 2
SIZE = 1 << 20


@pytest.fixture(autouse=True)
def _needed() -> None:
    need_speedups()


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_asked_and_however_it_is_cut_the_twin_does_the_same(part: int) -> None:
    logging.disable()
    try:
        done = [twins.check(number) for number in range(part, STREAMS, PARTS)]
    finally:
        logging.disable(logging.NOTSET)
    assert sum(done) > 0.7 * len(done)


@pytest.fixture
def gate() -> Iterator[Gate]:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, SIZE)
    found = Gate(DescriptorExport(fd, writable=True, resizable=True), False)
    yield found
    found.close()


def runs(gate: Gate, channel: Channel) -> RunTransmission:
    return RunTransmission(channel, Session(gate), Counted())


def test_a_file_has_runs_and_what_is_logged_or_locked_has_none(gate: Gate) -> None:
    assert runs(gate, RunChannel(Recorder()))._run is not None
    assert runs(gate, Channel(Recorder()))._run is None
    export = DescriptorExport(os.memfd_create("disk"), writable=True)
    assert runs(Gate(export, False, threading.Lock()), RunChannel(Recorder()))._run is None
    gates = logging.getLogger("nbdfork.backend.gate")
    gates.setLevel(logging.DEBUG)
    try:
        assert runs(Gate(export, False), RunChannel(Recorder()))._run is None
    finally:
        gates.setLevel(logging.NOTSET)
        export.close()


def test_a_disk_that_was_resized_has_none(gate: Gate) -> None:
    stream = Recorder(request(READ, 0, 512), request(READ, SIZE, 512), request(DISC))
    channel = RunChannel(stream)
    transmission = runs(gate, channel)
    gate.resize(SIZE + 512)
    transmission.serve()
    channel.flush()
    assert transmission._run is not None
    assert transmission._run() == 0
    assert len(stream.sent) == 2 * (16 + 512)


def test_a_server_that_ends_refuses_plain_requests_too(gate: Gate) -> None:
    stream = Recorder(request(READ, 0, 512), request(DISC))
    channel = RunChannel(stream)
    runs(gate, channel).refuse()
    channel.flush()
    assert stream.sent[4:8] == struct.pack(">I", 108)


@pytest.mark.parametrize("end", ["stop", "cut"])
def test_once_the_server_ends_nothing_more_is_received(gate: Gate, end: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = RunChannel(ours)
        transmission = runs(gate, channel)
        theirs.sendall(request(READ, 0, 512))
        getattr(channel, end)()
        transmission.serve()
        assert isinstance(transmission._meter, Counted)
        assert transmission._meter.total() == ((1, 512, 0, 0) if end == "stop" else ())


def test_replies_that_the_client_does_not_take_at_once(gate: Gate) -> None:
    assert gate.file is not None
    disk = gate.file.fd
    os.pwrite(disk, random.Random(1).randbytes(65536), 0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        serving = threading.Thread(target=runs(gate, RunChannel(ours)).serve)
        theirs.sendall(request(READ, 0, 65536) * 20 + request(DISC))
        serving.start()
        told = bytearray()
        while len(told) < 20 * (16 + 65536):
            told += theirs.recv(1 << 16)
        serving.join()
    assert told == (struct.pack(">IIQ", 0x67446698, 0, 1) + os.pread(disk, 65536, 0)) * 20


def reset_by_the_client(*sent: bytes) -> socket.socket:
    """Return a connection on which these came before it was reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for piece in sent:
        client.sendall(piece)
    server.recv(1 << 20, socket.MSG_PEEK)  # it has come
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return server


@pytest.mark.parametrize("kind", [Channel, RunChannel])
def test_a_connection_that_is_reset_is_lost_with_either(kind: type[Channel], gate: Gate) -> None:
    with reset_by_the_client(request(WRITE, 0, 3, b"abc")) as server:
        with pytest.raises((Disconnected, CutShort)):
            runs(gate, kind(server)).serve()


def test_what_was_carried_out_is_counted_before_the_time_is_over(gate: Gate) -> None:
    stream = Recorder(*[request(READ, 0, 512) * 3] * 5, request(DISC))
    counted = Counted()
    RunTransmission(RunChannel(stream), Session(gate), counted).serve()
    assert counted.batches == [(3, 1536, 0, 0)] * 5
    assert counted.busy_since > 0
