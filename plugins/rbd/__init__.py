"""The rbd plugin: an image of a Ceph cluster, by librbd.

Each client gets a connection of its own to the cluster, made in its worker: librados starts
threads, which no fork takes along.
"""

import os
import re
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from nbdfork.plugin import ConfigError, Export, ExportInfo, Needs, Parameter, Plugin, parse

from .._link.timeout import SILENCE, some_seconds
from .child import in_child
from .cluster import Cluster, Target, libraries
from .image import Image

_SPEC = re.compile(
    r"(?:(?P<pool>[^/@]+)/(?:(?P<namespace>[^/@]+)/)?)?(?P<image>[^/@]+)(?:@(?P<snap>[^/@]+))?"
)


class _Spec(NamedTuple):
    """An image as `rbd` names it: [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]."""

    image: str
    pool: str | None = None
    namespace: str | None = None
    snap: str | None = None


def _spec(text: str) -> _Spec:
    if (match := _SPEC.fullmatch(text)) is None:
        raise ValueError("expected an image as [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]")
    return _Spec(**match.groupdict())


def _name(text: str) -> str:
    if not text or any(character in text for character in "/@\0"):
        raise ValueError('expected a name, without "/" and "@"')
    return text


def _monitors(text: str) -> str:
    if not text.strip():
        raise ValueError("expected addresses, as in 192.0.2.1:6789,192.0.2.2")
    return text


class Rbd(Plugin):
    """an image of a Ceph cluster"""

    image = Parameter(
        _spec,
        magic=True,
        required=True,
        metavar="IMAGE",
        help="the image, as [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]",
    )
    pool = Parameter(_name, metavar="POOL", help="the pool it is in (rbd)")
    namespace = Parameter(_name, metavar="NAME", help="the pool's namespace that it is in")
    snap = Parameter(_name, metavar="NAME", help="serve this snapshot of it, read-only")
    snapshots = Parameter(
        parse.boolean,
        default=False,
        metavar="BOOL",
        help="serve its snapshots too, by their names as export names",
    )
    conf = Parameter(
        parse.path, metavar="FILENAME", help="Ceph's configuration (/etc/ceph/ceph.conf)"
    )
    monitors = Parameter(_monitors, metavar="ADDRESSES", help="the monitors, if conf has none")
    user = Parameter(_name, default="admin", metavar="NAME", help="the user, without client.")
    keyring = Parameter(parse.path, metavar="FILENAME", help="the keyring with the user's key")
    timeout = Parameter(
        some_seconds,
        default=SILENCE,
        metavar="SECONDS",
        help="how long the cluster may take for a request, or to connect",
    )
    exclusive = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="keep all others from writing the image"
    )
    write_back = Parameter(
        parse.boolean,
        key="cache",
        default=False,
        metavar="BOOL",
        help="let librbd keep what is written until it is flushed",
    )
    resizable = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="let clients change the image's size"
    )

    def waits(self) -> bool:
        return True

    def has_named_exports(self) -> bool:
        return self.snapshots

    # -- when the server starts ---------------------------------------------------------

    def config_complete(self) -> None:
        for key in ("pool", "namespace", "snap"):
            if getattr(self.image, key) is not None and getattr(self, key) is not None:
                raise ConfigError(f"rbd: image= names a {_WORDS[key]} already: leave out {key}=")
        spec = self.image
        self._snap = spec.snap or self.snap
        if self._snap is not None and self.snapshots:
            raise ConfigError("rbd: snapshots=true serves all of them: give no snapshot besides")
        if self._snap is not None and (self.exclusive or self.resizable):
            raise ConfigError("rbd: a snapshot cannot be written: no exclusive= or resizable=")
        for key in ("conf", "keyring"):
            path = getattr(self, key)
            if path is not None and not os.path.isfile(path):
                raise ConfigError(f"rbd: {key}={path}: there is no such file")
        self._target = Target(
            conf=self.conf,
            monitors=self.monitors,
            user=self.user,
            keyring=self.keyring,
            pool=spec.pool or self.pool or "rbd",
            namespace=spec.namespace or self.namespace or "",
            timeout=self.timeout,
            cache=self.write_back,
        )

    def get_ready(self) -> None:
        """Open the image once, while the user can still be told what is wrong.

        The key is kept: in the workers, the server's user may not be able to read it.
        """
        libraries()  # imported once, for all
        try:
            key = in_child(self._look)
        except OSError as error:
            raise ConfigError(f"rbd: {error.strerror}") from error
        self._target = self._target._replace(key=key)

    def _look(self) -> str | None:
        """Return the user's key, having opened the image.  Raises OSError."""
        with closing(Cluster(self._target)) as cluster:
            self._opened(cluster, self._snap, read_only=True).close()
            return cluster.key()

    def needs(self) -> Needs:
        return Needs(network=True, read=frozenset({self.conf or "/etc/ceph"}))

    # -- in a worker --------------------------------------------------------------------

    def after_fork(self) -> None:
        self._cluster = Cluster(self._target)

    def list_exports(self, read_only: bool) -> Iterator[ExportInfo]:
        yield ExportInfo("", self._shown(self._snap))
        if self.snapshots:
            with closing(self._opened(self._cluster, None, read_only=True)) as image:
                names = image.snapshots()
            for name in names:
                yield ExportInfo(name, self._shown(name))

    def open(self, export_name: str, read_only: bool) -> Export:
        snap = (export_name or None) if self.snapshots else self._snap
        image = self._opened(self._cluster, snap, read_only=read_only)
        if self.exclusive and image.can_write():
            try:
                image.lock()
            except BaseException:
                image.close()
                raise
        return image

    def cleanup(self) -> None:
        self._cluster.close()

    def _opened(self, cluster: Cluster, snap: str | None, *, read_only: bool) -> Image:
        """Open the image or one of its snapshots.  Raises OSError, ENOENT if it is not there."""
        read_only = read_only or snap is not None
        image = cluster.open(self.image.image, snap, read_only=read_only)
        try:
            return Image(
                cluster,
                image,
                writable=not read_only,
                resizable=self.resizable,
                shown=self._shown(snap),
            )
        except BaseException:
            image.close()
            raise

    def _shown(self, snap: str | None) -> str:
        parts = (self._target.pool, self._target.namespace, self.image.image)
        return "/".join(part for part in parts if part) + (f"@{snap}" if snap else "")


_WORDS = {"pool": "pool", "namespace": "namespace", "snap": "snapshot"}
