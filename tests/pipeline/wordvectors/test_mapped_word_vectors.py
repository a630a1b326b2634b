"""The index of a words file has the same words, and only the requested ones are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TesseraeError
from pipeline.wordvectors import mapped_word_vectors
from pipeline.wordvectors.mapped_word_vectors import file_digest, open_word_vectors
from pipeline.wordvectors.vectors import WordVectors, class_vectors

TOKENS = (
    "dog",
    "Church",
    "church",
    "New_York",
    "caf\u00e9",
    "great_white",
    "Dog",
    "STRASSE",
    "\u00df",
)


def write(file: Path, tokens: tuple[str, ...] = TOKENS, dim: int = 4, seed: int = 0) -> str:
    """Write a words file and return its digest."""
    values = np.random.default_rng(seed).standard_normal((len(tokens), dim))
    lines = [
        f"{t} {' '.join(f'{v:.4f}' for v in row)}" for t, row in zip(tokens, values, strict=True)
    ]
    file.write_text("\n".join([f"{len(tokens)} {dim}", *lines]) + "\n")
    return file_digest(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "words.txt")
    return tmp_path / "words.txt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "words"


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any further read of the whole file fail."""

    def fail(*_: object) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(mapped_word_vectors, "read_word_vectors", fail)
    monkeypatch.setattr(mapped_word_vectors, "file_digest", fail)


def test_a_words_file_is_read_once(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards its index is mapped, and its digest is not computed again."""
    digest = file_digest(file)
    first = open_word_vectors(file, digest, folder)
    assert isinstance(first.vectors, np.memmap)
    forbid_reading(monkeypatch)
    again = open_word_vectors(file, digest, folder)
    assert list(again.tokens) == list(TOKENS)
    np.testing.assert_array_equal(first.vectors, again.vectors)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6),
        min_size=1, max_size=12, unique=True,
    ),
    st.lists(st.text(max_size=6), max_size=8),
)  # fmt: skip
def test_an_index_finds_the_same_tokens_as_the_words(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[str], other_tokens: list[str]
) -> None:
    """Tokens in any case, and missing ones, give the same results."""
    folder = tmp_path_factory.mktemp("index")
    vectors = np.random.default_rng(1).standard_normal((len(tokens), 3)).astype(np.float32)
    plain = WordVectors(tokens, vectors)
    mapped_word_vectors._write_word_index(plain, folder / "x.words")
    mapped = mapped_word_vectors._map_word_index(folder / "x.words")
    assert mapped is not None
    assert (len(mapped), mapped.dim, list(mapped.tokens)) == (len(tokens), 3, tokens)
    np.testing.assert_array_equal(mapped.vectors, vectors)
    for token in {
        *tokens,
        *other_tokens,
        *(f(t) for t in tokens for f in (str.upper, str.casefold)),
    }:
        assert mapped.index_of(token) == plain.index_of(token), token
    assert mapped.nearest_spellings(tokens[0]) == plain.nearest_spellings(tokens[0])
    expected = class_vectors(plain, [("n1", ", ".join(tokens))])
    vectors_of_mapped = class_vectors(mapped, [("n1", ", ".join(tokens))])
    np.testing.assert_array_equal(expected.vectors, vectors_of_mapped.vectors)


def test_tokens_with_the_same_hash_are_distinguished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The text of the tokens decides."""
    monkeypatch.setattr(mapped_word_vectors, "_hash_token", len)
    words = WordVectors(TOKENS, np.eye(len(TOKENS), dtype=np.float32))
    mapped_word_vectors._write_word_index(words, tmp_path / "x.words")
    mapped = mapped_word_vectors._map_word_index(tmp_path / "x.words")
    assert mapped is not None
    assert [mapped.index_of(token) for token in TOKENS] == list(range(len(TOKENS)))
    assert mapped.index_of("cat") is None


def test_a_touched_file_is_compared_with_its_digest(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same digest the index is used; with another one the file is refused."""
    digest = file_digest(file)
    open_word_vectors(file, digest, folder)
    os.utime(file, ns=(1, 1))
    reads: list[Path] = []
    compute = mapped_word_vectors.file_digest
    monkeypatch.setattr(mapped_word_vectors, "file_digest", lambda f: reads.append(f) or compute(f))
    monkeypatch.setattr(
        mapped_word_vectors, "read_word_vectors", lambda f: pytest.fail("it was read")
    )
    assert len(open_word_vectors(file, digest, folder)) == len(TOKENS)
    assert len(open_word_vectors(file, digest, folder)) == len(TOKENS)
    assert reads == [file]
    write(file, seed=1)
    with pytest.raises(
        TesseraeError, match="is not the file of word vectors that the run was trained with"
    ):
        open_word_vectors(file, digest, folder)


def test_an_indexed_file_may_be_deleted(file: Path, folder: Path) -> None:
    """The index has the digest; without an index the file is needed."""
    digest = file_digest(file)
    open_word_vectors(file, digest, folder)
    file.unlink()
    assert open_word_vectors(file, digest, folder).index_of("dog") == 0
    with pytest.raises(TesseraeError, match="cannot be read"):
        open_word_vectors(file, digest, folder / "elsewhere")


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _longer(data: bytes) -> bytes:
    return data + b"\0"


def _no_header(data: bytes) -> bytes:
    return b"\xff" * 8 + data[8:]


def _other_counts(data: bytes) -> bytes:
    return data.replace(b'"count": 9', b'"count": 8', 1)


def _far_away(data: bytes) -> bytes:
    return data.replace(b'"starts": {"vectors": 4160', b'"starts": {"vectors": 9984', 1)


def _other_format(data: bytes) -> bytes:
    return data.replace(b'"format": 1', b'"format": 2', 1)


@pytest.mark.parametrize(
    "spoil", [_cut, _longer, _no_header, _other_counts, _far_away, _other_format, lambda _: b""]
)
def test_a_damaged_index_is_rebuilt(
    file: Path, folder: Path, spoil: Callable[[bytes], bytes]
) -> None:
    """The words file is read again."""
    digest = file_digest(file)
    open_word_vectors(file, digest, folder)
    index = folder / f"{digest}.words"
    intact = index.read_bytes()
    assert spoil(intact) != intact
    index.write_bytes(spoil(intact))
    opened = open_word_vectors(file, digest, folder)
    assert [opened.index_of(token) for token in TOKENS] == list(range(len(TOKENS)))
    assert index.read_bytes() == intact


def test_a_folder_that_cannot_be_written_is_no_error(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read each time, and no partial index remains."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    digest = file_digest(file)
    for _ in range(2):
        assert open_word_vectors(file, digest, folder).index_of("church") == 2
    assert list(folder.iterdir()) == []


def test_the_index_of_another_file_is_deleted(file: Path, folder: Path) -> None:
    """Files that are no index stay."""
    open_word_vectors(file, file_digest(file), folder)
    (folder / "mine.words").write_text("mine")
    digest = write(file, seed=1)
    open_word_vectors(file, digest, folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{digest}.words", f"{digest}.seen.json", "mine.words"}


@pytest.mark.parametrize("digest", ["", "../../x", "0" * 63 + "/", "A" * 64])
def test_an_invalid_digest_is_refused(file: Path, folder: Path, digest: str) -> None:
    """The digest may come from an untrusted run."""
    with pytest.raises(TesseraeError, match="not the SHA-256"):
        open_word_vectors(file, digest, folder)
    assert not folder.exists()
