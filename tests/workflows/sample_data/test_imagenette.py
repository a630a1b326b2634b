"""The download of a public archive, from a server on the loopback address."""

import hashlib
import io
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import SourceError
from workflows.sample_data import imagenette
from workflows.sample_data.imagenette import fetch


def archive(members, folder="imagenette2-320"):
    """Return a tar.gz of members: name -> bytes, or -> a TarInfo without data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                tar.addfile(data)
                continue
            member = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


PICTURES = {f"train/n01440764/{i}.JPEG": bytes([i]) * 5000 for i in range(40)}
GOOD = archive(PICTURES)


def md5(data):
    """Return the MD5 of *data* in hexadecimal."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Server:
    """An HTTP server with one file; it may lack ranges or cut the response."""

    def __init__(self, data):
        self.data = data
        self.ranges = True
        self.cut = None
        self.status = 200
        self.ranges_requested = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/x.tgz"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, request):
        """Answer one GET request."""
        byte_range = request.headers.get("Range")
        self.ranges_requested.append(byte_range)
        if self.status != 200:
            return request.send_error(self.status)
        start = (
            int(byte_range.removeprefix("bytes=").rstrip("-")) if byte_range and self.ranges else 0
        )
        if start and start >= len(self.data):
            return request.send_error(416)
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(self.data) - start))
        request.end_headers()
        body = self.data[start:]
        request.wfile.write(body if self.cut is None else body[: self.cut])
        return None

    def close(self):
        """Stop the server, and wait for its threads."""
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture(name="server")
def _server():
    server = Server(GOOD)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    """Reach the loopback address without a proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_an_archive_is_fetched_checked_and_unpacked(server, tmp_path, capsys):
    """The words of the classes are written beside the splits, and no other file remains."""
    folder = fetch("imagenette", tmp_path / "cache", url=server.url, md5=md5(GOOD))
    unpacked = {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    words = unpacked.pop("LOC_synset_mapping.txt").decode().splitlines()

    assert unpacked == PICTURES
    assert words[0] == "n01440764 tench, Tinca tinca"
    assert len(words) == 10
    assert [folder] == list((tmp_path / "cache").iterdir())
    assert "downloading imagenette" in capsys.readouterr().out


def test_an_existing_download_is_reused(server, tmp_path):
    """The folder appears complete or not at all, so its existence is enough."""
    first = fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))
    second = fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))

    assert first == second
    assert server.ranges_requested == [None]


def test_an_interrupted_download_resumes(server, tmp_path):
    """Only the missing bytes are requested."""
    server.cut = 300
    with pytest.raises(
        SourceError, match=r"closed the connection after 300 B of .*again to continue"
    ):
        fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))
    server.cut = None
    folder = fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))

    assert server.ranges_requested == [None, "bytes=300-"]
    assert len(list(folder.rglob("*.JPEG"))) == 40


def test_a_download_without_ranges_restarts(server, tmp_path):
    """The partial download is discarded if the server sends the whole file."""
    server.ranges = False
    (tmp_path / "imagenette2-320.tgz.part").write_bytes(GOOD[:300])
    folder = fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))

    assert len(list(folder.rglob("*.JPEG"))) == 40


def test_a_complete_download_is_unpacked_without_another_request(server, tmp_path):
    """The run before was stopped between the last byte and the unpacking."""
    (tmp_path / "imagenette2-320.tgz.part").write_bytes(GOOD)
    folder = fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))

    assert len(list(folder.rglob("*.JPEG"))) == 40


def test_a_download_with_another_checksum_is_refused_and_removed(server, tmp_path):
    """A later run begins from scratch, and the error has both checksums."""
    server.data = GOOD[:-1] + b"?"
    with pytest.raises(SourceError, match=rf"md5 {md5(server.data)}: expected {md5(GOOD)}"):
        fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))

    assert list(tmp_path.iterdir()) == []


def test_a_refused_connection_is_a_one_line_error(tmp_path):
    """The error says what else to do."""
    with socket.socket() as closed:  # bound, never listening
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x.tgz"
        with pytest.raises(
            SourceError, match=r"cannot download imagenette.*refused.*leave DATA out"
        ):
            fetch("imagenette", tmp_path, url=url)


def test_a_failing_name_lookup_is_a_one_line_error(tmp_path, monkeypatch):
    """The error is the same as for a refused connection."""

    def refuse(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(SourceError, match=r"s3\.amazonaws\.com.*name resolution.*leave DATA out"):
        fetch("imagenette", tmp_path)


def test_http_errors_are_quoted(server, tmp_path):
    """The error has the status of the response and its meaning."""
    server.status = 404
    with pytest.raises(SourceError, match="returned 404 Not Found"):
        fetch("imagenette", tmp_path, url=server.url)


def test_an_unknown_archive_is_refused_with_the_known_ones(tmp_path):
    """The error lists the names of archives."""
    with pytest.raises(
        SourceError, match=r"there is no archive 'imagewoof': expected .*imagenette"
    ):
        fetch("imagewoof", tmp_path)


def _link(name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize(
    "members",
    [
        {"../../outside.txt": b"x"},
        {"link": _link("imagenette2-320/link", "/etc/passwd")},
        {"up": _link("imagenette2-320/up", "../../..")},
    ],
)
def test_nothing_is_unpacked_outside_the_folder(server, tmp_path, members):
    """Neither names with `..` nor links lead out of it."""
    server.data = archive({"train/a.JPEG": b"a", **members})
    cache = tmp_path / "a" / "b"
    with pytest.raises(SourceError, match="cannot be unpacked"):
        fetch("imagenette", cache, url=server.url, md5=md5(server.data))

    assert [p.name for p in cache.iterdir()] == ["imagenette2-320.tgz.part"]
    assert not list(tmp_path.rglob("outside.txt"))


@pytest.mark.parametrize(
    "data",
    [b"no archive", GOOD[: len(GOOD) // 2], archive({"x": b"x"}, "else")],
    ids=["no archive", "cut off", "no class folders"],  # names without the archive's time in them
)
def test_an_archive_without_class_folders_is_refused(server, tmp_path, data):
    """No partial folder remains."""
    server.data = data
    with pytest.raises(SourceError, match=r"Remove it"):
        fetch("imagenette", tmp_path, url=server.url, md5=md5(data))

    assert [p.name for p in tmp_path.iterdir()] == ["imagenette2-320.tgz.part"]


def test_a_python_without_safe_unpacking_is_refused(server, tmp_path, monkeypatch):
    """Python 3.11.0 to 3.11.3 would write wherever an archive says."""
    monkeypatch.delattr(imagenette.tarfile, "data_filter")
    with pytest.raises(SourceError, match=r"cannot unpack an archive safely: expected 3\.11\.4"):
        fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))


def test_insufficient_space_is_reported_before_downloading(server, tmp_path, monkeypatch):
    """Both the archive and its contents must fit."""
    monkeypatch.setattr(imagenette.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(SourceError, match=r"has 100 B free, but .* are needed\. Free some space"):
        fetch("imagenette", tmp_path, url=server.url, md5=md5(GOOD))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_a_one_line_error(server, tmp_path):
    """The error has the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"cannot store imagenette in .*Pass a writable folder"):
        fetch("imagenette", tmp_path / "file", url=server.url)
