"""Several requests of one client at the same time; what real clients see is in `clients`."""

import os
import signal
import socket
import threading

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.plugin import Export
from nbdfork.protocol.errors import CutShort
from nbdfork.protocol.parallel import ParallelTransmission, SharedChannel
from nbdfork.protocol.transmission import Session
from tests.support.harness import eventually
from tests.support.requests import Counted, request

SIGNAL = signal.SIGUSR1


class Slow(Export):
    """Answers when it may."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.may_go_on = threading.Event()

    def get_size(self) -> int:
        return 1 << 20

    def pread(self, count: int, offset: int) -> bytes:
        self.begun.release()
        assert self.may_go_on.wait(30)
        return bytes(count)


@pytest.mark.parametrize("more", [b"", request(0, 0, 512)[:9]], ids=["nothing", "half a header"])
def test_a_client_that_leaves_while_others_are_at_work_is_cut_short(more: bytes) -> None:
    """Whichever thread notices first."""
    ours, theirs = socket.socketpair()
    disk = Slow()
    channel = SharedChannel(ours)
    serving = ParallelTransmission(channel, Session(Gate(disk, read_only=False)), Counted(), 4)

    def leave() -> None:
        theirs.sendall(request(0, 0, 512) * 2 + more)
        for _ in range(2):
            assert disk.begun.acquire(timeout=30)
        theirs.close()
        disk.may_go_on.set()

    client = threading.Thread(target=leave)
    client.start()
    with pytest.raises(CutShort):
        serving.serve()
    client.join()
    channel.close()


class Disk(Export):
    """Lets the main thread finish a request only when another thread has begun to receive."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2)
        self.receiving: threading.Lock

    def get_size(self) -> int:
        return 1 << 20

    def pread(self, count: int, offset: int) -> bytes:
        self.both.wait()
        if threading.current_thread() is threading.main_thread():
            eventually(self.receiving.locked)
        return bytes(count)


def test_a_stop_signal_that_does_not_wake_the_main_thread_is_seen() -> None:
    """It is blocked there, which is as if it came between the last check and the system call."""
    ours, theirs = socket.socketpair()
    disk = Disk()
    channel = SharedChannel(ours)
    serving = ParallelTransmission(channel, Session(Gate(disk, read_only=False)), Counted(), 2)
    disk.receiving = serving._receiving

    def send_signal() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
        eventually(lambda: serving._idle)  # the main thread waits for its turn to receive
        os.kill(os.getpid(), SIGNAL)

    previous = signal.signal(SIGNAL, lambda *_: channel.stop())
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNAL})
    sender = threading.Thread(target=send_signal)
    try:
        theirs.sendall(request(0, 0, 512) * 2)
        sender.start()
        serving.serve()  # ends, though the client stays
    finally:
        sender.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
        signal.signal(SIGNAL, previous)
        theirs.close()
        channel.close()
