"""What pyproject.toml cannot say: which folders are packages, and what is not Python.

The description is README.md without the links to files beside it, which are nowhere where it is
shown.

A new folder with an `__init__.py` is a package without being named anywhere.  The plugins have a
directory of their own at the top; they are installed as nbdfork.plugins.

The extension modules are optional.  One loads plugins written in C: without a compiler nbdfork is
installed without it, and only C plugins are missing.  The other makes small requests faster.
"""

import re
from glob import glob
from pathlib import Path

from setuptools import Extension, find_packages, setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")

setup(
    long_description=re.sub(r"\[([^]]*)\]\((?!https://)[^)]*\)", r"\1", README),
    long_description_content_type="text/markdown",
    packages=[
        *find_packages(include=["nbdfork", "nbdfork.*"]),
        "nbdfork.plugins",
        *(f"nbdfork.plugins.{name}" for name in find_packages("plugins")),
    ],
    package_dir={"nbdfork": "nbdfork", "nbdfork.plugins": "plugins"},
    ext_modules=[
        Extension(
            "nbdfork.plugins.c._native",
            sources=sorted(glob("plugins/c/*.c")),
            depends=[*glob("plugins/c/*.h"), "plugins/c/include/nbdfork/nbdfork-plugin.h"],
            include_dirs=["plugins/c/include/nbdfork"],
            extra_compile_args=["-std=gnu11", "-Wextra"],
            libraries=["dl", "pthread"],
            py_limited_api=True,
            optional=True,
        ),
        Extension(
            "nbdfork.speedups._native",
            sources=sorted(glob("nbdfork/speedups/*.c")),
            depends=glob("nbdfork/speedups/*.h"),
            extra_compile_args=["-std=gnu11", "-Wextra"],
            py_limited_api=True,
            optional=True,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
