"""Checksums of memory, by the C library and by the package."""

from __future__ import annotations

import threading

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import checksum
from pipeline.store.checksum import append_checksum, crc32c, has_valid_checksum


@given(data=st.binary(max_size=300), start=st.integers(0, 7))
def test_library_and_package_compute_the_same_checksums(data: bytes, start: int) -> None:
    """The checksums agree for any bytes at any address."""
    array = np.frombuffer(data, np.uint8)[start:]
    assert crc32c(array) == google_crc32c.value(data[start:])


@given(data=st.binary(min_size=1, max_size=100), flip=st.integers(0, 10_000))
def test_a_frame_is_its_bytes_and_their_checksum(data: bytes, flip: int) -> None:
    """One changed bit invalidates a frame."""
    framed = bytearray(append_checksum(data))
    assert framed[-4:] == google_crc32c.value(data).to_bytes(4, "little")
    assert has_valid_checksum(np.frombuffer(framed, np.uint8))
    framed[flip // 8 % len(framed)] ^= 1 << flip % 8
    assert not has_valid_checksum(np.frombuffer(framed, np.uint8))
    assert not has_valid_checksum(np.frombuffer(framed[:3], np.uint8))


def test_without_the_shared_library_the_package_computes_checksums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package holds the GIL but gives the same result."""
    monkeypatch.setattr(checksum, "_native_crc32c", lambda: None)
    assert crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283


@pytest.mark.skipif(checksum._native_crc32c() is None, reason="another build of google-crc32c")
def test_checksums_release_the_gil() -> None:
    """A training step must not wait for a checksum."""
    data = np.zeros(400_000_000, np.uint8)
    steps, ended = 0, threading.Event()

    def compute() -> None:
        crc32c(data)
        ended.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not ended.is_set():
        steps += 1
    thread.join()
    assert steps > 100
