"""Exact byte ranges of files behind fsspec."""

import io

import pytest

from pipeline.errors import ReadError
from pipeline.sources.remote import RangeFile


class Server:
    """A server with byte ranges that counts the requests."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.requests: list[tuple[int, int]] = []

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.requests.append((start, end))
        return self.data[start:end]


class WholeServer(Server):
    """A server without byte ranges."""

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        return self.data


def test_a_read_is_one_request_for_exactly_its_bytes():
    """A read fetches nothing ahead, and nothing behind the given end."""
    server = Server(bytes(range(100)))
    file = RangeFile(server, "p", "s3://b/p", 10, 50)
    assert file.read(5) == bytes(range(10, 15))
    file.seek(-4, io.SEEK_END)
    assert file.tell() == 46
    assert file.read(100) == bytes(range(46, 50))
    assert file.read(1) == b""
    assert server.requests == [(10, 15), (46, 50)]


def test_a_server_without_ranges_is_refused():
    """A server that ignores ranges returns other bytes, and is refused."""
    file = RangeFile(WholeServer(bytes(100)), "p", "https://host/p", 0, 100)
    with pytest.raises(ReadError, match=r"https://host/p: requested 5 bytes at 0, got 100"):
        file.read(5)


def test_a_clients_own_error_becomes_a_read_error():
    """The error has the client's error type and the address."""

    class Failing(Server):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            raise RuntimeError("throttled")

    with pytest.raises(ReadError, match="cannot read s3://b/p: RuntimeError: throttled"):
        RangeFile(Failing(b""), "p", "s3://b/p", 0, 9).read(1)
