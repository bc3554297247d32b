"""A server whose program is replaced while it runs."""

import sys
from pathlib import Path

from tests.support.harness import Server, run

CTL = [sys.executable, "-m", "nbdfork.ctl"]


class Reloadable(Server):
    """A server with a control socket, by the config file in *place* or other *words*."""

    def __init__(self, place: Path, *words: str | Path, within: tuple[str, ...] = ()) -> None:
        self.place = place
        self.control = place / "control"
        super().__init__("--control", self.control, *words, within=within)

    def generation(self) -> int:
        return self.log.count("reloaded: this is generation") + 1

    def reload(self) -> None:
        """Have it reloaded, and wait until the new program is there."""
        done = run(*CTL, "--control", self.control, "reload")
        assert (done.returncode, done.stderr) == (0, "")

    def refusal(self) -> str:
        """Have it reloaded, and return why it is not."""
        done = run(*CTL, "--control", self.control, "reload")
        assert done.returncode == 1
        return done.stderr

    def at(self, name: str) -> str:
        return f"nbd+unix:///{name}?socket={self.socket}"
