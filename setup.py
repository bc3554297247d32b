"""The one part of nbdfork that is not Python: what loads plugins written in C.

All else is said in pyproject.toml.  It is optional: without a compiler nbdfork is installed
without it, and only C plugins are missing.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "nbdfork.plugins.c._native",
            sources=[
                f"plugins/c/{name}.c"
                for name in ("module", "library", "client", "api", "parse", "collect", "crash")
            ],
            depends=[
                "plugins/c/native.h",
                "plugins/c/objects.h",
                "plugins/c/include/nbdfork/nbdfork-plugin.h",
            ],
            include_dirs=["plugins/c/include/nbdfork"],
            extra_compile_args=["-std=gnu11", "-Wextra", "-Wno-cast-function-type"],
            libraries=["dl", "pthread"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
