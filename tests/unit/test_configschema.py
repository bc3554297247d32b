"""The JSON schema of config files is that of the code."""

import json

from nbdfork.configfile import EXPORT_KEYS
from nbdfork.configschema import schema
from nbdfork.options import ONLY_ON_COMMAND_LINE, TABLE
from tests.support.paths import ROOT


def test_the_file_is_what_the_code_says() -> None:
    """Otherwise: python -m nbdfork.configschema > contrib/packaging/nbdfork.schema.json"""
    path = ROOT / "contrib" / "packaging" / "nbdfork.schema.json"
    assert json.loads(path.read_text()) == schema()


def test_it_knows_every_option_that_a_file_can_have() -> None:
    known = schema()["properties"]["server"]["properties"]
    for option in TABLE:
        names = {name[2:] for name in option.names if name.startswith("--")}
        if option.field.name in ONLY_ON_COMMAND_LINE:
            assert names.isdisjoint(known)
        else:
            assert names <= known.keys()
    assert list(schema()["properties"]["export"]["items"]["properties"]) == list(EXPORT_KEYS)
