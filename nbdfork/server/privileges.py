"""Become the configured user and group (`-u`, `-g`).

The names are looked up first, before anything is bound or forked, so that a wrong one is told
at once; the change itself comes after all that needs root.
"""

import grp
import logging
import os
import pwd
from typing import NamedTuple

from nbdfork.server.errors import StartupError

log = logging.getLogger(__name__)


class Identity(NamedTuple):
    """Who the server is to be; *user_name* is None for a user without a passwd entry."""

    uid: int
    gid: int
    user_name: str | None


def look_up(user: str | None, group: str | None) -> Identity | None:
    """Return who *user* and *group* (names or numbers) are; None if there is nothing to change.

    With a user alone, the group is that user's own.  Raises `StartupError` for an unknown name, and
    for a user whose group is not known while this is root's.
    """
    if user is None and group is None:
        return None
    uid, gid, name = os.geteuid(), os.getegid(), None
    if user is not None:
        entry = _passwd_entry(user)
        if entry is not None:
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
        else:
            uid = int(user)
            if group is None and gid == 0:
                raise StartupError(
                    f"-u {user}: this user is not in the password file and so has no group; name"
                    " one with -g, or the server would keep that of root"
                )
    if group is not None:
        gid = _group_id(group)
    return Identity(uid, gid, name)


def _passwd_entry(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        pass  # not a name; perhaps a number
    if not _is_id(user):
        raise StartupError(f"-u {user}: there is no such user")
    try:
        return pwd.getpwuid(int(user))
    except KeyError:
        return None


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        pass  # not a name; perhaps a number
    if not _is_id(group):
        raise StartupError(f"-g {group}: there is no such group")
    return int(group)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < 2**32 - 1


def drop_to(identity: Identity) -> None:
    """Become *identity* for good: supplementary groups, group, user, in this order.

    Raises `StartupError` without the permission to do so.
    """
    if _is_current(identity):
        return
    try:
        if identity.user_name is not None:
            os.initgroups(identity.user_name, identity.gid)
        else:
            os.setgroups([identity.gid])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        raise StartupError(
            f"cannot change to user {identity.uid} and group {identity.gid}: {error.strerror}"
            " (the server must be started as root)"
        ) from error


def _is_current(identity: Identity) -> bool:
    """Return whether an ordinary user asks to become who he is, which needs no permission."""
    same_user = set(os.getresuid()) == {identity.uid}
    same_group = set(os.getresgid()) == {identity.gid}
    return os.geteuid() != 0 and same_user and same_group
