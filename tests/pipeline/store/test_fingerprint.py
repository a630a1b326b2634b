"""A fingerprint distinguishes the bytes of an object from all others."""

from __future__ import annotations

from pipeline.store.fingerprint import FingerprintWriter, fingerprint, is_intact, object_digest
from pipeline.store.local import LocalObjects


def test_an_object_exists_only_with_its_recorded_bytes(objects: LocalObjects) -> None:
    """Length and digest must agree."""
    written = fingerprint("a", b"hello")
    assert not is_intact(objects, written)
    for data, intact in ((b"hello", True), (b"hellp", False), (b"hell", False)):
        objects.put("a", data)
        assert is_intact(objects, written) is intact


def test_piecewise_writing_gives_the_same_fingerprint(objects: LocalObjects) -> None:
    """The fingerprint of the pieces equals that of the whole."""
    writer = objects.create("a")
    noting = FingerprintWriter(writer)
    for piece in (b"he", b"", b"llo"):
        noting.write(memoryview(piece))
    noting.finish()
    writer.abort()
    assert noting.written() == fingerprint("a", b"hello")
    assert objects.get("a") == b"hello"
    assert object_digest(objects, "a") == noting.written().digest
