"""A document detects any change of its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import document

FIELDS = {"format": 1, "classes": [["n01440764", "tench, Tinca tinca"], ["n2", "Fuß\n"]], "x": 1.5}


def test_a_document_is_read_back() -> None:
    """The fields of a document are returned without the digest."""
    assert document.decode_document(document.encode_document(FIELDS), "recipe.json") == FIELDS


@given(offset=st.integers(0, len(document.encode_document(FIELDS)) - 1), flip=st.integers(1, 255))
def test_any_changed_byte_of_a_document_is_detected(offset: int, flip: int) -> None:
    """A change of white space is detected, too."""
    data = bytearray(document.encode_document(FIELDS))
    data[offset] ^= flip
    with pytest.raises(StoreDamagedError, match=r"recipe\.json is damaged"):
        document.decode_document(bytes(data), "recipe.json")


@given(length=st.integers(0, len(document.encode_document(FIELDS)) - 1))
def test_any_truncation_of_a_document_is_detected(length: int) -> None:
    """An empty file is damaged, too."""
    with pytest.raises(StoreDamagedError):
        document.decode_document(document.encode_document(FIELDS)[:length], "recipe.json")


def test_a_later_format_is_refused_with_its_number() -> None:
    """The document is intact, but a later version wrote it."""
    with pytest.raises(StoreError, match="format 3: this version reads 1 and 2"):
        document.decode_document(document.encode_document({**FIELDS, "format": 3}), "recipe.json")
