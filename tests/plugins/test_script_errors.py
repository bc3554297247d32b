"""What becomes of mistakes in a script, in every language: of one that cannot be loaded, and of
callbacks that fail or return what is none.
"""

import re
from pathlib import Path

import pytest

from tests.support.harness import Server
from tests.support.libnbd import connect, libnbd
from tests.support.raw import reason
from tests.support.scripting import (
    PERL,
    RUBY,
    Language,
    fails_alone,
    in_languages,
    rows,
    written,
)

pytestmark = pytest.mark.usefixtures("needed")


@written(
    lua="function pread(h, n, o) nbdkit.set_error(28) error('the moon is full') end",
    perl="sub pread { Nbdkit::set_error(28); die 'the moon is full' }",
    ruby="def pread(h, n, o) = Nbdkit.set_error(28) || raise('the moon is full')",
    tcl="proc pread {h n o} { nbdkit::set_error ENOSPC; error {the moon is full} }",
)
def test_clients_hear_why_and_the_log_says_where(
    language: Language, text: str, tmp_path: Path
) -> None:
    path = tmp_path / f"script{language.suffix}"
    where = [f"pread: {path}:4: the moon is full\n", f"pread: the moon is full at {path} line 4"]
    with language.server(tmp_path, text) as server:
        assert reason(server) == (28, "the moon is full")
        assert any(line in server.log for line in where)


@pytest.mark.parametrize("missing", ["open", "get_size", "pread"])
@in_languages()
def test_a_script_without_a_required_callback_is_refused(
    language: Language, missing: str, tmp_path: Path
) -> None:
    """What Ruby's Kernel has of the same name is none; Tcl has the prefix plugin_ for open."""
    callback = re.compile(rf" (plugin_)?{missing}\b")
    base = "".join(line for line in language.minimum.splitlines(True) if not callback.search(line))
    said = language.refusal(language.script(tmp_path, "", base))
    assert re.search(f"the callback (plugin_)?{missing} is missing", said)


@rows(
    "text, message",
    perl=[
        ("sub config { die 'bad value' }", "config: bad value at {path} line 4."),
        ("sub config {} sub get_ready { die qq(no disk\\n) }", "{path}: get_ready: no disk"),
        ("sub config { exit 3 }", "{path}: config: the script called exit(3)"),
        ("sub config {} sub thread_model { 7 }", "{path}: thread_model returned 7"),
        ("", "takes no parameters, but key=value is given"),
    ],
    ruby=[
        ("def config(k, v) = raise('bad value')", "config: {path}:4: bad value"),
        ("def config(k, v) = 1\ndef get_ready = fail('no disk')", "get_ready: {path}:5: no disk"),
        ("def config(k, v) = exit(3)", "{path}: config: the script called exit(3)"),
        ("def config(k, v) = 1\ndef thread_model = 7", "{path}: thread_model returned 7"),
        ("require 'no/such'", "load: {path}:4: cannot load such file -- no/such"),
        ("", "takes no parameters, but key=value is given"),
    ],
    lua=[
        ("function config(k, v) error('bad value') end", "config: {path}:4: bad value"),
        (
            "function config(k, v) end function get_ready() error('no disk', 0) end",
            "{path}: get_ready: no disk",
        ),
        (
            "function config(k, v) os.exit(3) end",
            "{path}: config: the script called os.exit(3)",
        ),
        (
            "function config(k, v) end function thread_model() return 7 end",
            "{path}: thread_model returned 7",
        ),
        ("function", "load: {path}:5: <name> expected near <eof>"),
        ("error('too bad')", "load: {path}:4: too bad"),
        ("", "takes no parameters, but key=value is given"),
    ],
    tcl=[
        ("proc config {k v} { error {bad value} }", "config: {path}:4: bad value"),
        (
            "proc config {k v} {}\nproc get_ready {} {\n\nerror {no disk} }",
            "get_ready: {path}:7: no disk",
        ),
        ("proc config {k v} { exit 3 }", "config: {path}:4: the script called exit(3)"),
        ("proc config {k v} {}\nproc thread_model {} { return 7 }", "thread_model returned 7"),
        ("proc config {k v} {}\nproc thread_model {} { return x }", "expected integer but got"),
        ("\nnothing", 'load: {path}:5: invalid command name "nothing"'),
        ("", "takes no parameters, but key=value is given"),
    ],
)
def test_a_bad_script_is_refused_with_one_line(
    language: Language, text: str, message: str, tmp_path: Path
) -> None:
    path = language.script(tmp_path, text)
    assert message.format(path=path) in language.refusal(path, "key=value")


@pytest.mark.parametrize(
    ("language", "text", "message"),
    [(PERL, "sub {", "perl: load: "), (RUBY, "def def", "ruby: load: {path}:4: syntax error")],
    ids=["perl", "ruby"],
)
def test_an_error_of_syntax_is_told_in_the_lines_of_the_language(
    language: Language, text: str, message: str, tmp_path: Path
) -> None:
    path = language.script(tmp_path, text)
    assert message.format(path=path) in language.refusal(path, lines="(.*\n)+")


@in_languages()
def test_a_missing_script_is_named(language: Language, tmp_path: Path) -> None:
    assert "nothing: there is no file" in language.refusal(tmp_path / "nothing")


READ = {
    "lua": "function pread(h, n, offset)\n"
    "if offset > 0 then return ('ok'):rep(n // 2) end TEXT end",
    "perl": "sub pread { return qq(ok) x 256 if $_[2]; TEXT }",
    "ruby": "def pread(h, count, offset) = offset > 0 ? 'ok' * (count / 2) : TEXT",
    "tcl": "proc pread {h count offset} {\n"
    "if {$offset} { return [string repeat ok $count] }; TEXT }",
}
"""A disk that holds "ok" again and again, and at its beginning does TEXT."""


@rows(
    "text, message",
    perl=[
        ("return 'short'", "the buffer returned from pread is too small"),
        ("return undef", "pread returned nothing"),
        ("return chr(300) x 65536", "pread returned characters that are no bytes"),
        ("die { code => 1 }", "HASH(0x"),
    ],
    ruby=[
        ("'short'", "byte array returned from pread is too small"),
        ("nil", "pread returned no string, but a NilClass"),
        ("raise(NoMemoryError)", "NoMemoryError"),
        ("exit(7)", "the script called exit(7)"),
        ("pread(h, count, offset)", "stack level too deep"),
    ],
    lua=[
        ("return 'short'", "pread: returned string length < count bytes"),
        ("return nil", "pread: return value is not a string"),
        ("return 7", "pread: return value is not a string"),
        ("os.exit(7)", "the script called os.exit(7)"),
        ("return 1 + pread(h, n, 0)", "stack overflow"),
    ],
    tcl=[
        ("return short", "pread: buffer returned from pread is too small"),
        ("exit 7", "the script called exit(7)"),
        ("pread $h $count 0", "too many nested evaluations"),
    ],
)
def test_a_read_that_is_none_fails_alone(
    language: Language, text: str, message: str, tmp_path: Path
) -> None:
    with language.server(tmp_path, READ[language.name].replace("TEXT", text)) as server:
        assert fails_alone(server, message)


@rows(
    "text, message",
    lua=[
        ("function can_write(h) return 1 end", "can_write: return value is not a boolean"),
        ("function get_size(h) return 'x' end", "get_size: return value is not an integer"),
        ("function open(readonly) end", "open returned nothing"),
        ("function pwrite() end function can_fua(h) return 7 end", "can_fua: returned 7"),
    ],
    tcl=[
        ("proc can_write {h} { return x }", 'expected boolean value but got "x"'),
        ("proc get_size {h} { return 1.5 }", 'get_size: expected integer but got "1.5"'),
        ("proc plugin_open {readonly} { error {not today} }", "open: {path}:4: not today"),
    ],
)
def test_facts_that_are_none_refuse_the_client(
    language: Language, text: str, message: str, tmp_path: Path
) -> None:
    path = language.script(tmp_path, text)
    with Server("-n", language.name, path) as server:
        with pytest.raises(libnbd().Error):
            connect(server.uri)
        assert message.format(path=path) in server.log


FAILING_READ = {
    "ruby": "def pread(h, count, offset)\n  TEXT\nend",
    "tcl": "proc pread {h count offset} {\n  TEXT\n}",
}


@rows(
    "text, code, message",
    ruby=[
        ("raise Errno::ENOSPC, 'moon'", 28, "No space left on device - moon"),
        ("Nbdkit.set_error(Errno::EPERM); raise Errno::ENOSPC", 1, "No space left on device"),
        ("raise ArgumentError", 5, "ArgumentError"),
    ],
    tcl=[
        ("nbdkit::set_error 28; expr {1 / 0}", 28, "divide by zero"),
        ("nbdkit::set_error EWRONG", 5, "not an errno: EWRONG"),
        ("error {a [b] {c} $d \u20ac}", 5, "a [b] {c} $d \u20ac"),
        ("close nothing", 5, 'can not find channel named "nothing"'),
        ("open /dev/full/x", 22, 'couldn\'t open "/dev/full/x": not a directory'),
    ],
)
def test_clients_hear_why_but_not_where(
    language: Language, text: str, code: int, message: str, tmp_path: Path
) -> None:
    path = language.script(tmp_path, FAILING_READ[language.name].replace("TEXT", text))
    with Server("-n", language.name, path) as server:
        assert reason(server) == (code, message)
        assert f"pread: {path}:5: {message}\n" in server.log
