"""Files of word vectors: every kind is read as gensim writes it, and whatever else is refused."""

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
from pipeline.wordvectors.files import read_words

Writer = Callable[[Sequence[str], np.ndarray], bytes]

FLOATS = st.floats(-1e6, 1e6, width=32)
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters=" \n\r\0\ufeff")
TOKENS = st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1, max_size=12, unique=True)
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
    """A space before the end of each line."""
    return header(tokens, vectors) + lines(tokens, vectors, " \n")


def word2vec_binary(tokens: Sequence[str], vectors: np.ndarray) -> bytes:
    """As the original tool writes: a line break behind each vector."""
    rows = (row.astype("<f4").tobytes() + b"\n" for row in vectors)
    return header(tokens, vectors) + b"".join(
        t.encode() + b" " + row for t, row in zip(tokens, rows, strict=True)
    )


def gensim_binary(tokens: Sequence[str], vectors: np.ndarray) -> bytes:
    """Without line breaks, as gensim and GoogleNews have it."""
    rows = (row.astype("<f4").tobytes() for row in vectors)
    return header(tokens, vectors) + b"".join(
        t.encode() + b" " + row for t, row in zip(tokens, rows, strict=True)
    )


WRITERS: list[Writer] = [glove, word2vec_text, fasttext_vec, word2vec_binary, gensim_binary]
TEXT_WRITERS = WRITERS[:3]
each_kind = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
each_text = pytest.mark.parametrize("write", TEXT_WRITERS, ids=lambda write: write.__name__)

COLOURS = ("red", "green", "blue", "Red", "a_b")


def colours(dim: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(COLOURS), dim)).astype(np.float32)


def kept(folder: Path, data: bytes, name: str = "vectors") -> Path:
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
def test_what_was_written_is_read_back(
    folder: Path, write: Writer, tokens: list[str], dim: int, data: st.DataObject, chunk: int
) -> None:
    """Each kind of file, whatever the tokens are, to the last bit; plain and in gzip."""
    rows = data.draw(st.lists(FLOATS, min_size=len(tokens) * dim, max_size=len(tokens) * dim))
    vectors = np.array(rows, np.float32).reshape(-1, dim)
    written = write(tokens, vectors)
    for stored in (written, gzip.compress(written, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CHUNK_BYTES", chunk)
            read = read_words(kept(folder, stored))
        assert read.tokens == tuple(tokens)
        assert read.vectors.dtype == np.float32
        assert np.array_equal(read.vectors, vectors)
        assert (len(read), read.dim) == vectors.shape


@pytest.mark.parametrize("binary", [True, False])
def test_what_gensim_writes_is_read_as_gensim_reads_it(tmp_path: Path, binary: bool) -> None:
    """More of it than one chunk holds."""
    made = KeyedVectors(30)
    tokens = [f"wört_{number}" for number in range(12_000 if binary else 500)]
    made.add_vectors(tokens, np.random.default_rng(0).standard_normal((len(tokens), 30)))
    made.save_word2vec_format(str(tmp_path / "saved"), binary=binary)
    theirs = KeyedVectors.load_word2vec_format(str(tmp_path / "saved"), binary=binary)
    ours = read_words(tmp_path / "saved")
    assert list(ours.tokens) == theirs.index_to_key == tokens
    assert np.array_equal(ours.vectors, theirs.vectors)


@given(tokens=SPACED, dim=st.integers(1, 4))
def test_tokens_with_spaces_are_read(folder: Path, tokens: list[str], dim: int) -> None:
    """Files made from the web have such as ". . ."; what is a number is told from the right."""
    vectors = np.arange(len(tokens) * dim, dtype=np.float32).reshape(-1, dim)
    for end in ("\n", " \n", "\r\n"):
        data = header(tokens, vectors) + lines(tokens, vectors, end)
        read = read_words(kept(folder, data))
        assert read.tokens == tuple(tokens)
        assert np.array_equal(read.vectors, vectors)


def test_tokens_with_spaces_are_read_without_a_header(tmp_path: Path) -> None:
    """How many numbers there are is what most lines say, also where the first is another."""
    tokens = (". . .", "at name@domain.com", "the", "of", "2 1")
    read = read_words(kept(tmp_path, glove(tokens, colours()) + glove(["end"], colours()[:1])))
    assert read.tokens == (*tokens, "end")
    assert np.array_equal(read.vectors[:5], colours())


@each_text
def test_line_ends_and_byte_order_marks_of_other_systems_are_read(
    tmp_path: Path, write: Writer
) -> None:
    """And empty lines, at the end or before it."""
    data = write(COLOURS, colours()).replace(b"\n", b"\r\n").replace(b"\ngreen", b"\n\ngreen")
    read = read_words(kept(tmp_path, b"\xef\xbb\xbf" + data + b"\r\n\n"))
    assert read.tokens == COLOURS
    assert np.array_equal(read.vectors, colours())


def test_a_last_line_without_its_end_is_read(tmp_path: Path) -> None:
    """As an editor leaves it."""
    read = read_words(kept(tmp_path, word2vec_text(COLOURS, colours())[:-1]))
    assert np.array_equal(read.vectors, colours())


def test_one_number_is_a_vector(tmp_path: Path) -> None:
    """With a header, that says so."""
    for write in (word2vec_text, fasttext_vec, word2vec_binary, gensim_binary):
        read = read_words(kept(tmp_path, write(COLOURS, colours(1))))
        assert np.array_equal(read.vectors, colours(1))


@each_kind
def test_of_a_token_that_is_there_twice_the_first_counts(tmp_path: Path, write: Writer) -> None:
    """The more frequent one."""
    tokens = ("red", "green", "red", "blue", "red")
    read = read_words(kept(tmp_path, write(tokens, colours())))
    assert read.tokens == ("red", "green", "blue")
    assert np.array_equal(read.vectors, colours()[[0, 1, 3]])


@each_kind
@pytest.mark.parametrize("limit", [1, 3, 5, 9])
def test_only_the_first_are_read_when_a_limit_is_set(
    tmp_path: Path, write: Writer, limit: int
) -> None:
    """Twice the same token is two of them; what lies behind is not looked at."""
    tokens = ("red", "red", "green", "blue", "a")
    damaged = write(tokens, colours()) + (b"damaged" if limit < 5 else b"")
    read = read_words(kept(tmp_path, damaged), limit=limit)
    assert read.tokens == tuple(dict.fromkeys(tokens[:limit]))
    with pytest.raises(ValueError, match="limit is 0: expected at least 1"):
        read_words(tmp_path / "vectors", limit=0)


@each_kind
def test_a_limit_holds_in_files_of_many_chunks(tmp_path: Path, write: Writer) -> None:
    """Also where a token came twice long before."""
    tokens = ["t0", *(f"t{number}" for number in range(2999))]
    vectors = np.arange(3000 * 30, dtype=np.float32).reshape(3000, 30)
    read = read_words(kept(tmp_path, write(tokens, vectors)), limit=2000)
    assert list(read.tokens) == tokens[1:2000]
    assert np.array_equal(read.vectors, vectors[[0, *range(2, 2000)]])


@each_kind
def test_a_token_without_a_direction_is_no_token(tmp_path: Path, write: Writer) -> None:
    """NaN, infinite, larger than a float32, or nothing but zeros."""
    vectors = np.array([[np.nan, 1], [np.inf, 1], [0, 0], [3, 4]], np.float32)
    data = write(("nan", "inf", "zero", "good"), vectors)
    if write in TEXT_WRITERS:
        data = data.replace(b"inf inf", b"inf 1e999")
    read = read_words(kept(tmp_path, data))
    assert [read.token(name) is None for name in read.tokens] == [True, True, True, False]
    assert read.phrase("zero good") is None
    assert np.allclose(read.phrase("good"), [0.6, 0.8])


@each_kind
def test_broken_letters_do_not_stop_the_reading(tmp_path: Path, write: Writer) -> None:
    """The original tool cuts long words in the middle of a letter."""
    data = write(("word", "bröken"), colours()[:2]).replace("ö".encode(), "ö".encode()[:1])
    assert read_words(kept(tmp_path, data)).tokens == ("word", "br\ufffdken")


@each_kind
def test_a_file_that_is_cut_off_is_refused_or_misses_whole_lines(
    tmp_path: Path, write: Writer
) -> None:
    """At any byte, in gzip too. A list without a header cannot say how long it was."""
    whole = write(COLOURS, colours())
    least = whole.rstrip().rindex(b" ") if write in TEXT_WRITERS else len(whole.rstrip(b"\n"))
    line = whole.index(b"\n")
    for keep in range(least):
        file = kept(tmp_path, whole[:keep])
        if write is glove and keep and (keep < line or whole[:keep].count(b" ") % 3 == 0):
            continue  # a number that is cut is a number, and a line cut short may be a whole one
        with pytest.raises(SourceError):
            read_words(file)
    zipped = gzip.compress(whole)
    for keep in range(len(zipped)):
        with pytest.raises(SourceError):
            read_words(kept(tmp_path, zipped[:keep]))


@pytest.mark.parametrize("chunk", [1, 5, 2**20])
@pytest.mark.parametrize("write", WRITERS[1:], ids=lambda write: write.__name__)
def test_of_a_file_that_is_cut_off_the_whole_vectors_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, chunk: int
) -> None:
    """In the token, or in its vector."""
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    whole = write(COLOURS, colours())
    for keep in (whole.rindex(b"a_b") + 1, whole.rindex(b"a_b") + 6):
        what = r"says that it has 5 vectors of 3 numbers, and has 4 whole ones: it is cut off"
        with pytest.raises(SourceError, match=what):
            read_words(kept(tmp_path, whole[:keep]))


@pytest.mark.parametrize("said", [1, 4, 6, 1000, 10**11])
@pytest.mark.parametrize("write", WRITERS[1:], ids=lambda write: write.__name__)
def test_a_header_that_counts_wrongly_is_refused(tmp_path: Path, write: Writer, said: int) -> None:
    """Too few or too many, plain and in gzip, and before memory is taken for them."""
    data = write(COLOURS, colours()).replace(b"5 3\n", b"%d 3\n" % said)
    for stored in (data, gzip.compress(data)):
        impossible = said == 10**11 or (said == 1000 and stored is data)
        what = r"numbers, in \d+ bytes" if impossible else r"that it says|whole ones"
        with pytest.raises(SourceError, match=what):
            read_words(kept(tmp_path, stored))


@pytest.mark.parametrize("said", [0, 1, 2, 4, 20_001, 10**12])
@pytest.mark.parametrize("write", WRITERS[1:], ids=lambda write: write.__name__)
def test_a_header_with_the_wrong_size_of_vectors_is_refused(
    tmp_path: Path, write: Writer, said: int
) -> None:
    """Smaller and larger. In a text smaller ones cannot be told from tokens with spaces."""
    if write in TEXT_WRITERS and said in (1, 2):
        return
    data = write(COLOURS, colours()).replace(b"5 3\n", b"5 %d\n" % said)
    with pytest.raises(SourceError):
        read_words(kept(tmp_path, data))


@each_text
def test_a_line_that_is_none_is_refused_wherever_it_is(tmp_path: Path, write: Writer) -> None:
    """Too short, or with a number that is none; in a file that fills the pipe many times."""
    tokens = [f"t{number}" for number in range(4000)]
    vectors = np.ones((len(tokens), 30), np.float32)
    whole = write(tokens, vectors)
    for place in (1, 2000, 3999):
        line = b"\nt%d 1.0" % place
        assert line in whole
        with pytest.raises(SourceError, match=f"has {place:,} whole ones"):
            read_words(kept(tmp_path, whole.replace(line, b"\nt%d" % place)))
        with pytest.raises(SourceError, match=r"could not convert string to float: 'one'"):
            read_words(kept(tmp_path, whole.replace(line, b"\nt%d one" % place)))
        with pytest.raises(SourceError, match=f"has {place:,} whole ones"):
            read_words(kept(tmp_path, whole.replace(line, b"\nt\0%d 1.0" % place)))


OTHERS = {
    "empty": (b"", "is empty"),
    "empty in gzip": (gzip.compress(b""), "is empty"),
    "fastText's .bin": (b"\xba\x16\x4f\x2f\x0c\0\0\0" + bytes(200), "is a model of fastText"),
    "pickle": (pickle.dumps({"a": 1}), "is a pickle"),
    "pickle in gzip": (gzip.compress(pickle.dumps({"a": 1})), "is a pickle"),
    "old pickle": (pickle.dumps({"a": 1}, 0), "is no file of word vectors"),
    "array": (b"\x93NUMPY\x01\0v\0" + bytes(200), "is no file of word vectors"),
    "picture": (b"\xff\xd8\xff\xe0" + bytes(200), "is no file of word vectors"),
    "edges": (b"n00001740 n00001930\n", "is no file of word vectors"),
    "names": (b"n01440764 tench, Tinca tinca\n", "is no file of word vectors"),
    "UTF-16": ("a 1 2\n".encode("utf-16"), "is no file of word vectors"),
    "numbers without an end": (b"9" * 5000 + b" " + b"9" * 5000, "is no file of word vectors"),
    "nothing": (b"0 3\n", "says that it has 0 vectors"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_of_word_vectors_is_refused(tmp_path: Path, kind: str) -> None:
    """By what it is."""
    data, what = OTHERS[kind]
    with pytest.raises(SourceError, match=what) as refused:
        read_words(kept(tmp_path, data))
    assert str(tmp_path / "vectors") in str(refused.value)


def test_an_archive_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    """GloVe comes as a zip archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("glove.txt", glove(COLOURS, colours()))
    with pytest.raises(SourceError, match="is a zip archive, to be unpacked first"):
        read_words(kept(tmp_path, packed.getvalue()))
    with pytest.raises(SourceError, match="Is a directory"):
        read_words(tmp_path)
    with pytest.raises(SourceError, match="No such file"):
        read_words(tmp_path / "none")


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["vectors.kv", "vectors.bin", "vectors.gz", "vectors.txt"])
def test_nothing_is_unpickled(tmp_path: Path, protocol: int, name: str) -> None:
    """Whatever the file is called, and whatever stands before it."""
    canary = tmp_path / "canary"
    trap = pickle.dumps(Trap(canary), protocol)
    for data in (trap, gzip.compress(trap), b"1 2\n" + trap, b"\xef\xbb\xbf" + trap):
        with pytest.raises(SourceError):
            read_words(kept(tmp_path, data, name))
    assert not canary.exists()
    pickle.loads(trap)  # the trap works
    assert canary.exists()


def test_what_gensim_saves_natively_is_refused(tmp_path: Path) -> None:
    """With what to do instead."""
    made = KeyedVectors(3)
    made.add_vectors(list(COLOURS), colours())
    made.save(str(tmp_path / "native.kv"))
    with pytest.raises(SourceError, match=r"is a pickle.*save_word2vec_format writes such"):
        read_words(tmp_path / "native.kv")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_reading_leaves_nothing_open(tmp_path: Path) -> None:
    """Whether it goes well or not."""
    good = kept(tmp_path, word2vec_text(COLOURS, colours()), "good")
    bad = kept(tmp_path, word2vec_text(COLOURS, colours())[:-30], "bad")
    read_words(good)
    before = open_files()
    for _ in range(5):
        read_words(good)
        with pytest.raises(SourceError):
            read_words(bad)
    assert open_files() == before


def test_without_gensim_one_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence."""
    monkeypatch.setitem(__import__("sys").modules, "gensim.models", None)
    with pytest.raises(TesseraeError, match="make setup EXTRAS=devise"):
        read_words(kept(tmp_path, word2vec_text(COLOURS, colours())))


# --- real files -----------------------------------------------------------------------------------

REAL = {
    "GoogleNews.8000.300d.bin": (8000, 300),
    "glove.twitter.25d.11925.txt": (11925, 25),
    "wordnet-gloss.300d.bin": (10876, 300),
}


@pytest.mark.parametrize("file", REAL)
def test_real_files_are_read_as_gensim_reads_them(real_data: Path, file: str) -> None:
    """Three makers; the nearest to a word is a word that is near."""
    path = real_data / "words" / file
    words = read_words(path)
    assert words.vectors.shape == REAL[file]
    theirs = KeyedVectors.load_word2vec_format(str(path), binary=file.endswith(".bin"))
    assert list(words.tokens) == theirs.index_to_key
    assert np.array_equal(words.vectors, theirs.vectors)
    week, month, tree = (words.query(name) for name in ("week", "month", "tree"))
    assert week @ month > week @ tree + 0.1


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("separator", [b"\t", b","])
def test_numbers_may_lie_between_tabs_or_commas(
    tmp_path: Path, separator: bytes, header: bool
) -> None:
    """As tables are exported; a token may have spaces then."""
    lines = [
        separator.join([token, b"1", b"-0.5", b"2e-1"])
        for token in (b"dog", b"New York", "caf\u00e9".encode())
    ]
    first = [separator.join([b"3", b"3"])] if header and separator == b"\t" else []
    data = b"\xef\xbb\xbf" * (not first) + b"\r\n".join([*first, *lines]) + b"\r\n"
    (tmp_path / "v.txt").write_bytes(data)
    found = read_words(tmp_path / "v.txt")
    assert found.tokens == ("dog", "New York", "caf\u00e9")
    np.testing.assert_allclose(found.vectors, [[1, -0.5, 0.2]] * 3)
