"""The s3 plugin: a disk in an object store that speaks S3, as one object or as many.

Nothing is sent to the store before a client connects.  Only a recipe is made here, by which each
worker makes its own connections.
"""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nbdfork.plugin import (
    ConfigError,
    Export,
    Needs,
    Parameter,
    Plugin,
    Secret,
    parse,
    read_password,
)

from .._link.timeout import SILENCE, seconds
from .locks import RangeLocks

if TYPE_CHECKING:
    from .store import Recipe

_SECRET = "|-|+FILENAME|-FD"

_MIN_OBJECT_SIZE = 512
_MAX_OBJECT_SIZE = 1 << 30
"""Limits of object-size=; a write of a part of an object takes memory for the whole object."""


class S3(Plugin):
    """a disk in an object store (S3): one object, or many"""

    bucket = Parameter(str, required=True, metavar="BUCKET", help="the bucket")
    key = Parameter(
        str,
        required=True,
        magic=True,
        metavar="KEY",
        help="the object, or what the keys of all begin with",
    )
    size = Parameter(parse.size, metavar="SIZE", help="the size of a disk made of many objects")
    object_size = Parameter(parse.size, metavar="SIZE", help="the size of each of them")
    endpoint_url = Parameter(str, metavar="URL", help="where the store is, if it is not Amazon's")
    region = Parameter(str, metavar="REGION", help="the region that the bucket is in")
    access_key = Parameter(str, metavar="ACCESS-KEY", help="the access key to log in with")
    secret_key = Secret(
        str, metavar=f"SECRET-KEY{_SECRET}", help="its secret, or where to read that"
    )
    session_token = Secret(
        str, metavar=f"TOKEN{_SECRET}", help="the token of temporary keys, or where to read it"
    )

    timeout = Parameter(seconds, metavar="SECONDS", help="how long a request may take")

    def dump_plugin(self) -> Mapping[str, str]:
        try:
            import pycurl
        except ImportError:
            return {}
        return {"s3_curl_version": pycurl.version_info()[1]}

    def waits(self) -> bool:
        return True

    def config_complete(self) -> None:
        """Check what can be checked without the store, and read the secrets."""
        self._check_names()
        self._check_sizes()
        self._endpoint = (
            self.endpoint_url
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
        )
        if self._endpoint is not None:
            _check_endpoint(self._endpoint)
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("s3: access-key= and secret-key= must be given together")
        if self.session_token is not None and self.access_key is None:
            raise ConfigError("s3: session-token= needs access-key= and secret-key=")
        self._secrets = {
            key: read_password(f"s3: {key}", text)
            for key, text in (
                ("secret-key", self.secret_key),
                ("session-token", self.session_token),
            )
            if text is not None
        }

    def _check_names(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", self.bucket):
            raise ConfigError(f"s3: bucket={self.bucket}: not the name of a bucket")
        if not all(part not in ("", ".", "..") for part in self.key.split("/")):
            raise ConfigError(
                f"s3: key={self.key}: parts between slashes may not be empty, '.' or '..'"
            )

    def _check_sizes(self) -> None:
        if (self.size is None) != (self.object_size is None):
            raise ConfigError("s3: size= and object-size= must be given together, or neither")
        if self.object_size is not None and not (
            _MIN_OBJECT_SIZE <= self.object_size <= _MAX_OBJECT_SIZE
        ):
            raise ConfigError(
                f"s3: object-size={self.object_size}: it must be from 512 bytes to 1 GiB"
            )

    def get_ready(self) -> None:
        """Make the recipe, and the locks by which writers of one object exclude each other."""
        self._recipe = self._make_recipe()
        self._locks = RangeLocks()

    def _make_recipe(self) -> "Recipe":
        try:
            from .credentials import Credentials, configured_region
            from .store import Recipe
        except ImportError as error:
            if error.name not in ("botocore", "pycurl"):
                raise
            message = f'the s3 plugin needs {error.name}: pip install "nbdfork[s3]"'
            raise ConfigError(message) from None
        if self.access_key is None:
            credentials = Credentials.found()
        else:
            secrets = self._secrets
            credentials = Credentials(
                self.access_key, secrets["secret-key"], secrets.get("session-token")
            )
        return Recipe(
            bucket=self.bucket,
            endpoint=self._endpoint,
            region=self.region or configured_region(),
            certificates=_certificates(),
            credentials=credentials,
            timeout=self.timeout,
            silence=self.timeout or SILENCE,
        )

    def needs(self) -> Needs:
        from .credentials import TemporaryCredentials

        # A program may be configured that finds the next ones.
        runs = isinstance(self._recipe.credentials, TemporaryCredentials)
        return Needs(network=True, programs=runs)

    def open(self, export_name: str, read_only: bool) -> Export:
        from .many import Objects
        from .single import Object
        from .store import Store

        store = Store(self._recipe, self.server)
        try:
            if self.size is None or self.object_size is None:
                return Object(store, self.key)
            return Objects(store, self.key, self.size, self.object_size, self._locks)
        except BaseException:
            store.close()
            raise


def _check_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"s3: endpoint-url={url}: write https://HOST or http://HOST:PORT")
    if parts.username or parts.password:
        raise ConfigError("s3: endpoint-url=: keys do not belong there: give access-key=")


def _certificates() -> bytes | None:
    """Return the certificates in the file that AWS_CA_BUNDLE names, as all tools for S3 do."""
    path = os.environ.get("AWS_CA_BUNDLE")
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"s3: AWS_CA_BUNDLE={path}: {error.strerror}") from error
