"""The keys that sign requests, and where they come from.

They are looked for where all of Amazon's tools do: in the environment, in ~/.aws, and so on.
Permanent keys are looked up once, when the server starts; temporary ones are looked up and renewed
by each worker.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import botocore.credentials
import botocore.exceptions
import botocore.session

from nbdfork.plugin import ConfigError

if TYPE_CHECKING:
    from obstore.store import S3Credential

_ASK_AGAIN = timedelta(minutes=5)
"""How long temporary keys are used before botocore is asked whether there are newer ones; it
renews them itself when they have a quarter of an hour left."""


class Credentials:
    """Permanent keys."""

    def __init__(self, access_key: str, secret_key: str, token: str | None) -> None:
        self._keys = (access_key, secret_key, token)

    @staticmethod
    def found() -> "Credentials":
        """Look for keys in the usual places.  Raises `ConfigError` if there are none."""
        found = _look()
        if isinstance(found, botocore.credentials.RefreshableCredentials):
            return TemporaryCredentials()
        return Credentials(found.access_key, found.secret_key, found.token)

    def __call__(self) -> "S3Credential":
        """Return the keys in the form that obstore takes."""
        return self._shaped(*self._keys, expires=None)

    def _shaped(
        self, access_key: str, secret_key: str, token: str | None, expires: datetime | None
    ) -> "S3Credential":
        return {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": token,
            "expires_at": expires,
        }


class TemporaryCredentials(Credentials):
    """Keys that expire and are renewed; each worker looks them up itself."""

    def __init__(self) -> None:
        self._found: Any = None

    def __call__(self) -> "S3Credential":
        if self._found is None:
            self._found = _look()
        keys = self._found.get_frozen_credentials()
        again = datetime.now(UTC) + _ASK_AGAIN
        return self._shaped(keys.access_key, keys.secret_key, keys.token, expires=again)


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
