"""The JSON schema of config files, by which editors complete them and mark what is wrong.

`python -m nbdfork.configschema` prints it; contrib/packaging has the outcome.  It is for draft 7
of https://json-schema.org, which is what editors know best.
"""

import json
import sys
from typing import Any

from nbdfork.configfile import EXPORT_KEYS
from nbdfork.declaration import Option
from nbdfork.options import ONLY_ON_COMMAND_LINE, TABLE

_SCALAR = {"type": ["string", "number", "boolean"]}
_FILE = {
    "type": "object",
    "properties": {"file": {"type": "string"}},
    "required": ["file"],
    "additionalProperties": False,
}
_VALUE = {"anyOf": [_SCALAR, _FILE, {"type": "array", "items": {"anyOf": [_SCALAR, _FILE]}}]}
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

_EXPORT: dict[str, dict[str, Any]] = {
    "name": {"type": "string", "maxLength": 4096},
    "default": {"type": "boolean", "description": "the empty name means this export"},
    "description": {"type": "string", "maxLength": 4096},
    "read-only": {"type": "boolean"},
    "require-tls": {"type": "boolean", "description": "only clients that use TLS can have it"},
    "max-clients": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
    "threads": {"type": "integer", "minimum": 1, "maximum": 1024},
    "plugin": {"type": "string", "minLength": 1, "description": "what is served"},
    "filters": {
        "description": "the first is nearest to the clients",
        "type": "array",
        "items": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "object",
                    "properties": {"filter": {"type": "string", "minLength": 1}},
                    "required": ["filter"],
                    "additionalProperties": _VALUE,
                },
            ]
        },
    },
    "parameters": {
        "description": "parameters that are for the plugin alone",
        "type": "object",
        "additionalProperties": _VALUE,
    },
    "allow": _TEXTS,
    "deny": _TEXTS,
}


def schema() -> dict[str, Any]:
    """Return the schema."""
    options = [one for one in TABLE if one.field.name not in ONLY_ON_COMMAND_LINE]
    server = {
        name.removeprefix("--"): _option(option)
        for option in options
        for name in option.names
        if name.startswith("--")
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "a config file of nbdfork",
        "type": "object",
        "properties": {
            "include": _TEXTS,
            "server": {
                "type": "object",
                "properties": dict(sorted(server.items())),
                "additionalProperties": False,
            },
            "export": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": {key: _EXPORT[key] for key in EXPORT_KEYS},
                    "required": ["plugin"],
                    "additionalProperties": _VALUE,
                },
            },
        },
        "additionalProperties": False,
    }


def _option(option: Option[Any]) -> dict[str, Any]:
    described = {"description": option.help}
    if option.metavar is None:
        return {"type": "boolean", **described}
    words = option.metavar.split("|")
    if len(words) > 1 and all(word.islower() for word in words):
        return {"enum": words, **described}
    one = {"type": ["string", "number"]}
    if option.field.gathers:
        return {"anyOf": [one, {"type": "array", "items": one}], **described}
    return {**one, **described}


if __name__ == "__main__":
    json.dump(schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
