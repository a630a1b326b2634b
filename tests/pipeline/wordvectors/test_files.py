"""Files of word vectors of every format are read as gensim reads them, and others are refused."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.models import KeyedVectors
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError, TesseraeError
from pipeline.wordvectors import files as module
from pipeline.wordvectors.files import read_word_vectors
from tests.pipeline.wordvectors.colours import COLOURS, LETTERS, TOKENS, colours

Writer = Callable[[Sequence[str], np.ndarray], bytes]

FLOATS = st.floats(-1e6, 1e6, width=32)
SPACED = st.lists(
    st.text(LETTERS | st.just(" "), min_size=1, max_size=8), min_size=1, max_size=12, unique=True
)


def header(tokens: Sequence[str], vectors: np.ndarray) -> bytes:
    return b"%d %d\n" % vectors.shape


def lines(tokens: Sequence[str], vectors: np.ndarray, end: str = "\n") -> bytes:
    rows = (" ".join(map(repr, row.tolist())) for row in vectors)
    return "".join(f"{t} {row}{end}" for t, row in zip(tokens, rows, strict=True)).encode()


def glove(tokens: Sequence[str], vectors: np.ndarray) -> bytes:
    return lines(tokens, vectors)


def word2vec_text(tokens: Sequence[str], vectors: np.ndarray) -> bytes:
    return header(tokens, vectors) + lines(tokens, vectors)


def fasttext_vec(tokens: Sequence[str], vectors: np.ndarray) -> bytes:
    """Encode with a space before the end of each line."""
    return header(tokens, vectors) + lines(tokens, vectors, " \n")


def word2vec_binary(tokens: Sequence[str], vectors: np.ndarray) -> bytes:
    """Encode as the original tool does, with a line break after each vector."""
    rows = (row.astype("<f4").tobytes() + b"\n" for row in vectors)
    return header(tokens, vectors) + b"".join(
        t.encode() + b" " + row for t, row in zip(tokens, rows, strict=True)
    )


def gensim_binary(tokens: Sequence[str], vectors: np.ndarray) -> bytes:
    """Encode without line breaks, as gensim and GoogleNews do."""
    rows = (row.astype("<f4").tobytes() for row in vectors)
    return header(tokens, vectors) + b"".join(
        t.encode() + b" " + row for t, row in zip(tokens, rows, strict=True)
    )


WRITERS: list[Writer] = [glove, word2vec_text, fasttext_vec, word2vec_binary, gensim_binary]
TEXT_WRITERS = WRITERS[:3]
each_kind = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
each_text = pytest.mark.parametrize("write", TEXT_WRITERS, ids=lambda write: write.__name__)


def save_file(folder: Path, data: bytes, name: str = "vectors") -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@each_kind
@given(
    tokens=TOKENS, dim=st.integers(2, 5), data=st.data(), chunk=st.sampled_from([1, 7, 64, 2**20])
)
def test_every_format_is_read_back(
    folder: Path, write: Writer, tokens: list[str], dim: int, data: st.DataObject, chunk: int
) -> None:
    """Any tokens are read back bit for bit, plain and in gzip."""
    rows = data.draw(st.lists(FLOATS, min_size=len(tokens) * dim, max_size=len(tokens) * dim))
    vectors = np.array(rows, np.float32).reshape(-1, dim)
    written = write(tokens, vectors)
    for stored in (written, gzip.compress(written, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CHUNK_BYTES", chunk)
            read = read_word_vectors(save_file(folder, stored))
        assert read.tokens == tuple(tokens)
        assert read.vectors.dtype == np.float32
        assert np.array_equal(read.vectors, vectors)
        assert (len(read), read.dim) == vectors.shape


@pytest.mark.parametrize("binary", [True, False])
def test_files_of_gensim_are_read_as_gensim_reads_them(tmp_path: Path, binary: bool) -> None:
    """The file has more than one chunk."""
    written = KeyedVectors(30)
    tokens = [f"wört_{number}" for number in range(12_000 if binary else 500)]
    written.add_vectors(tokens, np.random.default_rng(0).standard_normal((len(tokens), 30)))
    written.save_word2vec_format(str(tmp_path / "saved"), binary=binary)
    theirs = KeyedVectors.load_word2vec_format(str(tmp_path / "saved"), binary=binary)
    ours = read_word_vectors(tmp_path / "saved")
    assert list(ours.tokens) == theirs.index_to_key == tokens
    assert np.array_equal(ours.vectors, theirs.vectors)


@given(tokens=SPACED, dim=st.integers(1, 4))
def test_tokens_with_spaces_are_read(folder: Path, tokens: list[str], dim: int) -> None:
    """Files made from the web have tokens such as ". . ."; numbers are split from the right."""
    vectors = np.arange(len(tokens) * dim, dtype=np.float32).reshape(-1, dim)
    for end in ("\n", " \n", "\r\n"):
        data = header(tokens, vectors) + lines(tokens, vectors, end)
        read = read_word_vectors(save_file(folder, data))
        assert read.tokens == tuple(tokens)
        assert np.array_equal(read.vectors, vectors)


def test_tokens_with_spaces_are_read_without_a_header(tmp_path: Path) -> None:
    """The most common number of fields decides, even if the first line differs."""
    tokens = (". . .", "at name@domain.com", "the", "of", "2 1")
    read = read_word_vectors(
        save_file(tmp_path, glove(tokens, colours()) + glove(["end"], colours()[:1]))
    )
    assert read.tokens == (*tokens, "end")
    assert np.array_equal(read.vectors[:5], colours())


@each_text
def test_line_ends_and_byte_order_marks_of_other_systems_are_read(
    tmp_path: Path, write: Writer
) -> None:
    """Empty lines are skipped, at the end or before it."""
    data = write(COLOURS, colours()).replace(b"\n", b"\r\n").replace(b"\ngreen", b"\n\ngreen")
    read = read_word_vectors(save_file(tmp_path, b"\xef\xbb\xbf" + data + b"\r\n\n"))
    assert read.tokens == COLOURS
    assert np.array_equal(read.vectors, colours())


def test_a_last_line_without_its_end_is_read(tmp_path: Path) -> None:
    """Editors may save such files."""
    read = read_word_vectors(save_file(tmp_path, word2vec_text(COLOURS, colours())[:-1]))
    assert np.array_equal(read.vectors, colours())


def test_vectors_of_one_dimension_are_read(tmp_path: Path) -> None:
    """The header states the single dimension."""
    for write in (word2vec_text, fasttext_vec, word2vec_binary, gensim_binary):
        read = read_word_vectors(save_file(tmp_path, write(COLOURS, colours(1))))
        assert np.array_equal(read.vectors, colours(1))


@each_kind
def test_the_first_of_a_repeated_token_counts(tmp_path: Path, write: Writer) -> None:
    """The first occurrence is the most frequent token."""
    tokens = ("red", "green", "red", "blue", "red")
    read = read_word_vectors(save_file(tmp_path, write(tokens, colours())))
    assert read.tokens == ("red", "green", "blue")
    assert np.array_equal(read.vectors, colours()[[0, 1, 3]])


@each_kind
@pytest.mark.parametrize("limit", [1, 3, 5, 9])
def test_a_limit_reads_the_first_vectors_alone(tmp_path: Path, write: Writer, limit: int) -> None:
    """A repeated token counts twice, and the remaining file is not read."""
    tokens = ("red", "red", "green", "blue", "a")
    damaged = write(tokens, colours()) + (b"damaged" if limit < 5 else b"")
    read = read_word_vectors(save_file(tmp_path, damaged), limit=limit)
    assert read.tokens == tuple(dict.fromkeys(tokens[:limit]))
    with pytest.raises(ValueError, match="limit is 0: expected at least 1"):
        read_word_vectors(tmp_path / "vectors", limit=0)


@each_kind
def test_a_limit_applies_to_files_of_many_chunks(tmp_path: Path, write: Writer) -> None:
    """A token may be repeated long before the limit."""
    tokens = ["t0", *(f"t{number}" for number in range(2999))]
    vectors = np.arange(3000 * 30, dtype=np.float32).reshape(3000, 30)
    read = read_word_vectors(save_file(tmp_path, write(tokens, vectors)), limit=2000)
    assert list(read.tokens) == tokens[1:2000]
    assert np.array_equal(read.vectors, vectors[[0, *range(2, 2000)]])


@each_kind
def test_a_token_without_a_direction_counts_as_missing(tmp_path: Path, write: Writer) -> None:
    """The numbers of its vector are NaN, infinite, larger than a float32, or all zero."""
    vectors = np.array([[np.nan, 1], [np.inf, 1], [0, 0], [3, 4]], np.float32)
    data = write(("nan", "inf", "zero", "good"), vectors)
    if write in TEXT_WRITERS:
        data = data.replace(b"inf inf", b"inf 1e999")
    read = read_word_vectors(save_file(tmp_path, data))
    assert [read.token_vector(name) is None for name in read.tokens] == [True, True, True, False]
    assert read.phrase_vector("zero good") is None
    assert np.allclose(read.phrase_vector("good"), [0.6, 0.8])


@each_kind
def test_invalid_utf_8_is_replaced(tmp_path: Path, write: Writer) -> None:
    """The original tool truncates long words within a character."""
    data = write(("word", "bröken"), colours()[:2]).replace("ö".encode(), "ö".encode()[:1])
    assert read_word_vectors(save_file(tmp_path, data)).tokens == ("word", "br\ufffdken")


@each_kind
def test_a_truncated_file_is_refused_or_lacks_complete_lines(tmp_path: Path, write: Writer) -> None:
    """The file is cut at every byte; only a list without a header can miss lines unnoticed."""
    intact = write(COLOURS, colours())
    min_length = (
        intact.rstrip().rindex(b" ") if write in TEXT_WRITERS else len(intact.rstrip(b"\n"))
    )
    line = intact.index(b"\n")
    for keep in range(min_length):
        file = save_file(tmp_path, intact[:keep])
        if write is glove and keep and (keep < line or intact[:keep].count(b" ") % 3 == 0):
            continue  # a truncated number is a number, and a shortened line may be complete
        with pytest.raises(SourceError):
            read_word_vectors(file)


@pytest.mark.parametrize("write", [glove, word2vec_binary], ids=lambda write: write.__name__)
def test_a_truncated_file_in_gzip_is_refused(tmp_path: Path, write: Writer) -> None:
    """It is cut at every byte; all texts are decompressed alike, and so are both binary formats."""
    zipped = gzip.compress(write(COLOURS, colours()))
    for keep in range(len(zipped)):
        with pytest.raises(SourceError):
            read_word_vectors(save_file(tmp_path, zipped[:keep]))


@pytest.mark.parametrize("chunk", [1, 5, 2**20])
@pytest.mark.parametrize("write", WRITERS[1:], ids=lambda write: write.__name__)
def test_the_error_about_a_truncated_file_counts_its_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, chunk: int
) -> None:
    """The file ends within a token, or within its vector."""
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    intact = write(COLOURS, colours())
    for keep in (intact.rindex(b"a_b") + 1, intact.rindex(b"a_b") + 6):
        message = r"states 5 vectors of 3 dimensions, and has 4 complete ones: it is truncated"
        with pytest.raises(SourceError, match=message):
            read_word_vectors(save_file(tmp_path, intact[:keep]))


@pytest.mark.parametrize("stated", [1, 4, 6, 1000, 10**11])
@pytest.mark.parametrize("write", WRITERS[1:], ids=lambda write: write.__name__)
def test_a_header_with_a_wrong_count_is_refused(tmp_path: Path, write: Writer, stated: int) -> None:
    """Wrong counts are refused in plain and gzip files, before memory is allocated."""
    data = write(COLOURS, colours()).replace(b"5 3\n", b"%d 3\n" % stated)
    for stored in (data, gzip.compress(data)):
        impossible = stated == 10**11 or (stated == 1000 and stored is data)
        message = r"dimensions, in \d+ bytes" if impossible else r"header states|complete ones"
        with pytest.raises(SourceError, match=message):
            read_word_vectors(save_file(tmp_path, stored))


@pytest.mark.parametrize("stated", [0, 1, 2, 4, 20_001, 10**12])
@pytest.mark.parametrize("write", WRITERS[1:], ids=lambda write: write.__name__)
def test_a_header_with_the_wrong_size_of_vectors_is_refused(
    tmp_path: Path, write: Writer, stated: int
) -> None:
    """In a text file, too few dimensions cannot be distinguished from tokens with spaces."""
    if write in TEXT_WRITERS and stated in (1, 2):
        return
    data = write(COLOURS, colours()).replace(b"5 3\n", b"5 %d\n" % stated)
    with pytest.raises(SourceError):
        read_word_vectors(save_file(tmp_path, data))


@each_text
def test_an_invalid_line_is_refused_at_any_position(tmp_path: Path, write: Writer) -> None:
    """The line is too short or has an invalid number, in a file larger than the pipe's buffer."""
    tokens = [f"t{number}" for number in range(1000)]
    vectors = np.ones((len(tokens), 30), np.float32)
    intact = write(tokens, vectors)
    assert len(intact) > 65_536
    for number in (1, 500, 999):
        line = b"\nt%d 1.0" % number
        assert line in intact
        with pytest.raises(SourceError, match=f"has {number:,} complete ones"):
            read_word_vectors(save_file(tmp_path, intact.replace(line, b"\nt%d" % number)))
        with pytest.raises(SourceError, match=r"could not convert string to float: 'one'"):
            read_word_vectors(save_file(tmp_path, intact.replace(line, b"\nt%d one" % number)))
        with pytest.raises(SourceError, match=f"has {number:,} complete ones"):
            read_word_vectors(save_file(tmp_path, intact.replace(line, b"\nt\0%d 1.0" % number)))


FOREIGN_FILES = {
    "empty": (b"", "is empty"),
    "empty in gzip": (gzip.compress(b""), "is empty"),
    "fastText's .bin": (b"\xba\x16\x4f\x2f\x0c\0\0\0" + bytes(200), "is a model of fastText"),
    "pickle": (pickle.dumps({"a": 1}), "is a pickle"),
    "pickle in gzip": (gzip.compress(pickle.dumps({"a": 1})), "is a pickle"),
    "old pickle": (pickle.dumps({"a": 1}, 0), "is not a file of word vectors"),
    "array": (b"\x93NUMPY\x01\0v\0" + bytes(200), "is not a file of word vectors"),
    "picture": (b"\xff\xd8\xff\xe0" + bytes(200), "is not a file of word vectors"),
    "edges": (b"n00001740 n00001930\n", "is not a file of word vectors"),
    "names": (b"n01440764 tench, Tinca tinca\n", "is not a file of word vectors"),
    "UTF-16": ("a 1 2\n".encode("utf-16"), "is not a file of word vectors"),
    "numbers without an end": (b"9" * 5000 + b" " + b"9" * 5000, "is not a file of word vectors"),
    "nothing": (b"0 3\n", "states 0 vectors"),
}


@pytest.mark.parametrize("kind", FOREIGN_FILES)
def test_files_of_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    """The error names the format."""
    data, message = FOREIGN_FILES[kind]
    with pytest.raises(SourceError, match=message) as refused:
        read_word_vectors(save_file(tmp_path, data))
    assert str(tmp_path / "vectors") in str(refused.value)


def test_an_archive_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    """GloVe is distributed as a zip archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("glove.txt", glove(COLOURS, colours()))
    with pytest.raises(SourceError, match="is a zip archive, to be unpacked first"):
        read_word_vectors(save_file(tmp_path, packed.getvalue()))
    with pytest.raises(SourceError, match="Is a directory"):
        read_word_vectors(tmp_path)
    with pytest.raises(SourceError, match="No such file"):
        read_word_vectors(tmp_path / "none")


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["vectors.kv", "vectors.bin", "vectors.gz", "vectors.txt"])
def test_nothing_is_unpickled(tmp_path: Path, protocol: int, name: str) -> None:
    """A pickle is refused under any file name, compressed, and after other bytes."""
    canary = tmp_path / "canary"
    trap = pickle.dumps(Trap(canary), protocol)
    for data in (trap, gzip.compress(trap), b"1 2\n" + trap, b"\xef\xbb\xbf" + trap):
        with pytest.raises(SourceError):
            read_word_vectors(save_file(tmp_path, data, name))
    assert not canary.exists()
    pickle.loads(trap)  # the trap works
    assert canary.exists()


def test_the_native_format_of_gensim_is_refused(tmp_path: Path) -> None:
    """The error says what to do instead."""
    native = KeyedVectors(3)
    native.add_vectors(list(COLOURS), colours())
    native.save(str(tmp_path / "native.kv"))
    with pytest.raises(SourceError, match=r"is a pickle.*save_word2vec_format writes such"):
        read_word_vectors(tmp_path / "native.kv")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    """Files are closed after a success and after a failure."""
    good = save_file(tmp_path, word2vec_text(COLOURS, colours()), "good")
    bad = save_file(tmp_path, word2vec_text(COLOURS, colours())[:-30], "bad")
    read_word_vectors(good)
    before = open_files()
    for _ in range(5):
        read_word_vectors(good)
        with pytest.raises(SourceError):
            read_word_vectors(bad)
    assert open_files() == before


def test_a_missing_gensim_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one sentence with the cure."""
    monkeypatch.setitem(__import__("sys").modules, "gensim.models", None)
    with pytest.raises(TesseraeError, match="make setup EXTRAS=search"):
        read_word_vectors(save_file(tmp_path, word2vec_text(COLOURS, colours())))


# --- real files -----------------------------------------------------------------------------------

REAL = {
    "GoogleNews.8000.300d.bin": (8000, 300),
    "glove.twitter.25d.11925.txt": (11925, 25),
    "wordnet-gloss.300d.bin": (10876, 300),
}


@pytest.mark.parametrize("file", REAL)
def test_real_files_are_read_as_gensim_reads_them(real_data: Path, file: str) -> None:
    """The files come from three programs, and similar words have similar vectors."""
    path = real_data / "words" / file
    words = read_word_vectors(path)
    assert words.vectors.shape == REAL[file]
    theirs = KeyedVectors.load_word2vec_format(str(path), binary=file.endswith(".bin"))
    assert list(words.tokens) == theirs.index_to_key
    assert np.array_equal(words.vectors, theirs.vectors)
    week, month, tree = (words.query_vector(name) for name in ("week", "month", "tree"))
    assert week @ month > week @ tree + 0.1


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("separator", [b"\t", b","])
def test_numbers_may_be_separated_by_tabs_or_commas(
    tmp_path: Path, separator: bytes, header: bool
) -> None:
    """Exported tables are written so; tokens may have spaces then."""
    lines = [
        separator.join([token, b"1", b"-0.5", b"2e-1"])
        for token in (b"dog", b"New York", "caf\u00e9".encode())
    ]
    first = [separator.join([b"3", b"3"])] if header and separator == b"\t" else []
    data = b"\xef\xbb\xbf" * (not first) + b"\r\n".join([*first, *lines]) + b"\r\n"
    (tmp_path / "v.txt").write_bytes(data)
    words = read_word_vectors(tmp_path / "v.txt")
    assert words.tokens == ("dog", "New York", "caf\u00e9")
    np.testing.assert_allclose(words.vectors, [[1, -0.5, 0.2]] * 3)
