"""What the tests of the s3 plugin share; without its libraries they are skipped."""

from functools import partial

from tests.support import plugins
from tests.support.harness import need_modules
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY

need_modules("obstore", "botocore")

plugin = partial(plugins.plugin, "s3")
opened = partial(plugins.opening, "s3")


def keys(access: str = ACCESS_KEY, secret: str = SECRET_KEY) -> list[str]:
    return [f"access-key={access}", f"secret-key={secret}"]
