"""The python plugin as an object, and its page: what it makes of a script's callbacks."""

import errno
import sys
from pathlib import Path

import psutil
import pytest
from nbdfork.plugins.python import Python
from nbdfork.plugins.python import nbdkit as nbdkit_module
from nbdfork.plugins.python.script import SIGNATURES, SIGNATURES_OF_VERSION_1

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.exports import Catalogue, Exports
from nbdfork.plugin import Export, Extent, Support, ThreadModel
from tests.support.harness import Server, eventually, nbdfork, need
from tests.support.manual import rendered
from tests.support.paths import SCRIPTS
from tests.support.python_scripts import VERSION_1, script

# -- the plugin as an object -------------------------------------------------------------------


def configured(path: Path) -> Python:
    plugin = Python(script=str(path))
    plugin.config_complete()
    return plugin


def opened(path: Path) -> Export:
    export: Export = configured(path).open("", False)
    return export


def test_extents(tmp_path: Path) -> None:
    export = opened(
        script(tmp_path, "def extents(h, c, o, f): yield (o, 512, 3); yield (o + 512, c - 512, 0)")
    )
    assert export.can_extents()
    assert list(export.extents(2048, 0, 0)) == [Extent(0, 512, 3), Extent(512, 1536, 0)]


@pytest.mark.parametrize("value", ["5", "None", "[(0, 512)]", "[[0, 512, 0]]", "[(0, 'x', 0)]"])
def test_extents_that_make_no_sense(tmp_path: Path, value: str) -> None:
    export = opened(script(tmp_path, f"def extents(h, c, o, f): return {value}"))
    with pytest.raises(OSError, match="extents") as caught:
        list(export.extents(2048, 0, 0))
    assert caught.value.errno == errno.EIO


def test_version_1_cannot_be_told_of_fua_and_is_asked_to_flush(tmp_path: Path) -> None:
    text = "def can_fua(h): return nbdkit.FUA_NATIVE\ndef flush(h): pass"
    assert opened(script(tmp_path, text, VERSION_1)).can_fua() is Support.EMULATE


def test_thread_model_and_processes(tmp_path: Path) -> None:
    plugin = configured(script(tmp_path, ""))
    assert (plugin.thread_model(), plugin.one_process()) == (
        ThreadModel.SERIALIZE_ALL_REQUESTS,
        True,
    )
    plugin = configured(SCRIPTS / "cpu_bound.py")
    assert (plugin.thread_model(), plugin.one_process()) == (ThreadModel.PARALLEL, False)


def test_list_exports_has_the_default_if_the_script_has_no_list(tmp_path: Path) -> None:
    plugin = configured(script(tmp_path, "def default_export(r, t): return 'd'"))
    chain = Chain(Layer("python", plugin))
    assert Catalogue(Exports(chain)).listed() == [("d", "")]


def test_loading_leaves_the_main_module_alone(tmp_path: Path) -> None:
    text = (
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int = 0\n"
        "import sys\nassert sys.modules['__main__'].__dict__ is globals()"
    )
    before = sys.modules["__main__"]
    configured(script(tmp_path, text))
    assert sys.modules["__main__"] is before


def test_dump_plugin_tells_the_versions() -> None:
    lines = nbdfork("python", "--dump-plugin").stdout.splitlines()
    assert "nbdkit_python_maximum_api_version=2" in lines
    assert "magic_config_key=script" in lines


def test_dump_plugin_of_a_script(capfd: pytest.CaptureFixture[str]) -> None:
    Python(script=str(SCRIPTS / "all_callbacks.py")).dump_plugin()
    assert capfd.readouterr().out == "all_callbacks=yes\n"


def test_nothing_is_left_behind() -> None:
    with Server("-n", "python", SCRIPTS / "v2_ramdisk.py") as server:
        workers = eventually(server.workers)
    assert not any(psutil.pid_exists(worker.pid) for worker in workers)


def test_a_function_imported_under_the_name_of_a_callback_is_let_pass(tmp_path: Path) -> None:
    plugin = configured(script(tmp_path, "from functools import cache\nfrom zlib import adler32"))
    assert plugin.get_ready() is None


# -- the manual page ---------------------------------------------------------------------------


def test_every_callback_function_and_constant_is_on_the_page() -> None:
    need("mandoc")
    text = rendered("nbdfork-python-plugin.3")
    for name, arguments in SIGNATURES.items():
        assert f"{name}({arguments})" in text
    for name, arguments in SIGNATURES_OF_VERSION_1.items():
        assert f"{name}({arguments})" in text
    for name, value in vars(nbdkit_module).items():
        if name.isidentifier() and not name.startswith("_"):  # pytest adds others
            assert (f"nbdkit.{name}(" if callable(value) else name) in text
