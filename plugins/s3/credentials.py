"""The keys that sign requests, and where they come from.

They are looked for where all of Amazon's tools do: in the environment, in ~/.aws, and so on.
Permanent keys are looked up once, when the server starts; temporary ones are looked up and renewed
by each worker.
"""

import os
from typing import Any, NamedTuple

import botocore.credentials
import botocore.exceptions
import botocore.session

from nbdfork.plugin import ConfigError


class Keys(NamedTuple):
    """What a request is signed with; temporary keys have a token."""

    access_key: str
    secret_key: str
    token: str | None


class Credentials:
    """Permanent keys."""

    def __init__(self, access_key: str, secret_key: str, token: str | None) -> None:
        self._keys = Keys(access_key, secret_key, token)

    @staticmethod
    def found() -> "Credentials":
        """Look for keys in the usual places.  Raises `ConfigError` if there are none."""
        found = _look()
        if isinstance(found, botocore.credentials.RefreshableCredentials):
            return TemporaryCredentials()
        return Credentials(found.access_key, found.secret_key, found.token)

    def __call__(self) -> Keys:
        """Return the keys to sign a request with.  Raises OSError or `ConfigError`."""
        return self._keys


class TemporaryCredentials(Credentials):
    """Keys that expire; each worker looks them up itself, and botocore renews them in time."""

    def __init__(self) -> None:
        self._found: Any = None

    def __call__(self) -> Keys:
        try:
            if self._found is None:
                self._found = _look()
            keys = self._found.get_frozen_credentials()
        except botocore.exceptions.BotoCoreError as error:
            raise ConfigError(f"s3: {error}") from error
        return Keys(keys.access_key, keys.secret_key, keys.token)


def configured_region() -> str:
    """Return the region that the environment or ~/.aws/config names, or Amazon's first one."""
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    try:
        return str(named or botocore.session.Session().get_config_variable("region") or "us-east-1")
    except botocore.exceptions.BotoCoreError as error:
        raise ConfigError(f"s3: {error}") from error


def _look() -> Any:
    try:
        found = botocore.session.Session().get_credentials()
    except botocore.exceptions.BotoCoreError as error:
        raise ConfigError(f"s3: {error}") from error
    if found is None:
        raise ConfigError(
            "s3: there are no keys: give access-key= and secret-key=, or have them in"
            " ~/.aws/credentials or the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    return found
