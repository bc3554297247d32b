"""Scripts of the python plugin: the same under nbdkit and nbdfork."""

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.beside import SERVED_BY, both
from tests.support.harness import eventually
from tests.support.libnbd import attempt, connect
from tests.support.paths import SCRIPTS
from tests.support.python_scripts import script
from tests.support.scripting import facts, operations

FUA = 1


NO_HOLE = 2


# -- both servers ------------------------------------------------------------------------------


def contains(path: Path, text: str) -> bool:
    return text in path.read_text()


# -- side by side ------------------------------------------------------------------------------


CASES = {
    "v1": ["v1_ramdisk.py", "size=2M"],
    "v2": ["v2_ramdisk.py", "size=2M"],
    "all": ["all_callbacks.py", "calls=/dev/null"],
    "zero": ["zero_not_supported.py", "quiet=0"],
    "zero, quiet": ["zero_not_supported.py", "quiet=1"],
    "names": ["named_exports.py"],
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_bytes_and_errors_as_under_nbdkit(tmp_path: Path, case: str) -> None:
    name, *parameters = CASES[case]
    theirs, ours = both(tmp_path, operations, "python", SCRIPTS / name, *parameters)
    assert ours == theirs


@pytest.mark.parametrize("case", CASES)
def test_the_same_facts_as_under_nbdkit(tmp_path: Path, case: str) -> None:
    name, *parameters = CASES[case]
    theirs, ours = both(tmp_path, facts, "python", SCRIPTS / name, *parameters)
    assert ours == theirs


HOW = ["exception", "oserror_set", "exit", str(errno.ENOSPC), str(errno.EPERM),
       str(errno.E2BIG), str(errno.ESHUTDOWN), str(errno.ENOMEM), "0"]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_the_same_errno_as_under_nbdkit(tmp_path: Path, how: str) -> None:
    arguments: list[str | Path] = [SCRIPTS / "failing_callbacks.py", f"how={how}"]
    theirs, ours = both(tmp_path, operations, "python", *arguments)
    if how == str(errno.ENOENT):  # which the protocol lacks: nbdkit blames the client for it
        blamed = [key for key in theirs if theirs[key] == "EINVAL" and "past the end" not in key]
        assert blamed
        theirs |= dict.fromkeys(blamed, "EIO")
    assert ours == theirs


def test_what_is_missing_is_no_mistake_of_the_client(tmp_path: Path) -> None:
    """For nbdkit it is: it says EINVAL."""
    arguments: list[str | Path] = [SCRIPTS / "failing_callbacks.py", f"how={errno.ENOENT}"]
    theirs, ours = both(tmp_path, operations, "python", *arguments)
    differences = {(theirs[key], ours[key]) for key in theirs if theirs[key] != ours[key]}
    assert differences == {("EINVAL", "EIO")}
    assert theirs["past the end"] == ours["past the end"] == "EINVAL"


VARIANTS = {
    "only reading": "",
    "a write": "def pwrite(h, b, o, f): pass",
    "a flush without a write": "def flush(h, f): pass",
    "write, flush and trim": "def pwrite(h, b, o, f): pass\n"
    "def flush(h, f): pass\ndef trim(h, c, o, f): pass",
    "a zero": "def pwrite(h, b, o, f): pass\ndef zero(h, c, o, f): pass",
    "a cache": "def cache(h, c, o, f): pass",
    "can_zero is False": "def pwrite(h, b, o, f): pass\ndef can_zero(h): return False",
    "fast zero": "def pwrite(h, b, o, f): pass\ndef can_fast_zero(h): return True",
    "emulated": "def can_cache(h): return 1\ndef pwrite(h, b, o, f): pass\n"
    "def can_fua(h): return nbdkit.FUA_EMULATE",
    "numbers are not True": "def can_multi_conn(h): return 1\ndef is_rotational(h): return 'yes'",
    "yes": "def can_multi_conn(h): return True\ndef is_rotational(h): return True",
    "one connection": "def can_multi_conn(h): return True\n"
    "def thread_model(): return nbdkit.THREAD_MODEL_SERIALIZE_CONNECTIONS",
    "says it can": "def can_write(h): return True\ndef can_flush(h): return True\n"
    "def can_trim(h): return True\ndef can_cache(h): return 2\n"
    "def pwrite(h, b, o, f): pass",
    "variables of these names": "def pwrite(h, b, o, f): pass\nflush = 5\nzero = None\ncache = {}",
    "block sizes": "def block_size(h): return (512, 4096, 65536)",
    "no block sizes": "def block_size(h): return (0, 0, 0)",
    "a size that is a bool": "def get_size(h): return True",
    "a description that is none": "def export_description(h): return None",
    "a description that fails": "def export_description(h): 1/0",
    "a default name": "def default_export(r, t): return 'd'",
    "names without descriptions": "def list_exports(r, t): return iter('ab')",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_facts_of_what_a_script_has_and_says(tmp_path: Path, variant: str) -> None:
    path = script(tmp_path, VARIANTS[variant])
    theirs, ours = both(tmp_path, lambda uri: (facts(uri), operations(uri)), "python", path)
    assert ours == theirs


def test_the_same_callbacks_are_called_in_the_same_order(tmp_path: Path) -> None:
    def use(uri: str) -> list[object]:
        client = connect(uri)
        client.pwrite(b"x" * 512, 0, FUA)
        client.pread(512, 0)
        client.flush()
        client.trim(512, 0, FUA)
        client.zero(512, 0)
        client.zero(512, 0, NO_HOLE)
        client.cache(512, 0)
        name = client.get_export_name()
        client.shutdown()
        return [name]

    written = []
    for number, served in enumerate(SERVED_BY):
        calls = tmp_path / f"calls{number}"
        script = SCRIPTS / "all_callbacks.py"
        with served(tmp_path, "python", script, f"calls={calls}", "other=1") as uri:
            use(uri)
            eventually(partial(contains, calls, "\nclose\n"))
        written.append(calls.read_text().splitlines())
    assert "cleanup" in written[0]
    assert written[1] == written[0]


def test_both_versions_refuse_the_same_names(tmp_path: Path) -> None:
    def use(uri: str) -> list[object]:
        uris = [uri.replace(":///", f":///{name}") for name in ("", "red", "blue", "nosuch")]
        return [attempt(lambda uri=uri: connect(uri).pread(8, 0)) for uri in uris]  # type: ignore[misc]

    theirs, ours = both(tmp_path, use, "python", SCRIPTS / "named_exports.py")
    assert theirs == [b"greengre", b"redredre", b"bluebluebl"[:8], "ENOENT"]
    assert ours == theirs


S3 = Path("/usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-S3-plugin")


BOTO3 = """\
import io
from botocore.exceptions import ClientError
objects = {}
def client(*arguments, **keywords): return Client()
class Client:
    def get_object(self, Bucket, Key, Range):
        if Key not in objects:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "get_object")
        first, last = Range.removeprefix("bytes=").split("-")
        return {"Body": io.BytesIO(objects[Key][int(first):int(last) + 1])}
    def put_object(self, Bucket, Key, Body):
        objects[Key] = bytes(Body)
    def delete_objects(self, Bucket, Delete):
        for one in Delete["Objects"]:
            objects.pop(one["Key"])
        return {}
    def list_objects_v2(self, Bucket, Prefix, StartAfter):
        keys = [key for key in sorted(objects) if key.startswith(Prefix) and key > StartAfter]
        return {"Contents": [{"Key": key} for key in keys], "IsTruncated": False}
"""


BOTOCORE = """\
class ClientError(Exception):
    def __init__(self, response, operation): self.response = response
class ReadTimeoutError(Exception): pass
class ConnectTimeoutError(Exception): pass
class ConnectionClosedError(Exception): pass
"""


def test_the_script_that_comes_with_nbdkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The S3 plugin of nbdkit, with a store of objects in memory in the place of Amazon's."""
    if not S3.exists():
        pytest.skip(f"not installed: {S3}")
    (tmp_path / "boto3.py").write_text(BOTO3)
    (tmp_path / "botocore").mkdir()
    (tmp_path / "botocore" / "exceptions.py").write_text(BOTOCORE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def use(uri: str) -> list[object]:
        client = connect(uri)
        block = 4096
        steps: list[Callable[[], object]] = [
            *(partial(client.pwrite, bytes([n]) * block, n * block, FUA) for n in range(8)),
            lambda: client.trim(2 * block, block),
            lambda: client.zero(block, 5 * block, NO_HOLE),
            client.flush,
            *(partial(client.pread, block, n * block) for n in range(9)),
        ]
        return [facts(uri), *map(attempt, steps)]

    arguments: list[str | Path] = [S3, "bucket=b", "key=k", "size=1M", "object-size=4k"]
    theirs, ours = both(tmp_path, use, "python", *arguments)
    assert theirs[-2] == b"\7" * 4096
    assert ours == theirs
