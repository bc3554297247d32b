"""Run tests with the extension modules built for gcc's sanitizers: `make sanitize`.

AddressSanitizer finds memory that is used wrongly, or lost, and UndefinedBehaviorSanitizer finds
what C does not define.  The tests run as they are, in a Python that has the sanitizers loaded, and
with a copy of the package whose extension module has been compiled for them; nothing in the tree
is touched.  Programs that are not Python run without sanitizers.  What the sanitizers report goes
to files, wherever it happens, in the pool's workers too; any report about our code is a failure.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.paths import ROOT

SOURCES = ROOT / "plugins" / "c"
SPEEDUPS = ROOT / "nbdfork" / "speedups"
TESTS = sorted(str(path) for path in (ROOT / "tests" / "plugins").glob("test_c[._]*py"))
TESTS += [str(ROOT / "tests" / "unit" / name) for name in ("protocol/test_runs.py", "speedups")]
SHORT = [
    path
    for path in TESTS
    if re.search(r"_(generated|handles|memory|functions|runs)\.py$|/speedups$", path)
]
"""Those that call everything once, in less than a minute."""

MANY_TABLES = "5000"
"""How many behaviours of plugins are made up, unless the run is to be short."""

MANY_TWINS, FEW_TWINS = "2000", "100"
"""How many streams of requests are made up, and how many if it is to be short."""

JOBS = "2"

COMPILER = os.environ.get("CC", "gcc")

NOT_FOR_SANITIZERS = "not (test_guestfs or test_libvirt or test_ruby_in_the_thread)"
"""All but tests that load libraries which crash beside AddressSanitizer, whatever loads them."""

FLAGS = (
    "-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined", "-std=gnu11", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip

ADDRESS_OPTIONS = {
    "detect_leaks": 1,
    "leak_check_at_exit": 0,  # Python leaves much behind; tests ask for the check
    "detect_odr_violation": 0,  # a sample that is built twice is loaded twice
    "allocator_may_return_null": 1,  # as malloc may
    # The crashes of plugins are for our own handler:
    "handle_segv": 0,
    "handle_sigbus": 0,
    "handle_abort": 0,
    "handle_sigfpe": 0,
    "handle_sigill": 0,
    "use_sigaltstack": 0,
}

LAUNCHER = """
#include <stdlib.h>
#include <unistd.h>
int main (int argc, char **argv)
{
  setenv ("LD_PRELOAD", LIBRARIES, 1);
  argv[0] = PYTHON;
  execv (REAL, argv);
  return 127;
}
"""
"""The interpreter, with sanitizers; it calls itself by this name, so it is also sys.executable."""

CUSTOMIZE = """
import os
os.environ.pop("LD_PRELOAD", None)  # other programs do without
"""

REPORT = """
#include <dlfcn.h>
__attribute__ ((__constructor__)) static void set_report_path (void)
{
  void (*set) (const char *);
  *(void **) &set = dlsym (dlopen (LIBRARY, RTLD_LAZY), "__sanitizer_set_report_path");
  set (REPORTS);
}
"""
"""Part of the module: beside AddressSanitizer, the other one does not look at its own log_path."""

FAULTY = """
#include <limits.h>
#include <stdlib.h>
int overrun (int size)
{
  char *bytes = calloc (size, 1);
  int last = bytes[size];
  free (bytes);
  return last;
}
int overflow (int number) { return INT_MAX + number; }
void *volatile kept;
int leak (int size) { kept = malloc (size); kept = NULL; return 0; }
"""
"""What must be found, or the sanitizers are not at work."""


class Sandbox:
    """A Python with sanitizers, in *directory*, which imports the package from there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reports = directory / "reports"
        self.reports.mkdir()
        self.python = directory / "bin" / "python"
        self._sanitizers = [_file_of_compiler(name) for name in ("libasan.so", "libubsan.so")]
        self._make_interpreter()
        self._make_package()

    def compile(self, *arguments: str | Path) -> None:
        subprocess.run([COMPILER, *arguments], check=True)

    def compile_with_sanitizers(self, library: Path, *arguments: str | Path) -> None:
        report = self.directory / "report.c"
        report.write_text(REPORT)
        texts = _defined(LIBRARY=self._sanitizers[1], REPORTS=self.reports / "undefined")
        self.compile(*FLAGS, *texts, "-shared", "-fPIC", "-o", library, report, *arguments)

    def _make_interpreter(self) -> None:
        """Make a virtual environment that shares the packages of the one that runs this."""
        self.python.parent.mkdir()
        packages = Path(sysconfig.get_path("purelib"))
        own = self.directory / packages.relative_to(sys.prefix)
        own.parent.mkdir(parents=True)
        own.symlink_to(packages)
        (self.directory / "pyvenv.cfg").symlink_to(Path(sys.prefix) / "pyvenv.cfg")
        source = self.directory / "launcher.c"
        source.write_text(LAUNCHER)
        texts = _defined(
            LIBRARIES=":".join(self._sanitizers),
            PYTHON=self.python,
            REAL=Path(sys.executable).resolve(),
        )
        self.compile(*texts, "-o", self.python, source)

    def _make_package(self) -> None:
        """Link the package together, but for the extension module."""
        package = self.directory / "nbdfork"
        for directory, source in (
            (package, ROOT / "nbdfork"),
            (package / "plugins", ROOT / "plugins"),
            (package / "plugins" / "c", SOURCES),
            (package / "speedups", SPEEDUPS),
        ):
            directory.mkdir()
            for path in source.iterdir():
                is_made_here = path.suffix == ".so" or path in (SOURCES, SPEEDUPS)
                if not is_made_here and path.name != "__pycache__":
                    (directory / path.name).symlink_to(path)
        (self.directory / "sitecustomize.py").write_text(CUSTOMIZE)
        include = (f"-I{sysconfig.get_path('include')}", f"-I{SOURCES}/include/nbdfork")
        module = package / "plugins" / "c" / "_native.abi3.so"
        self.compile_with_sanitizers(module, *include, *sorted(SOURCES.glob("*.c")))
        module = package / "speedups" / "_native.abi3.so"
        self.compile_with_sanitizers(module, include[0], *sorted(SPEEDUPS.glob("*.c")))

    def environment(self) -> Mapping[str, str]:
        address = {**ADDRESS_OPTIONS, "log_path": self.reports / "address"}
        return {
            **os.environ,
            "PYTHONPATH": f"{self.directory}:{ROOT}",
            "PYTHONSAFEPATH": "1",  # or the current directory would come first
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in address.items()),
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }

    def run(self, *arguments: str) -> int:
        return subprocess.run(
            [self.python, *arguments], cwd=ROOT, env=self.environment(), check=False
        ).returncode

    def faults(self, *sources: Path) -> Iterator[str]:
        """Yield what is reported about code in *sources*, each time with where it happened."""
        for path in sorted(self.reports.iterdir()):
            for part in re.split(
                r"\n(?=\S*(?:Direct leak|Indirect leak|SUMMARY))", path.read_text()
            ):
                is_fault = re.search(r"ERROR: |runtime error: | leak of ", part)
                if is_fault and any(str(source) in part for source in sources):
                    yield part


def _file_of_compiler(name: str) -> str:
    command = [COMPILER, f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _defined(**texts: object) -> list[str]:
    return [f'-D{name}="{text}"' for name, text in texts.items()]


def check_sanitizers(sandbox: Sandbox) -> None:
    """Fail unless each kind of fault is found, and the extension module is the one built here."""
    source = sandbox.directory / "faulty.c"
    source.write_text(FAULTY)
    library = sandbox.directory / "faulty.so"
    sandbox.compile_with_sanitizers(library, source)
    for function, words in (
        ("overrun", "heap-buffer-overflow"),
        ("overflow", "signed integer overflow"),
        ("leak", "leak of 1000 byte"),
    ):
        script = (
            "import ctypes; from nbdfork import speedups; from nbdfork.plugins.c import _native\n"
            f"assert _native.__file__.startswith({str(sandbox.directory)!r}), _native.__file__\n"
            "assert speedups.AVAILABLE\n"
            f"ctypes.CDLL({str(library)!r}).{function}(1000)\n"
            "ctypes.CDLL(None).__lsan_do_recoverable_leak_check()\n"
        )
        sandbox.run("-c", script)
        if not any(words in fault for fault in sandbox.faults(source)):
            sys.exit(f"the sanitizers do not find what they must: {function}")
        shutil.rmtree(sandbox.reports)
        sandbox.reports.mkdir()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.sanitizer", description=__doc__)
    parser.add_argument("--short", action="store_true", help="only the tests that are fast")
    parser.add_argument(
        "words", nargs="*", help="words for pytest (default: all tests of C plugins)"
    )
    options = parser.parse_args(arguments)
    tests = options.words or (SHORT if options.short else TESTS)
    if not options.short:
        os.environ.setdefault("NBDFORK_TABLES", MANY_TABLES)
    os.environ.setdefault("NBDFORK_TWINS", FEW_TWINS if options.short else MANY_TWINS)
    words = ["--import-mode=importlib", "-k", NOT_FOR_SANITIZERS, "-n", JOBS, "--dist", "loadfile"]
    with tempfile.TemporaryDirectory(prefix="nbdfork-sanitize") as directory:
        sandbox = Sandbox(Path(directory))
        check_sanitizers(sandbox)
        status = sandbox.run("-m", "pytest", *words, *tests)
        faults = list(sandbox.faults(SOURCES, SPEEDUPS))
    print(*faults, sep="\n")
    print(f"the sanitizers have found {len(faults)} faults")
    return status or bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
