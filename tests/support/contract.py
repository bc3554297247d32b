"""The public contract, written down: every name, every signature, every value.

Run as a program, it writes `tests/tree/contract.txt` anew.
"""

import ast
import enum
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType

import nbdfork.plugin
import nbdfork.scripting
from tests.support.paths import TESTS

SNAPSHOT = TESTS / "tree/contract.txt"

MODULES = (nbdfork.plugin, nbdfork.scripting)


SPECIAL = ("__init__", "__len__", "__getitem__", "__setitem__", "__enter__", "__exit__")
"""Methods that a language has names for, and that belong to the contract where they are."""


def signature(function: object) -> str:
    """Return parameters and result of *function* as its author has written them."""
    assert callable(function)
    text = str(inspect.signature(function, eval_str=True))
    text = re.sub(r"\b(?:\w+\.)+(?=[A-Za-z])", "", text)  # the modules that types are in
    text = re.sub(r"\*<class '(\w+)'>", r"Unpack[\1]", text)  # as older versions show it
    return text.replace("bytes | bytearray | memoryview", "Buffer")


def bare(function: object) -> str:
    """Return the parameters of *function* without types, and without self."""
    assert callable(function)
    found = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    return str(found.replace(parameters=parameters, return_annotation=found.empty))


def members(owner: type) -> Iterator[tuple[str, object]]:
    """Yield the public members of a class that are its own, in their order."""
    for name, value in vars(owner).items():
        if not name.startswith("_") or name in SPECIAL:
            yield name, value


def attributes(owner: type) -> list[str]:
    """Return the public attributes that a class gives its objects when they are made."""
    if "__init__" not in vars(owner):
        return []
    source = textwrap.dedent(inspect.getsource(vars(owner)["__init__"]))
    return sorted(
        {
            node.attr
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and not node.attr.startswith("_")
        }
    )


def described_class(name: str, described: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in described.__bases__ if base is not object)
    yield f"class {name}({bases})" if bases else f"class {name}"
    if issubclass(described, enum.Enum):
        yield from (f"    {one.name} = {one.value!r}" for one in described)
        return
    if issubclass(described, tuple):
        yield f"    {signature(described)}"
        return
    for annotated in inspect.get_annotations(described):
        if not annotated.startswith("_") and annotated not in vars(described):
            yield f"    {annotated}"
    yield from (f"    self.{attribute}" for attribute in attributes(described))
    for member, value in members(described):
        if isinstance(value, FunctionType):
            yield f"    {member}{signature(value)}"
        elif isinstance(value, classmethod | staticmethod):
            yield f"    {type(value).__name__} {member}{signature(value.__func__)}"
        elif isinstance(value, property):
            yield f"    {member}: {signature(value.fget).partition(' -> ')[2]}"
        else:
            yield f"    {member}"


def described(name: str, value: object) -> Iterator[str]:
    """Yield what there is to be said of a public name."""
    if isinstance(value, ModuleType):
        for inner in sorted(public(value)):
            yield from described(f"{name}.{inner}", getattr(value, inner))
    elif isinstance(value, type):
        yield from described_class(name, value)
    elif isinstance(value, FunctionType):
        yield f"{name}{signature(value)}"
    elif isinstance(value, int | str):
        yield f"{name} = {value!r}"
    else:
        yield name


def public(module: ModuleType) -> list[str]:
    """Return the public names of a module: its `__all__`, or all that it does not hide."""
    names: list[str] = getattr(module, "__all__", [])
    return names or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    ]


def contract() -> str:
    """Return the whole contract as text."""
    return (
        "\n".join(
            line
            for module in MODULES
            for name in sorted(public(module))
            for line in (
                f"{module.__name__} {one}" if not one.startswith(" ") else one
                for one in described(name, getattr(module, name))
            )
        )
        + "\n"
    )


if __name__ == "__main__":
    SNAPSHOT.write_text(contract())
