"""Scripts of the sh and eval plugins: the same under nbdkit and nbdfork."""

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.support.beside import SERVED_BY, both
from tests.support.harness import (
    eventually,
    run,
)
from tests.support.libnbd import attempt, connect, libnbd
from tests.support.scripting import facts
from tests.support.sh import DISK, MIB, MINIMUM, as_eval, ends, script

# -- side by side ------------------------------------------------------------------------------


def test_a_disk_is_the_same_as_under_nbdkit(tmp_path: Path) -> None:
    theirs, ours = both(tmp_path, ends, "sh", script(tmp_path, DISK))
    assert ours == theirs
    assert ours[1]["write"] is None


def test_the_same_disk_by_eval(tmp_path: Path) -> None:
    given = {method: text for method, text in DISK.items() if not method.startswith("can_")}
    theirs, ours = both(tmp_path, ends, *as_eval(given))
    assert ours == theirs
    assert ours[1]["write"] is None


VARIANTS = {
    "the least": {},
    "only a write": {"can_write": "", "pwrite": "cat >/dev/null"},
    "a flush": {"can_write": "", "pwrite": "cat >/dev/null", "can_flush": "", "flush": ""},
    "says no": {"can_write": "exit 3", "can_flush": "exit 3", "is_rotational": "exit 3"},
    "says it can": {"can_write": "", "can_flush": "", "can_trim": ""},
    "native": {"can_write": "", "can_fua": "echo native", "can_cache": "echo native"},
    "emulated": {"can_write": "", "can_fua": "echo emulate", "can_cache": "echo emulate"},
    "emulated, with flush": {"can_write": "", "can_flush": "", "can_fua": "echo emulate"},
    "none": {"can_write": "", "can_flush": "", "can_fua": "echo none", "can_cache": "echo none"},
    "yes": {"can_multi_conn": "", "is_rotational": ""},
    "fast": {"can_write": "", "pwrite": "cat >/dev/null", "can_zero": "", "can_fast_zero": "",
             "zero": "echo ENOTSUP no >&2; exit 1"},
    "block sizes": {"block_size": "echo 512 4k 1M"},
    "block sizes and more": {"block_size": "echo 1 4k 1M more"},
    "no block sizes": {"block_size": "echo 0 0 0"},
    "a description": {"export_description": "echo A disk; echo of two lines"},
    "a description that is too long": {
        "export_description": "head -c 5000 /dev/zero | tr '\\0' x"
    },
    "a description that fails": {"export_description": "exit 1"},
    "a handle of two lines": {"open": "echo one; echo two", "export_description": 'echo "$2"'},
    "arguments": {"open": 'echo "$@"', "export_description": 'echo "$2, $#"'},
    "statuses": {"is_rotational": "exit 2", "can_multi_conn": "exit 3", "close": "exit 1",
                 "preconnect": "exit 2", "get_ready": "echo 'nothing wrong' >&2"},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_facts_as_under_nbdkit(tmp_path: Path, variant: str) -> None:
    path = script(tmp_path, MINIMUM | VARIANTS[variant])
    theirs, ours = both(tmp_path, ends, "sh", path)
    assert ours == theirs


SAID = {
    # These come first: later, nbdkit would say what the request before has said.
    "head -c $(($3 - 1)) /dev/zero": "EIO",
    "head -c $(($3 + 1)) /dev/zero": "EIO",
    "exit 3": "EIO",
    "exit 2": "EIO",
    "printf EPERM >&2; exit 1": "EPERM",
    "echo EIO >&2; exit 1": "EIO",
    "echo ENOMEM no >&2; exit 1": "ENOMEM",
    "echo EINVAL no >&2; exit 1": "EINVAL",
    "echo ENOSPC no space >&2; exit 1": "ENOSPC",
    "echo EOVERFLOW no >&2; exit 1": "EINVAL",
    "echo ESHUTDOWN no >&2; exit 1": "ESHUTDOWN",
    "echo ENOTSUP no >&2; exit 1": "EINVAL",
    "echo EROFS no >&2; exit 1": "EPERM",
    "echo EDQUOT no >&2; exit 1": "ENOSPC",
    "echo EFBIG no >&2; exit 1": "ENOSPC",
    "echo enospc small >&2; exit 1": "ENOSPC",
    "echo ENOENT not one of them >&2; exit 1": "EIO",
    "echo ENOSPCE >&2; exit 1": "EIO",
    "echo ENOSPC: colon >&2; exit 1": "EIO",
    "echo ' ENOSPC blank' >&2; exit 1": "EIO",
    "echo trouble >&2; echo ENOSPC >&2; exit 1": "EIO",
    "printf 'ENOSPC\\tTab\\nmore' >&2; exit 1": "ENOSPC",
    "exit 1": "EIO",
    "echo ENOSPC >&2; exit 4": "ENOSPC",
    "echo ENOSPC >&2; exit 7": "ENOSPC",
    "echo ENOSPC >&2; exit 8": "ENOSPC",
    "echo ENOSPC >&2; exit 127": "ENOSPC",
    "echo ENOSPC >&2; exit 200": "ENOSPC",
    "echo ENOSPC >&2; kill -9 $$": "ENOSPC",
    "kill -9 $$": "EIO",
    "echo ENOSPC >&2; head -c $3 /dev/zero": None,
}
"""What a pread does, by offset in units of 512 bytes, and the error that a client gets."""


def test_the_same_errors_as_under_nbdkit(tmp_path: Path) -> None:
    cases = "\n".join(f"{n * 512}) {text} ;;" for n, text in enumerate(SAID))
    path = script(tmp_path, MINIMUM | {"pread": f"case $4 in {cases} esac"})

    def use(uri: str) -> dict[str, object]:
        client = connect(uri)
        found = {}
        for number, text in enumerate(SAID):
            found[text] = attempt(partial(client.pread, 512, number * 512))
        client.shutdown()
        return found

    theirs, ours = both(tmp_path, use, "sh", path)
    assert ours == theirs
    assert ours == {text: name or bytes(512) for text, name in SAID.items()}


LISTS = {
    "plain": "echo a; echo b",
    "none": "",
    "names": "echo NAMES; echo a; echo 'b c'",
    "empty names": "echo; echo a",
    "interleaved": "echo INTERLEAVED; echo a; echo A; echo b; echo B",
    "interleaved, descriptions without": "printf 'INTERLEAVED\\na\\n\\nb\\n'",
    "and descriptions": "echo NAMES+DESCRIPTIONS; echo a; echo b; echo A; echo B",
    "and descriptions, odd": "echo NAMES+DESCRIPTIONS; echo a; echo b; echo A",
    "only the mode": "echo INTERLEAVED",
    "unknown mode": "echo OTHER; echo a",
    "missing": "exit 2",
    "failing": "exit 1",
}


@pytest.mark.parametrize("case", LISTS)
def test_the_same_lists_of_exports_as_under_nbdkit(tmp_path: Path, case: str) -> None:
    def use(uri: str) -> object:
        done = run("nbdinfo", "--json", "--list", uri)
        described = facts(uri) if done.returncode == 0 else done.returncode
        return described, attempt(lambda: connect(uri).get_canonical_export_name())

    methods = MINIMUM | {"list_exports": LISTS[case], "default_export": LISTS[case]}
    theirs, ours = both(tmp_path, use, "sh", script(tmp_path, methods))
    assert ours == theirs


EXTENTS = {
    "words": "echo 0 512 hole; echo 512 1k zero; echo 1536 1M hole,zero",
    "numbers": "echo 0 1k 0; echo 1k 1k 3; echo 2k 1M 1",
    "no type": "echo 0 1M",
    "other words": "echo 0 1M data,zero",
    "blanks": "printf ' 0 \\t 1M   hole\\n'",
    "missing": "exit 2",
    "gap": "echo 0 512; echo 1024 1M",
    "too late": "echo 512 1M",
    "one field": "echo 0",
    "no number": "echo a b",
    "nothing": "",
    "failing": "echo ENOMEM >&2; exit 1",
}


@pytest.mark.parametrize("case", EXTENTS)
def test_the_same_extents_as_under_nbdkit(tmp_path: Path, case: str) -> None:
    def use(uri: str) -> object:
        client = libnbd().NBD()
        client.add_meta_context(libnbd().CONTEXT_BASE_ALLOCATION)
        client.connect_uri(uri)
        found: list[int] = []
        failed = attempt(lambda: client.block_status(MIB, 0, lambda *told: found.extend(told[2])))
        client.shutdown()
        return failed, found

    methods = MINIMUM | {"can_extents": "exit 0", "extents": EXTENTS[case]}
    theirs, ours = both(tmp_path, use, "sh", script(tmp_path, methods))
    assert ours == theirs


def test_the_same_calls_as_under_nbdkit(tmp_path: Path) -> None:
    """Each method is called as often, with the same arguments; their order may differ."""

    def use(uri: str) -> None:
        client = connect(uri)
        client.pwrite(b"x" * 512, 1024, 1)
        client.pread(512, 0)
        client.zero(512, 0, 2)
        client.zero(512, 512)
        client.trim(512, 0)
        client.shutdown()
        eventually(lambda: "\nclose" in calls.read_text())

    calls = tmp_path / "calls"
    log = f'echo "$@" >>{calls}'
    methods = {method: f"{log}; {text}" for method, text in DISK.items()}
    methods |= {"magic_config_key": "echo file", "config": log, "open": f"{log}; echo handle"}
    methods |= {"close": log, "cache": log, "*": f"{log}; exit 2"}
    found = []
    for served in SERVED_BY:
        calls.write_text("")
        path = script(tmp_path, methods)
        with served(tmp_path, "sh", path, "key=value", "bare argument") as uri:
            use(uri)
        found.append(Counter(calls.read_text().splitlines()))
    theirs, ours = found
    assert ours["config file bare argument"] == 1
    for times in found:  # asked for by one of the two only, or more than once
        for line in (
            "default_export false false",
            "export_description handle",
            "can_extents handle",
        ):
            del times[line]
    assert ours == theirs
    assert ours["unload"] == ours["after_fork"] == ours["load"] == 1
