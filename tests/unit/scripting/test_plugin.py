"""The life of a plugin for a language: what its script is told, when, and what is refused.

The language is one whose interpreter notes what it is called for, inside this process.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Unpack

import pytest

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.life import Life
from nbdfork.plugin import ConfigError, Export, ThreadModel
from nbdfork.scripting import CallbackFailed, EmbeddedInterpreter, EmbeddedPlugin
from nbdfork.scripting.frames import READ_ONLY
from nbdfork.scripting.script import RequestFields

REQUIRED = "open get_size pread"


class Notes(EmbeddedInterpreter):
    """Notes calls in *seen*; the script says only which callbacks it has, and what they answer."""

    def __init__(self, path: str) -> None:
        lines = Path(path).read_text().splitlines()
        self._told = "\n".join(line for line in lines if not line.startswith("answer "))
        answers = (line.split()[1:] for line in lines if line.startswith("answer "))
        self._answers = {name: int(value) for name, value in answers}
        self.seen: list[str] = []

    def call(
        self, operation: str, payload: bytes | memoryview = b"", **fields: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        numbers = " ".join(f"{name}={value}" for name, value in fields.items() if value)
        self.seen.append(" ".join(filter(None, (operation, bytes(payload).decode(), numbers))))
        value = self._answers.get(operation, 0)
        if value < 0:
            raise CallbackFailed(-value, f"{operation} is broken")
        return value, self._told.encode() if operation == "load" else b""

    def pread(self, handle: int, count: int, offset: int) -> bytes:
        return bytes(count)

    def close(self) -> None:
        self.seen.append("-- close")

    def after_fork(self) -> None:
        self.seen.append("-- after_fork")


class Noting(EmbeddedPlugin):
    """a script whose interpreter notes what it is called for"""

    name = "noting"
    made: ClassVar[list[Notes]] = []

    def interpreter(self, path: str) -> Notes:
        self.made.append(Notes(path))
        return self.made[-1]


@pytest.fixture(autouse=True)
def _nothing_made() -> Iterator[None]:
    Noting.made.clear()
    yield
    Noting.made.clear()


def seen() -> list[str]:
    (made,) = Noting.made
    return made.seen


def written(directory: Path, callbacks: str, *lines: str) -> Path:
    path = directory / "script.noted"
    path.write_text("\n".join((f"callbacks={callbacks}", *lines)))
    return path


def life_of(plugin: EmbeddedPlugin, *arguments: str) -> Life:
    chain = Chain(Layer("noting", plugin))
    chain.configure(arguments)
    return Life(chain)


def lived(plugin: EmbeddedPlugin, *arguments: str) -> None:
    """Let a plugin be configured, serve in a process that is this one, and end."""
    life = life_of(plugin, *arguments)
    life.get_ready()
    life.after_fork(lambda: None, -1)
    export: Export = plugin.open("an export", True)
    export.close()
    life.cleanup()
    life.finish()


ALL = f"{REQUIRED} close config config_complete get_ready after_fork cleanup unload"


def test_a_script_that_serves_all_clients_is_told_of_everything_in_its_order(
    tmp_path: Path,
) -> None:
    lived(Noting(), str(written(tmp_path, ALL)), "key=value")
    assert seen() == [
        "load",
        "config key\0value",
        "config_complete",
        "get_ready",
        "-- after_fork",
        "after_fork",
        f"open an export handle=1 flags={READ_ONLY}",
        "close handle=1",
        "cleanup",
        "unload",
        "-- close",
    ]


def test_a_script_is_told_of_what_it_has_only(tmp_path: Path) -> None:
    """But of a close in any case: the interpreter must know that a handle is free."""
    lived(Noting(), str(written(tmp_path, REQUIRED)))
    open_ = f"open an export handle=1 flags={READ_ONLY}"
    assert seen() == ["load", "-- after_fork", open_, "close handle=1", "-- close"]


def test_where_each_client_has_a_process_it_is_unloaded_by_the_server(tmp_path: Path) -> None:
    path = written(tmp_path, f"{REQUIRED} cleanup unload", "one_process=no")
    life = life_of(Noting(), str(path))
    life.get_ready()
    life.after_fork(lambda: None, -1)
    life.cleanup()
    assert seen()[-1] == "cleanup"
    life.finish()
    assert seen()[-2:] == ["unload", "-- close"]


def test_a_callback_that_fails_at_the_end_is_logged_and_the_rest_is_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, ALL, "answer cleanup -5", "answer unload -5")
    lived(Noting(), str(path))
    assert seen()[-3:] == ["cleanup", "unload", "-- close"]
    assert f"{path}: cleanup: cleanup is broken" in caplog.messages
    assert f"{path}: unload: unload is broken" in caplog.messages


def refused(*arguments: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        lived(Noting(), *map(str, arguments))
    return str(caught.value)


def test_a_missing_callback_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "open get_size")
    assert refused(path) == f"noting: {path}: the callback pread is missing; define it"


def test_a_failure_at_the_start_names_script_and_callback(tmp_path: Path) -> None:
    for callback in ("load", "config", "config_complete", "get_ready"):
        path = written(tmp_path, ALL, f"answer {callback} -5")
        message = f"noting: {path}: {callback}: {callback} is broken"
        assert refused(path, "key=value") == message


def test_parameters_that_nobody_takes(tmp_path: Path) -> None:
    path = written(tmp_path, REQUIRED)
    assert "takes no parameters, but key=value is given" in refused(path, "key=value")
    assert "takes no parameters, but password=*** is given" in refused(path, "password=secret")
    assert "key=value comes before the script: name that first" in refused("key=value")
    assert "'more' is not of the form key=value" in refused(path, "more")
    assert "there is no file of this name" in refused(tmp_path / "nowhere")


def test_an_argument_without_a_key_has_the_one_that_the_script_tells(tmp_path: Path) -> None:
    path = written(tmp_path, f"{REQUIRED} config", "magic_config_key=disk")
    lived(Noting(), str(path), "one", "key=value", "two")
    assert seen()[1:4] == ["config disk\0one", "config key\0value", "config disk\0two"]


def test_the_thread_model_is_the_script_s(tmp_path: Path) -> None:
    path = written(tmp_path, f"{REQUIRED} thread_model", "answer thread_model 3")
    plugin = Noting()
    assert plugin.thread_model() is ThreadModel.SERIALIZE_ALL_REQUESTS
    lived(plugin, str(path))
    assert plugin.thread_model() is ThreadModel.PARALLEL
    path = written(tmp_path, f"{REQUIRED} thread_model", "answer thread_model 4")
    assert "thread_model returned 4; return 0 to 3" in refused(path)


def test_a_file_is_loaded_as_a_plugin_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, f"{REQUIRED} config", "magic_config_key=disk", "flavour=mint")
    loaded = Noting.load(str(path))
    assert loaded.name == "script"
    assert loaded.plugin_class.__doc__ == Noting.__doc__
    plugin = loaded.plugin_class()
    assert isinstance(plugin, Noting)
    lived(plugin, "one", "key=value")
    assert seen()[:3] == ["load", "config disk\0one", "config key\0value"]
    assert plugin.dump_plugin() == {"flavour": "mint"}


def test_a_subclass_without_its_part_is_named() -> None:
    class Nothing(EmbeddedPlugin):
        name = "nothing"

    with pytest.raises(TypeError, match=r"class Nothing with.* method '?interpreter"):
        Nothing(script=__file__)  # type: ignore[abstract]
