"""What the tests of the s3 plugin share; without its libraries they are skipped."""

from functools import partial

from tests.support import plugins
from tests.support.harness import need_modules
from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

need_modules("pycurl", "botocore")

plugin = partial(plugins.plugin, "s3")
opened = partial(plugins.opening, "s3")

OBJECT = 64 << 10
SIZE = 40 * OBJECT
"""How large a disk of many objects is."""


def keys(access: str = ACCESS_KEY, secret: str = SECRET_KEY) -> list[str]:
    return [f"access-key={access}", f"secret-key={secret}"]


def way(store: S3Server, *more: str, bucket: str = BUCKET) -> list[str]:
    """The parameters that lead to the store, with keys that are good."""
    return [f"endpoint-url={store.url}", f"bucket={bucket}", *keys(), *more]


def many(store: S3Server, prefix: str, size: int = SIZE) -> list[str]:
    return way(store, prefix, f"size={size}", f"object-size={OBJECT}")
