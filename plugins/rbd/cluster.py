"""A process's connection to a Ceph cluster, made when it is first used, and images opened by it."""

import configparser
import errno
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from .._link.packages import distributed
from .._link.texts import shown

_KEYRINGS = re.compile(r"[,;\s]+")


_NOISE = re.compile(r"^\[errno \d+\] | at snapshot None|\bb'([^']*)'")
"""In errors: what an OSError says anyway, what is not there, and how Python writes bytes."""


class Target(NamedTuple):
    """Where images are, and how the cluster is spoken to.

    *conf* is a file of Ceph's, or None for the usual places.  *key* is the user's, so that the
    *keyring* need not be read.  *timeout* is in seconds.
    """

    conf: str | None
    monitors: str | None
    user: str
    keyring: str | None
    pool: str
    namespace: str
    timeout: float
    cache: bool
    key: str | None = None

    def settings(self) -> dict[str, str]:
        """Return what is told to librados and librbd beyond the configuration file."""
        seconds = str(math.ceil(self.timeout))
        settings = {
            "admin_socket": "",  # a client's is of no use here, and may be where it cannot be made
            "client_mount_timeout": seconds,
            "rados_mon_op_timeout": seconds,
            "rados_osd_op_timeout": seconds,  # by default, requests wait for ever
            "rbd_cache": "true" if self.cache else "false",
        }
        if self.monitors is not None:
            settings["mon_host"] = self.monitors
        if self.keyring is not None:
            settings["keyring"] = self.keyring
        if self.key is not None:
            settings["key"] = self.key
        return settings


def libraries() -> tuple[ModuleType, ModuleType]:
    """Return the modules of librados and librbd.  Raises `ConfigError` if one is missing."""
    rados = distributed("rados", package="python3-rados", plugin="rbd")
    return rados, distributed("rbd", package="python3-rbd", plugin="rbd")


class Cluster:
    """A connection to the cluster of *target*."""

    def __init__(self, target: Target) -> None:
        self.rados, self.rbd = libraries()
        self._target = target
        self._connecting = threading.Lock()
        self._connection: Any = None
        self._pool: Any = None

    def open(self, image: str, snap: str | None, *, read_only: bool) -> Any:
        """Return librbd's *image*, or its snapshot *snap*.  Raises OSError."""
        pool = self._connected()
        with self.errors():
            return self.rbd.Image(pool, image, snap, read_only)

    def _connected(self) -> Any:
        """Return the pool."""
        with self._connecting:
            if self._pool is None:
                with self.errors():
                    self._connect()
            return self._pool

    def _connect(self) -> None:
        target = self._target
        connection = self.rados.Rados(name=f"client.{target.user}")
        try:
            self._configure(connection)
            connection.connect()
            pool = connection.open_ioctx(target.pool)
            pool.set_namespace(target.namespace)
        except BaseException:
            connection.shutdown()
            raise
        self._connection, self._pool = connection, pool

    def _configure(self, connection: Any) -> None:
        target = self._target
        try:
            connection.conf_read_file(target.conf)  # None is where Ceph's own programs look
        except self.rados.Error as error:
            if target.conf is not None:
                text = f"conf={target.conf} is not a configuration of Ceph"
                raise OSError(errno.EINVAL, text) from error
            if target.monitors is None:
                text = "there is no /etc/ceph/ceph.conf: say conf= or monitors="
                raise OSError(errno.ENOENT, text) from error
        for name, value in target.settings().items():
            connection.conf_set(name, value)

    def key(self) -> str | None:
        """Return the user's key, from where the connection has it; None if it cannot be told."""
        name = f"client.{self._target.user}"
        for path in filter(None, _KEYRINGS.split(self._connection.conf_get("keyring") or "")):
            keyring = configparser.ConfigParser(strict=False, interpolation=None)
            try:
                keyring.read(path)
                return keyring.get(name, "key")
            except (configparser.Error, UnicodeDecodeError):
                continue  # the next one may have it
        return None

    def close(self) -> None:
        """Close the connection, if there is one; the next use makes another."""
        connection, pool = self._connection, self._pool
        self._connection = self._pool = None
        if pool is not None:
            pool.close()
        if connection is not None:
            connection.shutdown()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Make an OSError of what librados and librbd raise."""
        try:
            yield
        except (self.rados.Error, self.rbd.Error) as error:
            raise as_oserror(error) from error


def as_oserror(error: Exception) -> OSError:
    """Return an *error* of librados or librbd as an OSError, with its text in one line."""
    number = abs(getattr(error, "errno", None) or errno.EIO)
    text = _NOISE.sub(r"\1", str(error))
    if number == errno.ESHUTDOWN:  # it is the image that is closed to this client, not the server
        number, text = errno.EIO, f"the cluster takes no more of this client (blocklisted): {text}"
    return OSError(number, shown(text))
