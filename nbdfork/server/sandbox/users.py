"""A user for each worker, from a range of numbers: then none can touch what is another's."""

import os
from typing import NamedTuple

from nbdfork.server.errors import StartupError


class Users(NamedTuple):
    """The users with the numbers *first* to *last*.

    They all have the group *gid* and no other; without it, each has the group of its own number.
    """

    first: int
    last: int
    gid: int | None = None

    def check(self, workers: int) -> None:
        """Raise `StartupError` if this process could not give each of *workers* its own."""
        if os.geteuid() != 0:
            raise StartupError("--worker-uids: the server must be started as root")
        there_are = self.last - self.first + 1
        if there_are < workers:
            raise StartupError(
                f"--worker-uids {self.first}-{self.last}: these are {there_are} users, and there"
                f" can be {workers} workers; see --max-clients"
            )

    def become(self, place: int) -> None:
        """Become the user at *place*, for good.  Raises OSError."""
        uid = self.first + place
        gid = uid if self.gid is None else self.gid
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
