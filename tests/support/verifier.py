"""A client that writes, and checks what it has written, for as long as a test wants it to."""

import threading
from random import Random
from typing import Any

from tests.support.harness import eventually

BLOCK = 4096
_BLOCKS = 256
_DISTANCE = 128 * 1024  # of two blocks, so that they are in many parts of the disk
SECONDS = 60.0


class Verifier:
    """Writes blocks of the disk of *client*, a handle of libnbd, and reads them back."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._stopping = threading.Event()
        self._written: dict[int, int] = {}
        self._random = Random(7)
        self._rounds = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def goes_on(self) -> None:
        """Return when it has done some more; fail if anything was wrong."""
        wanted = self._rounds + 20
        eventually(lambda: self._failure or self._rounds > wanted, SECONDS)
        assert self._failure is None, self._failure

    def stop(self) -> None:
        """Let it end; fail if anything was wrong."""
        self._stopping.set()
        self._thread.join()
        assert self._failure is None, self._failure

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._write()
                for number in self._random.sample(
                    sorted(self._written), min(4, len(self._written))
                ):
                    self._check(number)
                self._rounds += 1
        except BaseException as error:
            self._failure = error

    def _write(self) -> None:
        number = self._random.randrange(_BLOCKS)
        self._written[number] = self._rounds
        self._client.pwrite(_content(self._rounds), number * _DISTANCE)

    def _check(self, number: int) -> None:
        expected = _content(self._written[number])
        assert self._client.pread(BLOCK, number * _DISTANCE) == expected, number


def _content(number: int) -> bytes:
    return number.to_bytes(8, "little") * (BLOCK // 8)
