"""The curl plugin's parameters: what is wrong with them, and which are secrets."""

import logging
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from nbdfork.plugins._web.reply import scheme_of, shown_url

from nbdfork.plugin import ConfigError
from tests.support.curl import plugin
from tests.support.harness import (
    NBDFORK,
    Server,
    is_alive,
    nbdfork,
    need,
    output,
    run,
    title,
)
from tests.support.nginx import PASSWORD, Nginx
from tests.support.noise import CONTENT

# -- secrets -------------------------------------------------------------------------------------


def test_where_passwords_are_read_from(web: Nginx, tmp_path: Path) -> None:
    need("nbdinfo")
    (tmp_path / "password").write_text(f"{PASSWORD}\nanother line\n")
    size = 'nbdinfo --size "$uri"'
    words = ["-U", "-", "curl", f"{web.url}/private/disk", "user=user"]
    done = output(*NBDFORK, *words, f"password=+{tmp_path}/password", "--run", size)
    assert done == f"{len(CONTENT)}\n"
    rest = f"{size}; cat"  # what comes after the line is not ours
    done = output(*NBDFORK, *words, "password=-", "--run", rest, input=f"{PASSWORD}\nrest\n")
    assert done == f"{len(CONTENT)}\nrest\n"
    with (tmp_path / "password").open() as file:
        fd = os.dup(file.fileno())
        try:
            done = output(*NBDFORK, *words, f"password=-{fd}", "--run", size, pass_fds=[fd])
        finally:
            os.close(fd)
    assert done == f"{len(CONTENT)}\n"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_secrets_are_not_shown(web: Nginx, version: str) -> None:
    need("nbdinfo")
    secrets = {"password": "pa55word", "cookie": "c=c00kie", "header": "X-Test: t0ken"}
    words = [f"{key}={value}" for key, value in secrets.items()]
    url = web.url if version == "HTTP/1.1" else web.tls_url
    url = f"{url.replace('://', '://own:0wn%40@')}/private/disk?key=k3y?k3y"
    words += [url, f"cainfo={web.ca}", "user=user"]
    with Server("-n", "-v", "-D", "curl.verbose=1", "curl", *words) as server:
        assert run("nbdinfo", server.uri).returncode != 0
        log = server.log
        titles = [title(worker) for worker in server.workers() if is_alive(worker)]
    assert "401 Unauthorized; give user= and password=" in log
    assert f": curl: > HEAD /private/disk?(not shown) {version}\n" in log
    for name in ("X-Test", "Cookie", "Authorization"):
        shown = f": curl: > {name}: (not shown)\n"
        assert shown.lower() in log.lower()  # HTTP/2 has small letters
    assert "dXNlcjpw" not in log  # the beginning of user:p, in base64
    for secret in ("pa55word", "c00kie", "t0ken", "0wn", "k3y"):
        assert secret not in log
    for secret in ("pa55word", "c00kie", "t0ken"):  # those in a URL are the user's to hide
        assert not any(secret in shown for shown in titles)


@pytest.mark.parametrize(
    ("url", "shown", "scheme"),
    [
        ("http://user:p@ss@host:80/path?k3y#k3y", "http://host:80/path", "http"),
        ("HTTP:/user:pass@host", "HTTP:/host", "http"),
        ("user:pass@host/path@path", "host/path@path", ""),
        ("user:pass@host", "host", ""),
        ("host/path?k3y=http://other", "host/path", ""),
        ("//user:pass@host/path", "//host/path", ""),
        ("file:/path", "file:/path", "file"),
        ("file:///path", "file:///path", "file"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str, scheme: str) -> None:
    assert (shown_url(url), scheme_of(url)) == (shown, scheme)


def test_what_scripts_print_is_logged_on_demand(
    web: Nginx, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    words = [f"{web.url}/disk", "header-script=echo X-Test: a", "cookie-script=echo b=c"]
    plugin(*words).open("", True).close()
    assert "X-Test: a" not in caplog.text
    plugin(*words, debug="scripts").open("", True).close()
    assert "header-script: X-Test: a" in caplog.text
    assert "cookie-script: b=c" in caplog.text


# -- what is wrong at the start ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "parameter url=URL is required"),
        ("url=", "url=: the URL of the file to serve is expected"),
        ("http://h/a b", "url=: a URL has no spaces: write %20 for one"),
        ("scp://h/d", "scp:// has no way to read a part of a file; these have: http, https, "),
        ("nonsense://h/d", "nonsense:// has no way to read a part"),
        ("http://h/d protocols=https,sftp", "http:// is none of protocols=https,sftp"),
        ("http://h/d protocols=nonsense", "'nonsense' is none of: dict, file, ftp"),
        ("http://h/d header=A:b header-script=x", "either header= or header-script="),
        ("http://h/d cookie=a=b cookie-script=x", "either cookie= or cookie-script="),
        ("http://h/d header-script-renew=1", "header-script-renew= needs header-script="),
        ("http://h/d cookie-script-renew=1", "cookie-script-renew= needs cookie-script="),
        ("http://h/d header=nonsense", "header=: write 'Name: value', 'Name:' or 'Name;'"),
        ("http://h/d cookiefile=/none", "cookiefile=/none: there is no such file"),
        ("http://h/d cookiejar=/none/jar", "cookiejar=/none/jar: there is no such directory"),
        ("http://h/d cookiejar=/tmp", "cookiejar=/tmp: is a directory, not a file"),
        ("http://h/d ssl-version=sslv3", "ssl-version=: libcurl .* refuses this value"),
        ("http://h/d password=+/none", "password=: cannot read it: .*'/none'"),
        ("http://h/d password=-x", "FD must be the number of a file descriptor above 2"),
        ("http://h/d password=-99999", "password=: cannot read it: .*Bad file descriptor"),
        ("http://h/d connections=0", "expected a whole number from 1 to 1024"),
        ("http://h/d cainfo=/none", "cainfo=/none: there is no such file"),
        ("http://h/d capath=/none", "capath=/none: there is no such directory"),
    ],
)
def test_bad_parameters(arguments: str, message: str) -> None:
    words = arguments.replace("a b", "a\tb").split(" ") if arguments else []
    with pytest.raises(ConfigError, match=message) as caught:
        plugin(*words)
    assert "\n" not in str(caught.value)


def test_no_standard_input_to_read_a_password_from() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:  # it is the client's
        done = nbdfork("-s", "curl", "http://h/d", "password=-", stdin=theirs)
    nothing = nbdfork("curl", "http://h/d", "password=-", stdin=subprocess.DEVNULL)
    for refusal in (done, nothing):
        assert refusal.returncode == 1
        message = "password=-: there is nothing on standard input; use +FILE"
        assert refusal.stderr == f"nbdfork: error: curl: {message}\n"


def without(module: str, directory: Path) -> Mapping[str, str]:
    (directory / f"{module}.py").write_text("raise ImportError\n")
    return {**os.environ, "PYTHONPATH": str(directory)}


def test_without_pycurl(tmp_path: Path) -> None:
    environment = without("pycurl", tmp_path)
    done = nbdfork("-U", "-", "curl", "http://localhost/disk", env=environment)
    assert done.returncode == 1
    assert done.stderr == (
        'nbdfork: error: the curl plugin needs pycurl: pip install "nbdfork[curl]"\n'
    )
    assert "name=curl\n" in output(*NBDFORK, "--dump-plugin", "curl", env=environment)


def test_dump_plugin_tells_of_libcurl() -> None:
    import pycurl

    shown = output(*NBDFORK, "--dump-plugin", "curl")
    assert f"curl_version={pycurl.version_info()[1]}\n" in shown
    assert " http https " in shown
