"""Tests of the server: its routes, and everything that a client must not be able to do."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import re
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StoreError, TesseraeError
from pipeline.store import arrays
from tests.commands import PATIENCE, wait_until
from tests.images import prepare_inline
from tests.workflows.search.conftest import Opener
from tests.workflows.search.serving import Reply, Running, serving
from tests.workflows.search.toy import (
    CLASSES,
    SIZE,
    Toy,
    colour,
    make_source,
    make_store,
    paint,
)
from workflows.search import engine as engine_room
from workflows.search.gallery import Gallery
from workflows.search.query_image import MAX_IMAGE_BYTES, ImagePreprocessor
from workflows.search.results_file import FORMATS
from workflows.search.server import app, search_handler, service
from workflows.search.server.connections import Connections
from workflows.search.server.security import HEADERS, Guard
from workflows.search.server.thread_pool import BoundedThreadPool, BusyError
from workflows.search.server.uploads import MAX_CACHED_UPLOADS


@pytest.fixture(scope="module")
def running(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run one server for all tests, each of which leaves it unchanged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_room, "open_model", lambda _, **__: toy)
        engine = engine_room.open_engine(tmp_path_factory.mktemp("run"))
    with serving(engine) as started:
        yield started
    engine.close()


@pytest.fixture(autouse=True)
def _lives(running: Running) -> Iterator[None]:
    """Check after each test that the server responds and that every slot is free."""
    yield
    assert running.ask("/api/about").status == 200
    assert wait_until(lambda: running.service.uploading == 0, 10)
    service = running.service
    for pool in (service.searches, service.thumbs, service.uploads, service.downloads):
        assert wait_until(lambda pool=pool: pool._slots._value == pool._capacity, 10)


def png(label: int = 1, seed: int = 5, side: int = 40) -> bytes:
    file = io.BytesIO()
    paint(label, seed, side).save(file, "PNG")
    return file.getvalue()


# --- what is answered ----------------------------------------------------------------------------


def test_the_page_and_its_files_are_served(running: Running) -> None:
    """The page's files have their types and ETags, and refer to no other site."""
    for path, kind in [
        ("/", "text/html"),
        ("/search.js", "text/javascript"),
        ("/search.css", "text/css"),
    ]:
        reply = running.ask(path)
        assert (reply.status, reply.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert b"http:" not in reply.body
        assert b"https:" not in reply.body
        assert running.ask(path, If_None_Match=reply.headers["etag"]).status == 304
    page = running.ask("/").body
    assert b"style=" not in page
    assert b"<style" not in page
    assert not re.search(rb"\bon[a-z]+=", page)
    assert page.count(b"<script") == 1
    for sink in (b"innerHTML", b"outerHTML", b"insertAdjacent", b"document.write", b"eval("):
        assert sink not in running.ask("/search.js").body
    assert running.ask("/favicon.ico").status == 204


def test_every_response_has_the_security_headers(running: Running) -> None:
    """Error responses have the security headers, too."""
    for path in (
        "/",
        "/api/about",
        "/api/search?q=red",
        "/api/search?q=",
        "/nothing",
        "/thumb/x/y.jpg",
    ):
        reply = running.ask(path)
        for name, value in HEADERS.items():
            if name != "Cache-Control":
                assert reply.headers[name.lower()] == value, path
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'self';")


def test_the_engine_is_described(running: Running) -> None:
    """The description has no path of the store."""
    about = running.ask("/api/about").json()
    assert about["store"] == "store"
    assert [(split["name"], split["rows"]) for split in about["splits"]] == [
        ("train", 39),
        ("val", 14),
    ]
    assert (about["classes"], about["most_bytes"], about["csls"]) == (7, MAX_IMAGE_BYTES, False)
    assert len(about["first"]) == 24
    assert "/" not in str({**about, "first": []})


def test_answers_are_those_of_the_engine(running: Running) -> None:
    """Answers contain keys, and are restricted to the requested splits and classes."""
    engine = running.service.engine
    answer = running.search("red + blue", k=5, to="both").json()
    assert answer["query"] == "red + blue"
    assert answer["given"] is None
    assert len(answer["images"]) == len(answer["words"]) == 5
    hit = answer["images"][0]
    assert hit["key"] == engine.gallery.key(hit["split"], hit["row"])
    filtered = running.search(
        "#train:3", k=50, split=["val"], **{"class": ["green", "n00000000"]}
    ).json()
    assert {hit["split"] for hit in filtered["images"]} == {"val"}
    assert {hit["label"] for hit in filtered["images"]} == {0, 1}
    assert running.search("red").json()["words"] == []
    assert len(running.search("red").json()["images"]) == 24


def test_results_are_downloaded(running: Running) -> None:
    """A file has the results of the same search, and a name."""
    answer = running.search("red + blue", k=5, to="both", split="val").json()
    answer.pop("given")
    for format, kind in FORMATS.items():
        reply = running.ask(f"/api/download?q=red+%2B+blue&k=5&to=both&split=val&format={format}")
        assert (reply.status, reply.headers["content-type"]) == (200, kind)
        name = f'attachment; filename="search-results.{format}"'
        assert reply.headers["content-disposition"] == name
        assert int(reply.headers["content-length"]) == len(reply.body)
        if format == "csv":
            lines = list(csv.DictReader(io.StringIO(reply.body.decode())))
            rows = [(line["split"], int(line["row"])) for line in lines if line["kind"] == "image"]
            assert rows == [(hit["split"], hit["row"]) for hit in answer["images"]]
        elif format == "json":
            assert json.loads(reply.body) == answer
        else:
            with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
                assert archive.testzip() is None
                assert len(archive.namelist()) == 7


def test_results_of_an_upload_are_downloaded(running: Running) -> None:
    """An upload that is no longer in the cache is reported with status 410."""
    given = running.search("", body=png(2), k=3).json()["given"]
    reply = running.ask(f"/api/download?q=%40&given={given}&format=json&k=3")
    assert len(json.loads(reply.body)["images"]) == 3
    gone = running.ask(f"/api/download?q=%40&given={'0' * 32}&format=json")
    assert (gone.status, "upload it again" in gone.error) == (410, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("q=red&format=exe", "format is 'exe': expected one of csv, json, zip."),
        ("format=csv", "the query is empty"),
        ("q=%40&format=csv", "add an image"),
        ("q=red&format=csv&k=1001", "k is 1001"),
        ("q=xyzzy&format=csv", "is unknown"),
    ],
)
def test_an_invalid_download_is_an_error_message(
    running: Running, arguments: str, expected: str
) -> None:
    """It is JSON with status 400, as for a search."""
    reply = running.ask(f"/api/download?{arguments}")
    assert (reply.status, "content-disposition" in reply.headers) == (400, False)
    assert expected in reply.error


def test_a_download_that_is_broken_off_leaves_no_error(
    running: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client leaves after the first bytes of an archive that no buffer of a socket holds."""
    sent = threading.Event()

    class LargeFile(io.BytesIO):
        """A file that says when its first piece has been read."""

        def read(self, size: int | None = -1) -> bytes:
            sent.set()
            return super().read(size)

    monkeypatch.setattr(
        search_handler.tempfile, "SpooledTemporaryFile", lambda _: LargeFile(), raising=True
    )
    monkeypatch.setattr(
        search_handler, "write_results", lambda _a, _g, _f, file, **_: file.write(bytes(2**26))
    )
    with running.connect() as opened:
        request = "GET /api/download?q=red&k=53&format=zip HTTP/1.1"
        opened.sendall(f"{request}\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode())
        assert opened.recv(100)
        assert sent.wait(PATIENCE)
    assert running.ask("/api/about").status == 200
    assert running.ask("/api/download?q=red&format=csv").status == 200  # after the end of the other
    assert capsys.readouterr().err == ""


def test_a_download_that_nobody_reads_ends(
    running: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server closes the connection, and with it the file."""
    monkeypatch.setattr(search_handler, "PIECE_SECONDS", 0.3)
    monkeypatch.setattr(
        search_handler, "write_results", lambda _a, _g, _f, file, **_: file.write(bytes(2**26))
    )
    with running.connect() as opened:
        request = "GET /api/download?q=red&format=zip HTTP/1.1"
        opened.sendall(f"{request}\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode())
        assert opened.recv(100)
        time.sleep(1.0)
        received = 0
        with contextlib.suppress(ConnectionError):
            while piece := opened.recv(2**20):
                received += len(piece)
        assert received < 2**26
    assert capsys.readouterr().err == ""


def _begin_download(running: Running) -> socket.socket:
    """Begin a download that the client does not read on."""
    opened = running.connect()
    request = "GET /api/download?q=red&format=zip HTTP/1.1"
    opened.sendall(f"{request}\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode())
    assert opened.recv(100)
    return opened


def test_only_some_downloads_are_open_at_once(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each keeps a file, and its connection cannot be closed for another client."""
    monkeypatch.setattr(search_handler, "MAX_OPEN_DOWNLOADS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(
            search_handler, "write_results", lambda _a, _g, _f, file, **_: file.write(bytes(2**26))
        )
        with closing(_begin_download(running)), closing(_begin_download(running)):
            reply = running.ask("/api/download?q=red&format=csv")
            assert (reply.status, "too many files" in reply.error) == (503, True)
            assert running.search("red").status == 200
    assert wait_until(lambda: running.service.downloading == 0, 10)
    assert running.ask("/api/download?q=red&format=csv").status == 200


def test_a_server_that_stops_breaks_off_downloads(
    running: Running, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It prints no errors."""
    monkeypatch.setattr(
        search_handler, "write_results", lambda _a, _g, _f, file, **_: file.write(bytes(2**26))
    )
    with serving(running.service.engine) as other:
        opened = _begin_download(other)
        assert other.service.downloading == 1
        capsys.readouterr()
    opened.close()
    assert capsys.readouterr().err == ""
    assert caplog.records == []


def test_an_archive_that_is_too_large_is_refused(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of the same results is not."""
    monkeypatch.setattr(search_handler, "MAX_DOWNLOAD_BYTES", 4_000)
    reply = running.ask("/api/download?q=red&k=53&format=zip")
    assert (reply.status, "fewer results" in reply.error) == (400, True)
    assert running.ask("/api/download?q=red&k=53&format=csv").status == 200


def test_an_image_is_uploaded_and_searched_with(running: Running) -> None:
    """A later request can name an uploaded image, alone or with words."""
    answer = running.search("", body=png(), to="both", k=3).json()
    assert answer["query"] == "@"
    assert {hit["label"] for hit in answer["images"]} == {1}
    assert answer["words"][0]["words"] == "green"
    again = running.search("@ - blue", given=answer["given"], k=3).json()
    assert again["query"] == "@ - blue"
    assert running.search("- blue", body=png(), k=3).json()["images"] == again["images"]
    reply = running.ask(f"/given/{answer['given']}.jpg")
    picture = Image.open(io.BytesIO(reply.body))
    assert (reply.status, picture.size, picture.format) == (200, (16, 16), "JPEG")
    assert running.search("red", given=answer["given"]).json()["query"] == "@ + red"


def test_an_evicted_upload_is_reported_with_status_410(running: Running) -> None:
    """The page then uploads the image again."""
    reply = running.search("@", given="0" * 32)
    assert (reply.status, reply.error) == (
        410,
        "that image is no longer in the cache: upload it again.",
    )
    assert running.ask(f"/given/{'0' * 32}.jpg").status == 404


def test_the_cache_of_uploads_is_bounded(running: Running) -> None:
    """The cache keeps the most recently used uploads."""
    upload_cache = running.service.upload_cache
    first = upload_cache.add(png(0, 0))
    square = np.zeros((16, 16, 3), np.uint8)

    class Blank:
        def preprocess(self, data: bytes) -> Any:
            return square

    upload_cache._local.preprocessor = Blank()
    try:
        for number in range(MAX_CACHED_UPLOADS + 5):
            upload_cache.add(b"%d" % number)
            assert upload_cache.get(first.name) is not None
        for number in range(MAX_CACHED_UPLOADS):
            assert first.name in upload_cache._uploads
            upload_cache.add(b"more %d" % number)
        assert first.name not in upload_cache._uploads
    finally:
        del upload_cache._local.preprocessor
    assert len(upload_cache._uploads) == MAX_CACHED_UPLOADS


def test_thumbnails_come_from_the_nearest_stored_size(running: Running) -> None:
    """Thumbnails equal the stored pixels, and an unchanged one gives status 304."""
    gallery = running.service.engine.gallery
    row = running.search("yellow").json()["images"][0]
    path = f"/thumb/{row['split']}/{row['row']}.jpg"
    for query, stored in [
        ("", 8),
        ("?size=1", 8),
        ("?size=11", 8),
        ("?size=12", 16),
        ("?size=9999", 16),
    ]:
        reply = running.ask(path + query)
        assert (reply.status, reply.headers["content-type"]) == (200, "image/jpeg")
        actual = np.asarray(Image.open(io.BytesIO(reply.body)), np.int32)
        expected = gallery.rows(row["split"], stored, [row["row"]])[0]
        assert actual.shape == expected.shape == (stored, stored, 3)
        assert abs(actual - expected).mean() < 8
        again = running.ask(path + query, If_None_Match=reply.headers["etag"])
        assert (again.status, again.body) == (304, b"")
    assert gallery.splits[row["split"]].digest[:32] in reply.headers["etag"]
    assert reply.headers["cache-control"] == "private, no-cache"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"q": ""}, "type words"),
        ({"q": "redd"}, "did you mean red"),
        ({"q": "#99"}, "no row 99"),
        ({"q": "@"}, "the query has none"),
        ({"q": "x" * 600}, "600 characters"),
        ({"q": "red", "k": "0"}, "k is 0"),
        ({"q": "red", "k": "5000"}, "k is 5000"),
        ({"q": "red", "k": "-1"}, "k is '-1': expected a whole number"),
        ({"q": "red", "k": "\u0663"}, "expected a whole number"),
        ({"q": "red", "k": "1e9"}, "expected a whole number"),
        ({"q": "red", "to": "sounds"}, "to is 'sounds'"),
        ({"q": "red", "split": "../etc"}, "split '../etc' is not searched here"),
        ({"q": "red", "class": "nothing"}, "no class 'nothing'"),
        ({"q": "red", "csls": "1"}, "CSLS is not available: start the server with --csls"),
        ({"q": "<script>alert(1)</script>"}, "'<script>alert(1)</script>' is unknown"),
    ],
)
def test_an_invalid_request_gets_an_error_message(
    running: Running, parameters: dict[str, Any], expected: str
) -> None:
    """The error is JSON, which no browser renders as a page."""
    reply = running.search(parameters.pop("q"), **parameters)
    assert reply.status == 400
    assert expected in reply.error


def test_invalid_text_gets_an_error_message(running: Running) -> None:
    """A query that is not UTF-8 is an error of the client."""
    reply = running.ask("/api/search?q=%ff%fe")
    assert reply.status == 400
    assert reply.error


@pytest.mark.parametrize(
    "path",
    [
        "/thumb/../../etc/passwd",
        "/thumb/../../../../../../etc/passwd.jpg",
        "/thumb/%2e%2e/%2e%2e/etc/passwd",
        "/thumb/%2e%2e%2f%2e%2e%2fetc/passwd.jpg",
        "/thumb/..%2f..%2frecipe/0.jpg",
        "/thumb/train%00/0.jpg",
        "/thumb/train/0%00.jpg",
        "/thumb//etc/passwd.jpg",
        "/thumb/%2Fetc/0.jpg",
        "/thumb/test/0.jpg",
        "/thumb/TRAIN/0.jpg",
        "/thumb/train/-1.jpg",
        "/thumb/train/42.jpg",
        "/thumb/train/99999999999999999999999.jpg",
        "/thumb/train/1e3.jpg",
        "/thumb/train/0x1.jpg",
        "/thumb/train/%D9%A3.jpg",
        "/thumb/train/+1.jpg",
        "/thumb/train/0.png",
        "/thumb/train/0",
        "/thumb/train/",
        "/thumb/",
        "/recipe.json",
        "/page/index.html",
        "/search.py",
        "/../search.js",
        "/static/search.js",
        "/search.js/../handlers.py",
        "/given/../../etc/passwd.jpg",
        "/given/..%2f..%2fetc%2fpasswd.jpg",
        "//127.0.0.1/",
        "/api",
        "/api/",
        "/api/search/x",
    ],
)
def test_no_path_leads_out_of_the_store(running: Running, path: str) -> None:
    """A path is only compared with names of the store, and never opened."""
    reply = running.ask(path)
    assert reply.status in (400, 404)
    assert reply.error
    assert b"root:" not in reply.body


@pytest.mark.parametrize("size", ["0x9", "-1", "1.5", "99999", "", "%00", "%D9%A3", "9;1"])
def test_a_size_must_be_a_number(running: Running, size: str) -> None:
    """Any other size is refused."""
    reply = running.ask(f"/thumb/train/0.jpg?size={size}")
    assert reply.status == 400 if size else reply.status in (200, 400)


def test_a_row_in_quarantine_has_no_thumbnail(running: Running) -> None:
    """A quarantined row is reported with status 404."""
    absent = running.service.engine.gallery.splits["train"].excluded
    reply = running.ask(f"/thumb/train/{absent[0]}.jpg")
    assert (reply.status, "is quarantined" in reply.error) == (404, True)


@pytest.mark.parametrize(
    ("host", "in_"),
    [
        ("127.0.0.1:{port}", True),
        ("localhost:{port}", True),
        ("LOCALHOST", True),
        ("[::1]:{port}", True),
        ("127.0.0.1:9", True),
        ("evil.example", False),
        ("evil.example:{port}", False),
        ("127.0.0.1.evil.example:{port}", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("192.168.1.7:{port}", False),
        ("localhost, evil.example", False),
        ("", False),
        ("localhost:port", False),
        ("localhost/evil", False),
    ],
)
def test_only_names_of_the_server_are_admitted(running: Running, host: str, in_: bool) -> None:
    """A foreign host name with this address is refused, which stops DNS rebinding."""
    named = host.format(port=running.port)
    for path in ("/", "/api/about", "/thumb/train/0.jpg", "/nothing"):
        reply = running.ask(path, Host=named)
        if in_:
            assert reply.status in (200, 404)
        else:
            assert reply.status == 403 or (reply.status == 400 and set(host) & set(",/@"))
            assert reply.status == 400 or "not a name of this server" in reply.error


@pytest.mark.parametrize(
    ("headers", "in_"),
    [
        ({}, True),
        ({"Origin": "http://127.0.0.1:{port}"}, True),
        ({"Origin": "http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"}, True),
        ({"Origin": "http://localhost:{port}"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://127.0.0.1:{port}", "Sec_Fetch_Site": "cross-site"}, False),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        ({"Sec_Fetch_Site": "same-site"}, False),
    ],
)
def test_pages_of_other_sites_cannot_upload(
    running: Running, headers: dict[str, str], in_: bool
) -> None:
    """A client that is no browser sends no origin and may upload."""
    named = {name: value.format(port=running.port) for name, value in headers.items()}
    reply = running.ask("/api/search?q=", method="POST", body=png(), **named)
    assert (reply.status == 200) is in_
    assert in_ or (reply.status == 403 and reply.error)


def test_pages_of_other_sites_cannot_search(running: Running) -> None:
    """Another site may link to the page only."""
    for path, status in [("/", 200), ("/api/about", 403), ("/thumb/train/0.jpg", 403)]:
        assert running.ask(path, Sec_Fetch_Site="cross-site").status == status
    assert running.ask("/", Sec_Fetch_Site="none").status == 200
    assert "access-control-allow-origin" not in running.ask("/api/about", Origin="http://x").headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"])
def test_other_methods_are_refused(running: Running, method: str) -> None:
    """Unsupported methods are refused on every route."""
    for path in ("/", "/api/about", "/api/search?q=red", "/thumb/train/0.jpg"):
        assert running.ask(path, method=method).status in (405, 400)


# --- what is handed in ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "image/png", 415),
        (b"hello", "text/plain", 415),
        (b"{}", "application/json", 415),
        (b"GIF", "image/gif", 415),
        (b"%PDF-1.7 ...", "image/png", 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 415),
        (b"P6 1 1 255 abc", "image/x-portable-pixmap", 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image/png", 415),
        (b"--x\r\n\r\nx\r\n--x--", "multipart/form-data; boundary=x", 415),
        (b"\x89PNG\r\n\x1a\n", "image/png", 400),
        (b"\xff\xd8\xff\xe0 not much more", "image/jpeg", 400),
        (b"GIF89a" + b"\0" * 30, "image/gif", 400),
    ],
)  # fmt: skip
def test_an_upload_that_is_no_image_is_refused(
    running: Running, body: bytes, kind: str, status: int
) -> None:
    """The first bytes or the decoder decide, whatever the content type is."""
    reply = running.ask("/api/search?q=", method="POST", body=body, Content_Type=kind)
    assert reply.status == status
    assert reply.error


def test_a_query_is_checked_before_the_upload_is_decoded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid query does not reach the decoder."""
    monkeypatch.setattr(running.service.upload_cache, "add", None)
    assert "after +" in running.search("red +", body=png()).error
    assert "k is 'x'" in running.search("red", body=png(), k="x").error


def test_every_listed_format_is_accepted(running: Running) -> None:
    """The formats in the description of the engine can be uploaded."""
    picture = paint(2, 9)
    for name in running.ask("/api/about").json()["formats"]:
        file = io.BytesIO()
        picture.save(file, name)
        reply = running.search("", body=file.getvalue(), k=1)
        assert reply.status == 200, name
        assert reply.json()["images"][0]["label"] == 2, name


def png_of(head: bytes, data: bytes) -> bytes:
    """Return a PNG file with valid checksums from the contents of two chunks."""
    file = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b"")):
        file += struct.pack(">I", len(body)) + kind + body
        file += struct.pack(">I", zlib.crc32(kind + body))
    return file


def test_a_decompression_bomb_is_refused(running: Running) -> None:
    """A hundred bytes that would decode to gigabytes are refused."""
    head = struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    reply = running.search("", body=png_of(head, zlib.compress(bytes(100))))
    assert reply.status == 400
    assert "cannot be read" in reply.error


def stream(running: Running, head: bytes, size: int) -> tuple[int, bytes]:
    """Send noise until the server closes; return the bytes sent and the response."""
    noise = np.random.default_rng(0).bytes(2**20)
    sent = 0
    with running.connect() as opened:
        opened.sendall(head)
        try:
            while sent < size:
                opened.sendall(noise)
                sent += len(noise)
        except OSError:
            pass
        answer = b""
        try:
            while piece := opened.recv(65536):
                answer += piece
        except OSError:
            pass
    return sent, answer


def test_a_large_upload_is_cut_off(running: Running) -> None:
    """A declared length is refused at once, a chunked body at the limit."""
    head = b"POST /api/search?q= HTTP/1.1\r\nHost: localhost\r\n"
    size = 100 * 2**20
    sent, answer = stream(running, head + b"Content-Length: %d\r\n\r\n" % size, size)
    assert sent < MAX_IMAGE_BYTES
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"too large: expected at most 20,971,520 bytes" in answer
    endless = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size
    sent, answer = stream(running, head + endless, size)
    assert MAX_IMAGE_BYTES <= sent < MAX_IMAGE_BYTES + 30 * 2**20
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_chunked_upload_is_accepted(running: Running) -> None:
    """Chunked transfer encoding is accepted, as browsers and pipes use it."""
    data = png()
    pieces = [data[at : at + 100] for at in range(0, len(data), 100)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    head = b"POST /api/search?q=&k=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = running.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 6\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999999999\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        b"GET /api/about HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n",
    ],
)
def test_a_malformed_request_is_cut_off(running: Running, request_: bytes) -> None:
    """The server responds soon and serves other clients meanwhile."""
    started = time.monotonic()
    answer = running.raw(request_)
    assert time.monotonic() - started < 10
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200"))
    assert b"evil.example/" not in answer


def test_an_aborted_upload_frees_its_slot(running: Running) -> None:
    """Ten aborted uploads in a row leave no slot occupied."""
    for _ in range(10):
        with running.connect() as opened:
            opened.sendall(
                b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
            )
            assert wait_until(lambda: running.service.uploading == 1, 10)
        assert wait_until(lambda: running.service.uploading == 0, 10)


def test_simultaneous_uploads_are_limited(running: Running) -> None:
    """One more upload gets status 503 and can be repeated later."""
    slow = [running.connect() for _ in range(4)]
    try:
        for opened in slow:
            opened.sendall(
                b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
            )
        assert wait_until(lambda: running.service.uploading == 4, 10)
        reply = running.search("", body=png())
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "too many images" in reply.error
        assert running.search("red").status == 200
    finally:
        for opened in slow:
            opened.close()
    assert wait_until(lambda: running.service.uploading == 0, 10)
    assert running.search("", body=png()).status == 200


def test_a_slow_upload_is_cut_off(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then does not occupy a slot for ever."""
    monkeypatch.setattr(search_handler, "BODY_SECONDS", 0.5)
    with running.connect() as opened:
        opened.sendall(
            b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        )
        started = time.monotonic()
        with contextlib.suppress(OSError):  # a pipe that is broken, or reset
            while time.monotonic() - started < 20:
                opened.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() - started < 10


def test_open_connections_are_limited(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit, the connection idle for longest is closed in favour of a new one."""
    monkeypatch.setattr(service, "MAX_CONNECTIONS", 8)
    connections = running.service.connections
    assert wait_until(lambda: len(connections) == 0, 10)
    open_connections = [running.connect() for _ in range(8)]
    try:
        assert wait_until(lambda: len(connections) == 8, 10)
        open_connections[0].sendall(ABOUT)  # whoever asks for something is no longer the oldest
        assert open_connections[0].recv(20).startswith(b"HTTP/1.1 200")
        for _ in range(5):
            assert running.ask("/api/about").status == 200
            assert len(connections) <= 8
        assert open_connections[1].recv(10) == b""
        open_connections[0].sendall(ABOUT)
        assert open_connections[0].recv(10)
    finally:
        for opened in open_connections:
            opened.close()
    assert wait_until(lambda: len(connections) == 0, 10)


ABOUT = b"GET /api/about HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_idle_connections_beyond_the_limit_lock_no_client_out(
    running: Running,
) -> None:
    """The server answers although 300 connections are idle or half through a request."""
    silent = []
    try:
        for number in range(300):
            silent.append(running.connect())
            if number % 3 == 0:
                silent[-1].sendall(b"GET /api/search?q=red HTTP/1.1\r\nHost: loc")
        assert running.search("red").json()["images"]
        assert len(running.service.connections) <= service.MAX_CONNECTIONS
    finally:
        for opened in silent:
            opened.close()


class Stream:
    """A connection that can be closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_busy_connection_is_never_closed() -> None:
    """No connection is admitted while all are busy; an answered one is the newest idle one."""
    connections = Connections(lambda: 2)
    first, second, third, fourth = streams = [Stream() for _ in range(4)]
    assert connections.admit(first)
    assert connections.admit(second)
    connections.begin(first)
    connections.begin(second)
    assert not connections.admit(third)
    connections.end(second)
    connections.end(first)
    assert connections.admit(third)  # for the second, which has been idle for longer
    connections.begin(first)
    assert connections.admit(fourth)
    assert [stream.closed for stream in streams] == [False, True, True, False]
    for stream in streams:
        connections.remove(stream)
        connections.end(stream)
    assert len(connections) == 0


# --- hostile files and names ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(real_data: Path) -> list[Path]:
    return sorted((real_data / "hostile").iterdir())


def upload_all(running: Running, files: list[Path]) -> tuple[int, int]:
    """Upload files; return how many were answered and how many refused."""
    accepted = 0
    for file in files:
        reply = running.ask("/api/search?q=&k=1", method="POST", body=file.read_bytes())
        assert reply.status in (200, 400, 413, 415), (file.name, reply)
        if reply.status == 200:
            accepted += 1
            assert reply.json()["images"]
        else:
            assert reply.error.isprintable()
    return accepted, len(files) - accepted


def test_hostile_files_get_an_answer_or_an_error_message(
    running: Running, hostile: list[Path]
) -> None:
    """A sample of hostile files is answered or refused."""
    chosen = [hostile[index] for index in range(0, len(hostile), len(hostile) // 60)]
    accepted, refused = upload_all(running, chosen)
    assert accepted > 10
    assert refused > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_hostile_file_gets_an_answer_or_an_error_message(
    running: Running, hostile: list[Path]
) -> None:
    """All hostile files are answered or refused, and the server survives."""
    accepted, refused = upload_all(running, hostile)
    assert accepted + refused == len(hostile) > 300
    assert accepted > 100
    assert refused > 100


def test_names_from_data_are_escaped_in_json(open_run: Opener, tmp_path: Path) -> None:
    """All characters beyond ASCII are escaped, and the names stay the same."""
    nasty = ("<script>alert(1)</script>", "\u202egpj.exe", "\x1b[31mred", "a\nb", '"quoted"')
    classes = tuple(
        (wnid, name) for (wnid, _), name in zip(CLASSES, [*nasty, "e", "f"], strict=True)
    )
    store = make_store(tmp_path, train=14, val=7, bad=0)
    engine = open_run(Toy(store, classes), tmp_path / "run")
    with serving(engine) as started:
        reply = started.search("red", k=50, to="both")
        assert reply.body.isascii()
        assert b"\n" not in reply.body
        assert {hit["words"] for hit in reply.json()["images"]} == {name for _, name in classes}
        assert started.ask("/api/about").body.isascii()
        for word in reply.json()["words"]:
            if word["query"]:
                assert started.search(word["query"]).status == 200


def test_damage_of_the_store_is_reported(
    open_run: Opener, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client and the terminal get the name of the damaged file."""
    store = make_store(tmp_path, train=14, val=7, bad=0)
    engine = open_run(Toy(store), tmp_path / "run")
    with serving(engine) as started:
        assert started.ask("/thumb/train/3.jpg?size=8").status == 200
        (Path(store) / "images.zarr/train/16/c.0.0.0.0").write_bytes(b"cut off")
        for _ in range(2):
            reply = started.ask("/thumb/train/3.jpg?size=16")
            assert reply.status == 500
            assert "images.zarr/train/16/c.0.0.0.0" in reply.error
            assert "tesserae repair" in reply.error
        assert "StoreDamagedError" in capsys.readouterr().err
        assert started.ask("/thumb/train/3.jpg?size=8").status == 200


# --- pools, sockets ------------------------------------------------------------------------------


def test_a_call_that_waits_too_long_fails() -> None:
    """A call beyond the queue fails at once, and one that timed out in the queue never runs."""
    pool = BoundedThreadPool("test", threads=1, max_waiting=1, timeout_seconds=0.3)
    gate, done = threading.Event(), []

    async def ask() -> list[object]:
        def job(name: int) -> int:
            gate.wait(10)
            done.append(name)
            return name

        first = asyncio.ensure_future(pool.run(job, 1))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(pool.run(job, 2))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        third = await asyncio.gather(pool.run(job, 3), return_exceptions=True)
        assert time.monotonic() - started < 0.2
        return [*await asyncio.gather(first, second, return_exceptions=True), *third]

    results = asyncio.run(ask())
    assert [type(result) for result in results] == [BusyError] * 3
    assert "within 0.3 s" in str(results[0])
    assert "at once" in str(results[2])
    gate.set()
    pool.close()
    assert done == [1]


def test_an_overloaded_server_responds_with_503(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers again once the load is gone."""
    gate = threading.Event()
    search = type(running.service.engine).search

    def slow(*words: Any, **options: Any) -> Any:
        gate.wait(20)
        return search(*words, **options)

    pool = BoundedThreadPool("busy", threads=1, max_waiting=1, timeout_seconds=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(type(running.service.engine), "search", slow)
        patch.setattr(running.service, "searches", pool)
        replies: list[Reply] = []
        asks = [
            threading.Thread(target=lambda: replies.append(running.search("red"))) for _ in range(4)
        ]
        for thread in asks:
            thread.start()
        for thread in asks:
            thread.join(20)
        gate.set()
        pool.close()
    assert [reply.status for reply in replies] == [503] * 4
    assert all(reply.headers["retry-after"] == "1" for reply in replies)
    assert running.search("red").status == 200


def test_requests_of_disconnected_clients_are_cancelled(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the request that is already running is completed."""
    gate, begun = threading.Event(), []
    search = type(running.service.engine).search

    def slow(*words: Any, **options: Any) -> Any:
        begun.append(1)
        gate.wait(20)
        return search(*words, **options)

    pool = BoundedThreadPool("gone", threads=1, max_waiting=50, timeout_seconds=20)
    with monkeypatch.context() as patch:
        patch.setattr(type(running.service.engine), "search", slow)
        patch.setattr(running.service, "searches", pool)
        opened = []
        for _ in range(20):
            opened.append(running.connect())
            opened[-1].sendall(b"GET /api/search?q=red HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert wait_until(lambda: pool._slots._value == pool._capacity - 20, 10)
        for connection in opened:
            connection.close()
        assert wait_until(lambda: pool._slots._value == pool._capacity - 1, 10)
        gate.set()
        assert wait_until(lambda: pool._slots._value == pool._capacity, 10)
        pool.close()
    assert len(begun) == 1


def test_an_internal_error_is_detailed_in_the_terminal_alone(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client is told that there was an error, without details."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret \x1b[2J")

    monkeypatch.setattr(type(running.service.engine), "search", broken)
    reply = running.search("red")
    assert (reply.status, reply.error) == (
        500,
        "an internal error occurred: the server's terminal has the details.",
    )
    output = capsys.readouterr().err
    assert "ZeroDivisionError: secret \\x1b[2J" in output
    assert "in broken" in output


def test_a_socket_that_cannot_be_bound_is_a_one_line_error(running: Running) -> None:
    """An address of another machine and an invalid name are reported likewise."""
    for host, port, expected in [
        ("127.0.0.1", running.port, "another process listens on it. Choose another --port"),
        ("192.0.2.1", 0, "Choose a --host of this machine"),
        ("no such host.invalid", 0, "Choose a --host of this machine"),
    ]:
        with pytest.raises(TesseraeError) as error:
            app.bind(host, port)
        assert expected in str(error.value)
        assert host in str(error.value)
    with pytest.raises(ValueError, match="--port is 70000"):
        app.bind("127.0.0.1", 70000)


def test_the_printed_url_opens_in_a_browser() -> None:
    """A server on all interfaces prints a loopback address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        for host, displayed in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "[::1]"),
            ("::1", "[::1]"),
            ("search.lan", "search.lan"),
        ]:
            assert app.address_of([listener], host) == f"http://{displayed}:{port}/"


def test_a_server_on_all_interfaces_admits_any_address_and_its_own_name() -> None:
    """Other host names are refused."""
    guard = Guard("0.0.0.0")
    for host, in_ in [
        ("192.168.1.7:8780", True),
        ("[2001:db8::1]:8780", True),
        (socket.gethostname(), True),
        ("evil.example", False),
    ]:
        assert (guard.refusal({"Host": host}, changes=False) is None) is in_
    named = Guard("search.lan")
    assert "--allow-host" in str(named.refusal({"Host": "10.0.0.1"}, changes=False))
    assert named.refusal({"Host": "Search.LAN:8780"}, changes=False) is None
    assert named.refusal({"Host": "10.0.0.1"}, changes=False) is not None


@pytest.mark.parametrize(
    ("headers", "changes", "in_"),
    [
        ({"Host": "search.example.org"}, False, True),
        ({"Host": "Search.Example.ORG:8443"}, False, True),
        ({"Host": "search.example.org:8443", "Origin": "https://search.example.org"}, True, True),
        # A proxy that asks by the address that the server listens on, not by the name.
        ({"Host": "127.0.0.1:8780", "Origin": "https://search.example.org"}, True, True),
        ({"Host": "127.0.0.1:8780", "Origin": "https://search.example.org:8443"}, True, True),
        ({"Host": "b\u00fccher.example".encode("idna").decode()}, False, True),
        ({"Host": "www.search.example.org"}, False, False),
        ({"Host": "example.org"}, False, False),
        ({"Host": "search.example.org.evil.example"}, False, False),
        ({"Host": "search.example.org", "Origin": "https://evil.example"}, True, False),
        ({"Host": "search.example.org", "Origin": "https://search.example.org.evil"}, True, False),
        ({"Host": "search.example.org", "Origin": "ftp://search.example.org"}, True, False),
        ({"Host": "search.example.org", "Origin": "null"}, True, False),
        ({"Host": "search.example.org", "Sec-Fetch-Site": "cross-site"}, False, False),
        # The names of this machine are allowed as a host, and not as the origin of another port.
        ({"Host": "search.example.org", "Origin": "http://localhost:9"}, True, False),
    ],
)
def test_an_allowed_name_is_admitted(headers: dict[str, str], changes: bool, in_: bool) -> None:
    """The exact name is admitted at any port, as a host and as the origin of an upload."""
    guard = Guard("127.0.0.1", ["search.example.org", "B\u00fccher.example", "192.0.2.7"])
    assert (guard.refusal(headers, changes=changes) is None) is in_
    assert guard.refusal({"Host": "192.0.2.7:80"}, changes=False) is None


@pytest.mark.parametrize(
    "name",
    [
        "*",
        "*.example.org",
        "https://example.org",
        "example.org:443",
        "a b",
        "",
        "a/b",
        "a..b",
        "@x",
    ],
)
def test_an_invalid_allowed_name_is_refused(name: str) -> None:
    """Wildcards, ports and URLs are refused."""
    with pytest.raises(ValueError, match=r"--allow-host is .*: expected one name or address"):
        Guard("127.0.0.1", [name])


def test_a_page_behind_a_proxy_accepts_uploads(running: Running, monkeypatch: Any) -> None:
    """The proxy's name is admitted as the origin of an upload."""
    named = {"Host": "search.example.org", "Origin": "https://search.example.org"}
    path = "/api/search?q="
    assert running.ask(path, method="POST", body=png(), **named).status == 403
    monkeypatch.setattr(running.service, "guard", Guard("127.0.0.1", ["search.example.org"]))
    assert running.ask(path, method="POST", body=png(), **named).status == 200
    evil = {**named, "Origin": "https://evil.example"}
    assert running.ask(path, method="POST", body=png(), **evil).status == 403


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            HEIC,
            "the file is a HEIC image, which is not supported: convert it to JPEG or PNG. Expected",
        ),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1", "the file is an AVIF image"),
        (b"%PDF-1.7\n", "the file is not an image (a PDF document): expected JPEG"),
        (b"<!doctype html><html>", "the file is not an image (an HTML page"),
        (b"hello", "the file is not an image (a text file): expected JPEG, PNG"),
        (b"\x80\x81\x82", "the file is not an image: expected JPEG, PNG"),
    ],
)
def test_the_format_of_a_refused_file_is_named(
    running: Running, data: bytes, expected: str
) -> None:
    """The sentence names the format and the cure."""
    reply = running.search("", body=data)
    assert (reply.status, expected in reply.error) == (415, True)


def test_unknown_words_are_reported(running: Running) -> None:
    """The answer lists the unknown words, which are ignored."""
    assert running.search("a photo of red").json()["passed_over"] == ["a", "photo", "of"]


def test_the_toy_model_distinguishes_colours() -> None:
    """The other tests rely on a model that tells colours apart."""
    assert colour("red") @ colour("blue") < 0.5


# --- encoded rows ---------------------------------------------------------------------------------


ENCODINGS = ("jpeg:24@90", "original")


@pytest.fixture(scope="module")
def encoded_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Serve a store of encoded rows alone: PNG files, and JPEGs of many kinds."""
    root = tmp_path_factory.mktemp("encoded")
    source = make_source(root / "train", 14)
    for number, file in enumerate(sorted(source.rglob("*.png"))[:4]):
        image = paint(number, 500 + number, 60).resize((90, 60))
        exif = Image.Exif()
        exif[0x112] = 6  # turned by a quarter
        options = [{}, {"exif": exif}, {"comment": b"a comment"}, {"progressive": True}]
        file.unlink()
        kept = file.with_name(f"{file.stem}{number}.jpg")
        image.save(kept, "JPEG", quality=95, **options[number])
        if number == 0:
            kept.write_bytes(kept.read_bytes() + b"<html><script>alert(1)</script>")
    store = str(root / "store")
    prepare_inline(source, store, sizes=(), encoded=ENCODINGS, shard_rows=8, chunk_rows=4)
    toy = Toy(store)
    toy.encoded = "original"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_room, "open_model", lambda _, **__: toy)
        engine = engine_room.open_engine(root / "run")
    with serving(engine) as started:
        yield started
    engine.close()


def test_pictures_of_encoded_rows_have_their_aspect(encoded_running: Running) -> None:
    """They are JPEGs of the size that suits; plain rows are sent as they are stored."""
    engine = encoded_running.service.engine
    opened = engine.gallery.splits["train"]
    as_stored, sides = 0, set()
    for row in range(opened.plan.num_rows):
        for size, name in ((None, "jpeg24@90"), (24, "jpeg24@90"), (25, "original")):
            reply = encoded_running.ask(
                f"/thumb/train/{row}.jpg" + (f"?size={size}" if size else "")
            )
            assert (reply.status, reply.headers["content-type"]) == (200, "image/jpeg")
            assert reply.headers["x-content-type-options"] == "nosniff"
            image = Image.open(io.BytesIO(reply.body))
            height, width = opened.encoded[name].shape[row].tolist()
            assert (image.format, image.size) == ("JPEG", (width, height))
            assert image.getexif().get(0x112, 1) == 1
            assert len(reply.body) < 2**18
            stored, _, _ = arrays.read_encoded_row(engine.gallery.objects, "train", name, row)
            as_stored += reply.body == stored
            assert reply.body == stored or name == "original"
            sides.add(image.size)
        again = encoded_running.ask(
            f"/thumb/train/{row}.jpg?size=25", If_None_Match=reply.headers["etag"]
        )
        assert again.status == 304
    assert {(90, 60), (40, 40), (36, 24), (24, 24)} <= sides
    # Of the originals, only one is nothing but a plain JPEG.
    assert as_stored == 2 * opened.plan.num_rows + 1


def test_long_rows_are_encoded_again(
    encoded_running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser gets no more bytes than a picture of the size that it shows needs."""
    engine = encoded_running.service.engine
    monkeypatch.setattr("workflows.search.gallery.MAX_SENT_BYTES", 10)
    stored, height, width = arrays.read_encoded_row(engine.gallery.objects, "train", "jpeg24@90", 0)
    body = engine.gallery.picture("train", 0, 24)
    assert body != stored
    assert Image.open(io.BytesIO(body)).size == (width, height)


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["a page", "a page and an end marker"])
def test_a_page_behind_a_picture_is_not_sent(
    encoded_running: Running, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    """A row may be a JPEG and something else that follows it: a browser gets the picture alone."""
    gallery = encoded_running.service.engine.gallery
    stored, height, width = arrays.read_encoded_row(gallery.objects, "train", "jpeg24@90", 0)
    page = b"<script>alert(1)</script>"

    def gather(_: Any, out: Any, __: Any) -> None:
        out[0] = stored + page + end

    monkeypatch.setattr(gallery, "_reader", lambda *_: SimpleNamespace(gather=gather))
    body = gallery.picture("train", 0, 24)
    assert page not in body
    assert Image.open(io.BytesIO(body)).size == (width, height)


def test_an_encoded_store_is_searched_by_words_rows_and_uploads(encoded_running: Running) -> None:
    """An uploaded picture and a stored row are cropped to the square that the model takes."""
    engine = encoded_running.service.engine
    hits = encoded_running.search("yellow").json()["images"]
    assert hits
    pixels = engine.gallery.rows("train", SIZE, [hits[0]["row"]])
    assert pixels.shape == (1, SIZE, SIZE, 3)
    found = encoded_running.search(f"#{hits[0]['row']}").json()["images"]
    assert found
    file = io.BytesIO()
    paint(3, 1, 40).save(file, "PNG")
    assert encoded_running.search("@", body=file.getvalue()).json()["images"]


def test_an_upload_is_cropped_as_the_model_s_images(encoded_running: Running) -> None:
    """Of a wide picture, the model gets the centre: half of its height at a share of 1/2."""
    recipe = encoded_running.service.engine.gallery.recipe
    wide = np.zeros((80, 200, 3), np.uint8)
    wide[20:60, 80:120] = 255
    file = io.BytesIO()
    Image.fromarray(wide).save(file, "PNG")
    with closing(ImagePreprocessor(recipe, SIZE, crop_share=0.5)) as preprocessor:
        square = preprocessor.preprocess(file.getvalue())
    assert square.shape == (SIZE, SIZE, 3)
    assert square[1:-1, 1:-1].min() > 250
    with closing(ImagePreprocessor(recipe, SIZE, crop_share=1.0)) as preprocessor:
        whole = preprocessor.preprocess(file.getvalue())
    assert (whole[0].max(), whole[SIZE // 2, SIZE // 2].min()) == (0, 255)


def test_a_store_without_the_model_s_encoded_rows_is_refused(store: str) -> None:
    """The error says how to add them."""
    with pytest.raises(StoreError, match=r"no finished split of encoded rows jpeg:9@90.*--encoded"):
        Gallery(store, SIZE, "jpeg9@90")
