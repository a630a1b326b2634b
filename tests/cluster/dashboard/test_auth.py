"""A dashboard that other machines can reach requires the token for everything."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import Mock

import pytest
from distributed import Scheduler
from tornado import web
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from cluster import certificates
from cluster.dashboard.auth import COOKIE, TOKEN_FILE, _UnauthorizedHandler, dask_setup
from tests.commands import PATIENCE, ROOT, free_port, wait_until

ROUTES = (
    "/", "/status", "/tesserae", "/tesserae.json", "/metrics", "/info/main/workers.html",
    "/info/main/logs.html", "/json/counts.json", "/json/identity.json", "/individual-cpu",
    "/statics/css/base.css", "/static/js/bokeh.min.js", "/status/autoload.js", "/sitemap.json",
    "/proxy/8786/127.0.0.1/status", "/nothing", "//health", "/health/", "/health/../status",
    "/status?token=", "/status?token=wrong", "/health%2f..%2fstatus",
)  # fmt: skip
SOCKETS = ("/status/ws", "/tesserae/ws")


@dataclass(frozen=True)
class Answer:
    """The answer of an HTTP server."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Site:
    """A dashboard that requires a token."""

    port: int
    token: str
    authority: Path

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Answer:
        """Send a request, and return the answer."""
        context = ssl.create_default_context(cafile=self.authority)
        with contextlib.closing(
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=context)
        ) as connection:
            connection.request(method, path, headers=dict(headers or {}))
            with connection.getresponse() as answer:
                body = "" if answer.status == 101 else answer.read().decode(errors="replace")
                return Answer(answer.status, dict(answer.headers), body)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start a scheduler with HTTPS, as `tesserae cluster scheduler --dashboard-host ...` does."""
    folder = tmp_path_factory.mktemp("site")
    certificates.write_certificates(folder / "certs", certificates.create_certificates())
    port = free_port()
    tls = "DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__TLS__"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        TOKEN_FILE: str(folder / "certs" / certificates.TOKEN),
        tls + "CERT": str(folder / "certs" / "scheduler.pem"),
        tls + "KEY": str(folder / "certs" / "scheduler.key"),
    }
    words = [
        *(
            sys.executable,
            "-m",
            "cluster.processes.serve",
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ),
        *("--dashboard-address", f"127.0.0.1:{port}"),
        *("--preload", "workflows.dashboard.plugin", "--preload", "cluster.dashboard.auth"),
    ]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(words, env=environment, stdout=out, stderr=out)
    try:
        dashboard = Site(
            port,
            (folder / "certs" / certificates.TOKEN).read_text().strip(),
            folder / "certs" / certificates.AUTHORITY,
        )
        assert wait_until(lambda: "Scheduler at:" in log.read_text()), log.read_text()
        assert wait_until(lambda: _answers(dashboard)), log.read_text()
        yield dashboard
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _answers(site: Site) -> bool:
    try:
        return site.ask("/health").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ROUTES)
def test_every_path_requires_the_token(site: Site, path: str, method: str) -> None:
    """A response without the token does not even tell whether a page exists."""
    answer = site.ask(path, method=method)
    assert answer.status == 401, answer.body
    assert site.token not in answer.body
    assert answer.headers.get("Set-Cookie") is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": ""},
        {"Cookie": f"{COOKIE}=wrong"},
        {"Cookie": f"{COOKIE}="},
        {"Cookie": f"{COOKIE}=\N{LATIN SMALL LETTER E WITH ACUTE}"},
    ],
)
def test_a_wrong_token_is_refused(site: Site, headers: dict[str, str]) -> None:
    """Headers and cookies are both compared with the token."""
    assert site.ask("/status", headers).status == 401


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "bokeh",
}


@pytest.mark.parametrize("path", SOCKETS)
def test_websockets_require_the_token(site: Site, path: str) -> None:
    """Without the token the status is 401; with it bokeh reports what the request lacks."""
    assert site.ask(path, HANDSHAKE).status == 401
    let_in = site.ask(path, {**HANDSHAKE, "Cookie": f"{COOKIE}={site.token}"})
    assert let_in.status != 401


@pytest.mark.parametrize("path", ["/status", "/tesserae", "/tesserae.json", "/metrics"])
def test_the_token_grants_access(site: Site, path: str) -> None:
    """A client sends the token in a header of each request, or once in the URL to get a cookie."""
    assert site.ask(path, {"Authorization": f"Bearer {site.token}"}).status == 200

    welcome = site.ask(f"{path}?token={site.token}")
    cookie = welcome.headers["Set-Cookie"]
    assert (welcome.status, welcome.headers["Location"]) == (302, path)
    assert {"httponly", "secure", "samesite=strict"} <= {
        part.strip().lower() for part in cookie.split(";")
    }
    assert site.ask(path, {"Cookie": cookie.partition(";")[0]}).status == 200


def test_the_redirect_stays_on_this_host(site: Site) -> None:
    """A path that begins with two slashes would lead to another host."""
    welcome = site.ask(f"//example.com/status?token={site.token}")
    assert welcome.headers["Location"] == "/example.com/status"


def test_plain_http_is_not_answered(site: Site) -> None:
    """A request without TLS gets no answer, even with the token."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE)
    ) as connection:
        connection.request("GET", f"/status?token={site.token}")
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.getresponse()


@pytest.mark.parametrize(
    "token", [None, b"", b" \n", b"\xff"], ids=["no file", "empty", "blank", "no text"]
)
def test_all_requests_are_refused_without_a_token_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: bytes | None
) -> None:
    """Dask continues if a preload module fails, so an open dashboard would be served."""
    file = tmp_path / "token"
    if token is not None:
        file.write_bytes(token)
    monkeypatch.setenv(TOKEN_FILE, str(file))
    application = web.Application([(r"/.*", web.RequestHandler)])
    before = application.find_handler
    dask_setup(cast(Scheduler, SimpleNamespace(http_application=application)))
    assert application.find_handler != before
    for headers in ({}, {"Authorization": "Bearer "}, {"Cookie": f"{COOKIE}="}):
        for path in ("/status", "/status?token=", "/status?token=%20"):
            line = RequestStartLine("GET", path, "HTTP/1.1")
            request = HTTPServerRequest(
                headers=HTTPHeaders({"Host": "a", **headers}), connection=Mock(), start_line=line
            )
            delegate = application.find_handler(request)
            assert delegate.handler_class is _UnauthorizedHandler
