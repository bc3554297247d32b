"""The extension module for C plugins, used wrongly: each mistake is an exception, and no crash."""

import copy
import gc
import mmap
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nbdfork.plugins.c.library import CallbackError, _log, native

from tests.support.c_plugins import Build, builder, need_native
from tests.support.harness import SECONDS, run

WAITS, SAYS = 512, 1024
"""Offsets that the sample `handles` knows."""

need_native()


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return builder(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(scope="module")
def plugin(build: Build) -> Path:
    return build("handles")


@pytest.fixture
def library(plugin: Path) -> Any:
    return native().Library(str(plugin))


@pytest.fixture
def client(library: Any) -> Iterator[Any]:
    client = library.open("", False)
    yield client
    with suppress(ValueError):  # the plugin may have been unloaded
        client.close()


@pytest.fixture
def hooks() -> Iterator[Callable[[Any, Any], None]]:
    """What sets other hooks for the time of the test."""
    yield native().set_hooks
    native().set_hooks(_log, CallbackError)
    native().set_verbose(False)


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start *function* in a thread; return what waits for it and returns what it did."""
    outcome: list[Any] = []
    error: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as raised:
            error.append(raised)

    thread = threading.Thread(target=work)
    thread.start()

    def finish() -> Any:
        thread.join(SECONDS)
        assert not thread.is_alive()
        if error:
            raise error[0]
        return outcome[0]

    return finish


def directly(function: Callable[[], Any]) -> Callable[[], Any]:
    return function


CLIENT_CALLS: dict[str, tuple[Any, ...]] = {
    "ask": ("can_write",),
    "get_size": (),
    "block_size": (),
    "export_description": (),
    "pread": (512, 0),
    "pwrite": (b"data", 0, 0),
    "flush": (),
    "trim": (512, 0, 0),
    "zero": (512, 0, 0),
    "cache": (512, 0),
    "extents": (512, 0, 0),
    "close": (),
}
"""All methods of a Client, with arguments that are right."""

LIBRARY_CALLS: dict[str, tuple[Any, ...]] = {
    "run": ("get_ready",),
    "config": ("go", "1"),
    "preconnect": (False,),
    "list_exports": (False,),
    "default_export": (False,),
    "open": ("", False),
}
"""The methods of a Library that call callbacks."""

REQUESTS = ("pread", "pwrite", "trim", "zero", "cache", "extents")


def methods(kind: Any) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_") and callable(vars(kind)[name])}


def test_the_tables_have_all_methods() -> None:
    assert methods(native().Client) == CLIENT_CALLS.keys()
    plain = {"callbacks", "get_variable", "set_variable"}
    assert methods(native().Library) == LIBRARY_CALLS.keys() | plain


@pytest.mark.parametrize("version", [1, 2])
def test_every_method_works_on_an_open_handle(version: int, build: Build) -> None:
    library = native().Library(str(build("handles", f"-DAPI={version}")))
    for name, arguments in LIBRARY_CALLS.items():
        getattr(library, name)(*arguments)
    client = library.open("one", True)
    for name, arguments in CLIENT_CALLS.items():
        getattr(client, name)(*arguments)


# -- closed handles ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CLIENT_CALLS.keys() - {"close"}))
@pytest.mark.parametrize("way", [directly, in_thread])
def test_a_closed_client_is_asked_nothing(name: str, way: Any, client: Any) -> None:
    client.close()
    client.close()
    with pytest.raises(ValueError, match="the client is closed"):
        way(lambda: getattr(client, name)(*CLIENT_CALLS[name]))()


@pytest.mark.parametrize("name", CLIENT_CALLS)
def test_a_client_of_an_unloaded_plugin_is_asked_nothing(
    name: str, library: Any, client: Any
) -> None:
    library.run("unload")
    with pytest.raises(ValueError, match="the plugin handles has been unloaded"):
        getattr(client, name)(*CLIENT_CALLS[name])


@pytest.mark.parametrize("name", LIBRARY_CALLS)
@pytest.mark.parametrize("way", [directly, in_thread])
def test_an_unloaded_plugin_is_asked_nothing(name: str, way: Any, library: Any) -> None:
    library.run("unload")
    with pytest.raises(ValueError, match="the plugin handles has been unloaded"):
        way(lambda: getattr(library, name)(*LIBRARY_CALLS[name]))()
    assert "open" in library.callbacks()
    assert library.name == "handles"


def test_a_client_keeps_its_library(plugin: Path) -> None:
    client = native().Library(str(plugin)).open("", False)
    gc.collect()
    assert client.pread(4, 0) == b"hhhh"
    client.close()


def test_a_client_that_is_not_closed_is_warned_of(library: Any) -> None:
    client = library.open("", False)
    with pytest.warns(ResourceWarning, match="a client of a C plugin was not closed"):
        del client


# -- handles in use ---------------------------------------------------------------------------


@pytest.fixture
def waiting(library: Any, client: Any) -> Iterator[Callable[[], Any]]:
    """A read that another thread is in; what is given waits for its end."""
    (inside, tell_inside), (wait, go) = os.pipe(), os.pipe()
    library.config("inside", str(tell_inside))
    library.config("go", str(wait))
    finish = in_thread(lambda: client.pread(4, WAITS))
    assert os.read(inside, 1) == b"i"

    def let_go() -> Any:
        os.write(go, b"g")
        return finish()

    yield let_go
    for fd in (inside, tell_inside, wait, go):
        os.close(fd)


def test_a_client_in_use_is_not_closed(client: Any, waiting: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match="cannot be closed: it is being served"):
        client.close()
    assert client.pread(4, 0) == b"hhhh"
    assert waiting() == b"hhhh"
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.pread(4, 0)


def test_a_plugin_in_use_is_not_unloaded(library: Any, waiting: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match="cannot be unloaded: it is being called"):
        library.run("unload")
    assert waiting() == b"hhhh"
    library.run("unload")


def test_threads_that_race_with_a_close_all_end(library: Any) -> None:
    """A close is refused until it finds none of them inside; later none comes in any more."""
    for _ in range(20):
        client = library.open("", False)

        def read(client: Any = client) -> None:
            for _ in range(100):
                client.pread(512, 0)

        ends = [in_thread(read) for _ in range(4)]
        while True:
            try:
                client.close()
            except RuntimeError:
                continue
            break
        for end in ends:
            with suppress(ValueError):
                end()
        with pytest.raises(ValueError, match="the client is closed"):
            client.pread(512, 0)


@pytest.mark.parametrize("name", CLIENT_CALLS)
def test_no_callback_is_called_from_within_another(
    name: str, client: Any, hooks: Callable[[Any, Any], None]
) -> None:
    found: list[str] = []

    def log(plugin: str, is_error: bool, text: str) -> None:
        try:
            getattr(client, name)(*CLIENT_CALLS[name])
        except RuntimeError as error:
            found.append(str(error))

    hooks(log, CallbackError)
    native().set_verbose(True)
    assert client.pread(4, SAYS) == b"hhhh"
    (message,) = found
    assert "is called from within handles.pread" in message or "it is being served" in message
    native().set_verbose(False)
    assert client.pread(4, SAYS) == b"hhhh"


@pytest.mark.parametrize("name", [*LIBRARY_CALLS, "unload"])
def test_nor_one_of_the_server(
    name: str, library: Any, client: Any, hooks: Callable[[Any, Any], None]
) -> None:
    method, arguments = (name, LIBRARY_CALLS[name]) if name != "unload" else ("run", ("unload",))
    found: list[str] = []

    def log(plugin: str, is_error: bool, text: str) -> None:
        try:
            getattr(library, method)(*arguments)
        except RuntimeError as error:
            found.append(str(error))

    hooks(log, CallbackError)
    native().set_verbose(True)
    client.pread(4, SAYS)
    (message,) = found
    assert "is called from within handles.pread" in message


# -- what a plugin does not have --------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 2])
def empty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    build = builder(tmp_path_factory.mktemp("empty"))
    return native().Library(str(build("handles", "-DEMPTY", f"-DAPI={request.param}")))


@pytest.mark.parametrize("name", LIBRARY_CALLS)
def test_a_library_without_a_callback_says_so(name: str, empty: Any) -> None:
    assert empty.callbacks() == set()
    with pytest.raises(NotImplementedError, match=r"the plugin handles has no \.\w+"):
        getattr(empty, name)(*LIBRARY_CALLS[name])


@pytest.mark.parametrize("version", [1, 2])
def test_a_client_without_a_callback_says_so(version: int, tmp_path: Path, build: Build) -> None:
    source = tmp_path / "opens.c"
    source.write_text(
        f"#define NBDKIT_API_VERSION {version}\n#include <nbdkit-plugin.h>\n"
        "#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL\n"
        "static void *opens_open (int readonly) { return NBDKIT_HANDLE_NOT_NEEDED; }\n"
        'static struct nbdkit_plugin plugin = { .name = "opens", .open = opens_open };\n'
        "NBDKIT_REGISTER_PLUGIN (plugin)\n"
    )
    client = native().Library(str(builder(tmp_path)(source))).open("", False)
    for name, arguments in CLIENT_CALLS.items():
        if name != "close":
            with pytest.raises(NotImplementedError, match=r"the plugin opens has no \.\w+"):
                getattr(client, name)(*arguments)
    client.close()


@pytest.mark.parametrize("name", ["pread", "", "can_write\0", "\udcff", "unknown"])
def test_a_name_that_is_no_callbacks_is_refused(name: str, library: Any, client: Any) -> None:
    for method in (library.run, client.ask):
        with pytest.raises(KeyError):
            method(name)


# -- wrong arguments --------------------------------------------------------------------------


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("value", [None, "1", 1.0, b"1", [], object()])
def test_a_request_is_made_of_whole_numbers(name: str, value: object, client: Any) -> None:
    right = CLIENT_CALLS[name]
    for position in range(len(right)):
        if name == "pwrite" and position == 0 and isinstance(value, bytes):
            continue
        with pytest.raises(TypeError):
            getattr(client, name)(*right[:position], value, *right[position + 1 :])


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("value", [-1, 1 << 63, 1 << 64, 1 << 200])
def test_a_request_is_made_of_numbers_that_fit(name: str, value: int, client: Any) -> None:
    right = CLIENT_CALLS[name]
    for position in range(1 if name == "pwrite" else 0, len(right)):
        with pytest.raises(OverflowError):
            getattr(client, name)(*right[:position], value, *right[position + 1 :])


def test_no_number_is_cut_off(client: Any) -> None:
    for method, arguments in (
        (client.trim, (1 << 32, 0, 0)),
        (client.trim, (1, 0, 1 << 32)),
        (client.pwrite, (b"x", 0, 1 << 32)),
        (client.trim, (2, (1 << 63) - 2, 0)),
        (client.pwrite, (b"xx", (1 << 63) - 2, 0)),
    ):
        with pytest.raises(OverflowError, match="is at most"):
            method(*arguments)
    client.trim((1 << 32) - 1, 0, (1 << 32) - 1)
    client.trim(1, (1 << 63) - 2, 0)


@pytest.mark.parametrize("name", [*CLIENT_CALLS, *LIBRARY_CALLS])
def test_the_number_of_arguments_is_checked(name: str, library: Any, client: Any) -> None:
    method = getattr(client if name in CLIENT_CALLS else library, name)
    right = (CLIENT_CALLS | LIBRARY_CALLS)[name]
    for arguments in ((*right, 0), right[:-1]):
        if arguments != right:
            with pytest.raises(TypeError):
                method(*arguments)
    with pytest.raises(TypeError):
        method(*right, unknown=1)


@pytest.mark.parametrize("name", ["preconnect", "list_exports", "default_export"])
def test_what_has_no_truth_is_refused(name: str, library: Any) -> None:
    class Neither:
        def __bool__(self) -> bool:
            raise LookupError("neither")

    for call in (getattr(library, name), native().set_verbose):
        with pytest.raises(LookupError, match="neither"):
            call(Neither())
    with pytest.raises(LookupError, match="neither"):
        library.open("", Neither())


def test_names_are_checked(library: Any) -> None:
    for arguments in (("a\0b", False), ("\udcff", False)):
        with pytest.raises(ValueError):
            library.open(*arguments)
    with pytest.raises(ValueError):
        library.config("a\0b", "1")
    with pytest.raises(TypeError):
        library.config("go", None)
    with pytest.raises(TypeError):
        library.open(b"", False)
    for method in (library.run, library.get_variable):
        with pytest.raises(TypeError):
            method(b"get_ready")


# -- buffers ----------------------------------------------------------------------------------


def test_what_is_written_is_a_buffer_that_can_be_read(client: Any) -> None:
    released = memoryview(b"data")
    released.release()
    with pytest.raises(ValueError, match="released"):
        client.pwrite(released, 0, 0)
    with pytest.raises(BufferError):
        client.pwrite(memoryview(b"data")[::2], 0, 0)
    client.pwrite(bytearray(b"data"), 0, 0)
    client.pwrite(b"", 0, 0)


def test_a_buffer_that_closes_its_client_is_not_written(client: Any) -> None:
    if sys.version_info < (3, 12):
        pytest.skip("before 3.12 no buffer is made by Python code")

    class Closing:
        def __buffer__(self, flags: int) -> memoryview:
            client.close()
            return memoryview(b"data")

    with pytest.raises(ValueError, match="the client is closed"):
        client.pwrite(Closing(), 0, 0)


def test_a_buffer_of_4_gib_is_more_than_the_api_takes(client: Any, tmp_path: Path) -> None:
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(1 << 32)  # nobody reads it, so it takes no room
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as large:
            with pytest.raises(OverflowError, match="more bytes than the API takes at once"):
                client.pwrite(large, 0, 0)


# -- objects ----------------------------------------------------------------------------------


def test_no_handle_is_made_without_its_plugin(library: Any, client: Any, plugin: Path) -> None:
    kinds = native().Library, native().Client
    for call in (
        kinds[0],
        kinds[1],
        lambda: kinds[0](str(plugin), 1),
        lambda: kinds[0](path=str(plugin)),
        lambda: kinds[0](1),
        lambda: object.__new__(kinds[0]),
        lambda: object.__new__(kinds[1]),
        lambda: kinds[0].__new__(kinds[0]),
        lambda: copy.copy(client),
        lambda: copy.copy(library),
        lambda: pickle.dumps(client),
        lambda: pickle.dumps(library),
        lambda: type("Sub", (kinds[0],), {}),
        lambda: setattr(kinds[1], "pread", None),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError):
        kinds[0]("a\0b")
    type(library).__init__(library)  # it does nothing
    assert client.pread(4, 0) == b"hhhh"


def test_only_variables_of_type_int_are_read_and_set(library: Any) -> None:
    assert library.get_variable("handles_debug_flag") == 3
    library.set_variable("handles_debug_flag", 4)
    assert library.get_variable("handles_debug_flag") == 4
    library.set_variable("handles_debug_flag", 3)
    for name in (
        "handles_debug_text",
        "plugin_init",
        "malloc",
        "nothing",
        "",
        "handles_debug_flag\0",
    ):
        assert library.get_variable(name) is None
        with pytest.raises(KeyError):
            library.set_variable(name, 1)
    with pytest.raises(OverflowError):
        library.set_variable("handles_debug_flag", 1 << 31)
    with pytest.raises(TypeError):
        library.set_variable("handles_debug_flag", "1")
    with pytest.raises(UnicodeEncodeError):
        library.get_variable("\udcff")


# -- hooks ------------------------------------------------------------------------------------


def test_hooks_are_functions(hooks: Callable[[Any, Any], None]) -> None:
    for wrong in ((None, CallbackError), (_log, None), (1, 2)):
        with pytest.raises(TypeError, match="both hooks must be callable"):
            hooks(*wrong)


def test_a_hook_for_failures_that_fails_is_the_exception(
    library: Any, hooks: Callable[[Any, Any], None]
) -> None:
    def fail(*arguments: object) -> BaseException:
        raise LookupError("the hook fails")

    hooks(_log, fail)
    with pytest.raises(LookupError, match="the hook fails"):
        library.config("go", "x")
    hooks(_log, lambda *arguments: "no exception")
    with pytest.raises(TypeError, match="returned no exception"):
        library.config("go", "x")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_log_that_fails_does_not_stop_the_plugin(
    client: Any, hooks: Callable[[Any, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: found.append(str(what.exc_value)))

    def log(*arguments: object) -> None:
        raise LookupError("the log fails")

    hooks(log, CallbackError)
    native().set_verbose(True)
    assert client.pread(4, SAYS) == b"hhhh"
    assert found == ["the log fails"]


# -- without Python ---------------------------------------------------------------------------

START = """
import atexit, gc, sys
from nbdfork.backend import load
plugin = load.find(sys.argv[1]).plugin_class()
plugin.config("do", sys.argv[2])
plugin.config_complete()
from nbdfork.plugins.c.library import native
native().set_verbose(True)
plugin.get_ready()
export = plugin.open("", False)
"""


def after_start(script: str, build: Build, do: str) -> tuple[int, str]:
    """Run *script* in a process that has an export of the sample `outlives`."""
    done = run(sys.executable, "-c", START + script, build("outlives"), do)
    return done.returncode, done.stderr


def test_a_child_that_a_thread_has_forked_logs_without_python(build: Build) -> None:
    status, errors = after_start("export.close()", build, "fork")
    assert status == 0
    assert "nbdfork: error: outlives: an error in a child\n" in errors
    assert "outlives: the child's status is 0\n" in errors


@pytest.mark.parametrize("do", ["log", "ask"])
def test_a_thread_of_the_plugin_may_outlive_python(do: str, build: Build) -> None:
    for _ in range(5):
        status, errors = after_start("export.close()", build, do)
        assert status == 0, errors


def test_a_plugin_may_log_when_python_has_ended(build: Build) -> None:
    status, errors = after_start("export.close()", build, "exit")
    assert status == 0
    assert "nbdfork: error: outlives: an error in the exit\n" in errors
    assert "debug in the exit" not in errors


def test_a_handle_may_outlive_its_module(build: Build) -> None:
    script = """
class AtTheEnd:
    def __init__(self, **parts):
        self.__dict__.update(parts)
    def __del__(self):
        print(self.export.pread(4, 0), self.library.native.name, flush=True)
        self.export.close()
        try:
            self.export.pread(4, 0)
        except ValueError as error:
            print(error, flush=True)
at_the_end = AtTheEnd(export=export, library=plugin.library, print=print)
at_the_end.itself = at_the_end
atexit.register(lambda: print(export.pread(4, 0), flush=True))
gc.disable()
"""
    done = run(sys.executable, "-c", START + script, build("outlives"), "nothing")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "b'oooo'", "b'oooo' outlives", "the client is closed",
    ]  # fmt: skip


def test_an_open_handle_may_be_left_at_the_end(build: Build) -> None:
    assert after_start("", build, "nothing") == (0, "")
