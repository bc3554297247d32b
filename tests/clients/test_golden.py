"""The protocol byte for byte, however the client's bytes are cut into pieces."""

import socket
from pathlib import Path

import pytest

from tests.support import exchange
from tests.support.harness import Server


@pytest.mark.parametrize("path", exchange.files(), ids=lambda path: path.stem)
def test_golden_exchange(path: Path) -> None:
    with Server(*exchange.arguments(path)) as server:
        for steps in exchange.connections(path):
            for piece in (0, 1, 7):
                if piece and sum(len(exchange.sent(parts)) for kind, parts in steps) > 20_000:
                    continue  # byte by byte this one would only take long
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(server.socket))
                    exchange.Player(client).play(steps, piece)


@pytest.mark.parametrize("path", exchange.files(), ids=lambda path: path.stem)
def test_golden_exchange_sent_ahead(path: Path) -> None:
    with Server(*exchange.arguments(path)) as server:
        for steps in exchange.connections(path):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(server.socket))
                exchange.Player(client).play_ahead(steps)
