"""The blocksize-policy filter: say which block sizes clients have to keep to.

What the disk below can do is not changed by that.
"""

import errno
from collections.abc import Callable

from nbdfork.filters._around import AroundExport, Kind, Request, T
from nbdfork.filters._values import power_of_2
from nbdfork.plugin import BlockSize, ConfigError, Export, Filter, Needs, Parameter, Server, parse

_ANY = 2**32 - 1


def _maximum(text: str) -> int:
    value = parse.size(text)
    if not 1 <= value <= _ANY:
        raise ValueError("expected a size from 1 to 4G-1")
    return value


class BlockSizePolicy(Filter):
    """say which block sizes clients are to keep to"""

    blocksize_error_policy = Parameter(
        parse.choice("allow", "error", "strict-error"),
        default="allow",
        metavar="allow|error|strict-error",
        help="what becomes of requests that do not keep to them",
    )
    blocksize_minimum = Parameter(
        power_of_2(1, 65536, "from 1 to 64k"),
        metavar="SIZE",
        help="all requests are multiples of it",
    )
    blocksize_preferred = Parameter(
        power_of_2(512, 32 * 1024 * 1024, "from 512 to 32M"),
        metavar="SIZE",
        help="the size that is best",
    )
    blocksize_maximum = Parameter(
        _maximum, metavar="SIZE", help="the most to read or write at once"
    )
    blocksize_write_disconnect = Parameter(
        parse.size, metavar="SIZE", help="end a client that writes more than this at once"
    )

    def needs(self) -> Needs:
        return Needs()

    def config_complete(self) -> None:
        minimum, preferred = self.blocksize_minimum, self.blocksize_preferred
        maximum = self.blocksize_maximum
        if minimum and preferred and minimum > preferred:
            raise ConfigError(
                f"blocksize-policy: blocksize-minimum={minimum} is larger than"
                f" blocksize-preferred={preferred}"
            )
        if minimum and maximum and maximum != _ANY and maximum % minimum:
            raise ConfigError(
                f"blocksize-policy: blocksize-maximum={maximum} is no multiple of"
                f" blocksize-minimum={minimum}"
            )
        if preferred and maximum and preferred > maximum:
            raise ConfigError(
                f"blocksize-policy: blocksize-preferred={preferred} is larger than"
                f" blocksize-maximum={maximum}"
            )

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        minimum, preferred, maximum = next.block_size()
        minimum = self.blocksize_minimum or minimum
        maximum = self.blocksize_maximum or maximum
        if maximum != _ANY:
            maximum = max(minimum, maximum - maximum % minimum)
        preferred = self.blocksize_preferred or min(max(preferred, minimum), maximum)
        sizes = BlockSize(minimum, max(preferred, minimum), maximum)
        most = self.blocksize_write_disconnect
        return PolicyExport(next, sizes, self.blocksize_error_policy, most, self.server)


class PolicyExport(AroundExport):
    """*next* as a disk with the block *sizes*.

    A client that writes more than *most* at once, if that is not None, is ended by the *server*.
    """

    def __init__(
        self, next: Export, sizes: BlockSize, policy: str, most: int | None, server: Server
    ) -> None:
        super().__init__(next)
        self._sizes = sizes
        self._policy = policy
        self._most = most
        self._server = server
        self._end = next.get_size()

    def block_size(self) -> BlockSize:
        return self._sizes

    def is_lenient(self) -> bool:
        return self._policy != "strict-error"

    def around(self, request: Request, do: Callable[[], T]) -> T:
        kind, count, offset, _ = request
        if kind is Kind.WRITE and self._most is not None and count > self._most:
            self._server.disconnect(force=True)
            raise OSError(errno.ESHUTDOWN, f"a write of {count} bytes ends the connection")
        if self._policy == "error":
            self._check(kind, count, offset)
        return do()

    def _check(self, kind: Kind, count: int, offset: int) -> None:
        """Raise OSError with EINVAL for what does not keep to the sizes; the disk's end may."""
        minimum, _, maximum = self._sizes
        reaches_end = offset + count == self._end
        if offset % minimum or (count % minimum and not reaches_end):
            raise OSError(
                errno.EINVAL, f"{count} bytes at {offset} are not aligned to {minimum} bytes"
            )
        if kind in (Kind.READ, Kind.WRITE) and count > maximum:
            raise OSError(errno.EINVAL, f"{count} bytes at once are more than {maximum}")
