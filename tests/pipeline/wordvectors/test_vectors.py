"""Word vectors, and the vectors of classes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TesseraeError
from pipeline.sources.text_tables import parse_words
from pipeline.wordvectors import vectors as module
from pipeline.wordvectors.files import read_word_vectors
from pipeline.wordvectors.hierarchy import Hierarchy
from pipeline.wordvectors.vectors import (
    ClassVectors,
    WordVectors,
    class_vectors,
    split_names,
    taxonomy_vectors,
    unit_mean,
)
from tests.pipeline.wordvectors.colours import COLOURS, TOKENS, colours


def words_of(**vectors: Sequence[float]) -> WordVectors:
    return WordVectors(list(vectors), np.array(list(vectors.values()), np.float32))


# --- tokens and phrases ---------------------------------------------------------------------------


def test_tokens_and_vectors_must_be_equally_many() -> None:
    """Vectors are not copied."""
    vectors = colours()
    assert WordVectors(COLOURS, vectors).vectors is vectors
    for bad in (vectors[:4], vectors.ravel()):
        with pytest.raises(ValueError, match="5 tokens and vectors of"):
            WordVectors(COLOURS, bad)


def test_a_token_is_found_as_written_and_then_in_any_case() -> None:
    """The most frequent of several cases is used."""
    words = words_of(POLISH=[1, 0], Polish=[0, 1], polish=[1, 1], Jeremy=[1, 2], STRASSE=[2, 1])
    assert [words.index_of(token) for token in ("polish", "Polish", "POLISH")] == [2, 1, 0]
    assert [words.index_of(token) for token in ("pOLISH", "jeremy", "straße")] == [0, 3, 4]
    assert words.index_of("polishes") is None


@given(tokens=TOKENS)
def test_every_token_is_found_in_any_case(tokens: list[str]) -> None:
    """The result equals a linear search."""
    words = WordVectors(tokens, np.ones((len(tokens), 2), np.float32))
    for token in tokens:
        assert words.index_of(token) == tokens.index(token)
        for variant in (token.upper(), token.lower(), token.swapcase()):
            if variant not in tokens:
                same = [t.casefold() == variant.casefold() for t in tokens]
                assert words.index_of(variant) == (same.index(True) if any(same) else None)


@pytest.mark.parametrize("token", ["great_white_shark", "great-white-shark", "great white shark"])
@pytest.mark.parametrize("name", ["great white shark", "Great  White\tshark", "great-white_shark"])
def test_a_name_of_several_words_can_be_one_token(token: str, name: str) -> None:
    """The separators in the name and in the token may differ."""
    words = words_of(**{token: [3, 4], "great": [1, 0], "white": [1, 0], "shark": [1, 0]})
    assert np.allclose(words.token_vector(name), [0.6, 0.8])
    assert np.allclose(words.phrase_vector(name), [0.6, 0.8])
    assert np.allclose(words.mean_of_words(name), [1, 0])


def test_a_name_is_first_looked_up_as_written() -> None:
    """A hyphen is kept if there is such a token."""
    words = words_of(man_eater=[0, 1], **{"man-eater": [1, 0]})
    assert np.allclose(words.token_vector("man-eater"), [1, 0])
    assert np.allclose(words.token_vector("man eater"), [0, 1])


def test_a_name_without_a_token_is_the_mean_of_its_words() -> None:
    """Words are scaled to length 1 before the mean, which is scaled, too; all must exist."""
    words = words_of(fishing=[10, 0], Net=[0, 0.1])
    assert np.allclose(words.phrase_vector("fishing net"), [0.5**0.5, 0.5**0.5])
    assert words.phrase_vector("fishing nets") is None  # no endings are cut off
    assert words.phrase_vector("") is None
    assert (
        words_of(hot=[1, 0], cold=[-1, 0]).phrase_vector("hot cold") is None
    )  # it has no direction
    turns = 2 * np.pi * np.arange(7) / 7
    around = WordVectors("abcdefg", np.stack([np.cos(turns), np.sin(turns)], 1).astype(np.float32))
    assert around.phrase_vector("a b c d e f g") is None  # but for what rounding leaves
    assert unit_mean([]) is None


def test_an_unknown_query_is_refused_with_similar_spellings() -> None:
    """The error names the missing word."""
    words = words_of(fishing=[1, 0], net=[0, 1], Nut=[1, 1], fish=[1, 2])
    assert np.allclose(words.query_vector("fishing net"), words.phrase_vector("fishing net"))
    with pytest.raises(TesseraeError, match=r"no vector for 'fisching': .* 'fishing'"):
        words.query_vector("fisching")
    with pytest.raises(TesseraeError, match=r"no vector for 'nett' in 'fishing nett': .* 'net'"):
        words.query_vector("fishing nett")
    with pytest.raises(TesseraeError, match=r"no vector for 'xyzzy': nearest spellings: none"):
        words.query_vector("xyzzy")
    with pytest.raises(TesseraeError, match="no vector for ''"):
        words.query_vector("")


def test_similar_spellings_are_frequent_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suggestions have the most frequent case, a maximum number, and a similar length."""
    words = words_of(
        NET=[1, 0], net=[1, 0], nets=[1, 0], neat=[1, 0], nett=[1, 0], nete_area=[1, 0]
    )
    assert set(words.nearest_spellings("nete", 9)) == {"NET", "nets", "neat", "nett"}
    assert len(words.nearest_spellings("nete")) == 3
    monkeypatch.setattr(module, "MAX_SPELLINGS", 3)
    assert set(words.nearest_spellings("nete")) == {"NET", "nets"}


# --- classes --------------------------------------------------------------------------------------

ZOO = {
    "cock": [1, 0, 0],
    "rooster": [0, 1, 0],
    "great_white_shark": [0, 0, 1],
    "white": [1, 0, 0],
    "shark": [0, 1, 0],
    "crane": [1, 1, 1],
}


def look_up(*names: str, synonyms: str = "mean") -> ClassVectors:
    classes = [(f"n{number:08d}", name) for number, name in enumerate(names)]
    return class_vectors(words_of(**ZOO), classes, synonyms=synonyms)


def test_names_are_separated_by_commas() -> None:
    """Repeated and empty names are dropped."""
    assert split_names("tench, Tinca tinca,, tench ,") == ["tench", "Tinca tinca"]


def test_names_that_are_tokens_come_before_names_of_words() -> None:
    """A name that is made of words counts only if no name is a token."""
    classes = look_up(
        "cock, rooster, white shark", "white shark, sharks", "hen, biddy", "great white shark"
    )
    assert classes.sources == ("token", "words", "none", "token")
    assert classes.used_names == (("cock", "rooster"), ("white shark",), (), ("great white shark",))
    half = 0.5**0.5
    assert np.allclose(classes.vectors, [[half, half, 0], [half, half, 0], [0, 0, 0], [0, 0, 1]])
    assert classes.has_vector.tolist() == [True, True, False, True]
    assert classes.missing == ["n00000002"]
    assert classes.coverage() == {"token": 2, "words": 1, "taxonomy": 0, "none": 1}


def test_the_first_name_alone_can_be_chosen() -> None:
    """The paper uses only the first name of each class."""
    classes = look_up("cock, rooster", "hen, rooster", "white shark, cock", synonyms="first")
    assert classes.sources == ("token", "none", "words")
    assert classes.used_names == (("cock",), (), ("white shark",))
    assert np.allclose(classes.vectors[0], [1, 0, 0])
    with pytest.raises(ValueError, match="synonyms is 'last': expected first or mean"):
        look_up("cock", synonyms="last")


def test_a_class_without_names_has_its_wnid_as_name() -> None:
    """Stores of named folders have such classes."""
    classes = class_vectors(words_of(**ZOO), [("cock", ""), ("n00000001", " ")])
    assert classes.names == ("cock", "n00000001")
    assert classes.sources == ("token", "none")


def test_names_that_cancel_out_leave_a_class_without_a_vector() -> None:
    """There is no direction to learn."""
    classes = class_vectors(words_of(hot=[1, 0], cold=[-1, 0]), [("n1", "hot, cold")])
    assert classes.sources == ("none",)
    assert classes.used_names == ((),)
    assert not classes.vectors.any()


def test_homonyms_and_identical_vectors_are_reported() -> None:
    """A shared name need not make vectors identical; case and hyphens are ignored."""
    classes = look_up(
        "crane", "Crane", "crane, cock", "cock", "white shark", "white-shark", "hen", "hen"
    )
    assert classes.homonyms == {
        "cock": ["n00000002", "n00000003"],
        "crane": ["n00000000", "n00000001", "n00000002"],
        "white shark": ["n00000004", "n00000005"],
    }
    assert classes.identical_groups == [["n00000000", "n00000001"], ["n00000004", "n00000005"]]


@given(
    names=st.lists(st.lists(st.sampled_from([*ZOO, "white shark", "hen"]), max_size=3), max_size=6),
    synonyms=st.sampled_from(["first", "mean"]),
)
def test_vectors_are_of_length_one_or_zero(names: list[list[str]], synonyms: str) -> None:
    """The other properties of the classes are consistent with the lengths."""
    classes = look_up(*(", ".join(each) for each in names), synonyms=synonyms)
    lengths = np.linalg.norm(classes.vectors, axis=1)
    assert np.allclose(lengths, classes.has_vector, atol=1e-6)
    assert sum(classes.coverage().values()) == len(names)
    assert [bool(used) for used in classes.used_names] == classes.has_vector.tolist()
    for wnids in classes.identical_groups:
        rows = classes.vectors[[classes.wnids.index(wnid) for wnid in wnids]]
        assert (rows == rows[0]).all()


def test_a_taxonomy_gives_vectors_without_words() -> None:
    """Only classes in the taxonomy get a vector."""
    kinds = Hierarchy([("animal", "cat"), ("animal", "dog"), ("thing", "animal"), ("thing", "car")])
    classes = taxonomy_vectors(kinds, [("cat", "tabby"), ("ghost", ""), ("dog", "")], 512)
    assert classes.sources == ("taxonomy", "none", "taxonomy")
    assert classes.names == ("tabby", "ghost", "dog")
    assert classes.vectors.dtype == np.float32
    assert np.array_equal(classes.vectors[[0, 2]], kinds.vectors(["cat", "dog"], 512))
    assert not classes.vectors[1].any()
    assert classes.homonyms == {}
    assert classes.coverage() == {"token": 0, "words": 0, "taxonomy": 2, "none": 1}
    assert taxonomy_vectors(kinds, []).vectors.shape == (0, 64)


# --- real files -----------------------------------------------------------------------------------

COVERAGE = {
    ("GoogleNews.8000.300d.bin", "first"): (68, 118, 814),
    ("GoogleNews.8000.300d.bin", "mean"): (99, 143, 758),
    ("glove.twitter.25d.11925.txt", "first"): (155, 231, 614),
    ("glove.twitter.25d.11925.txt", "mean"): (194, 258, 548),
    ("wordnet-gloss.300d.bin", "first"): (1000, 0, 0),
    ("wordnet-gloss.300d.bin", "mean"): (1000, 0, 0),
}
NOUNS = {
    "GoogleNews.8000.300d.bin": (11439, 9635, 61041),
    "glove.twitter.25d.11925.txt": (15702, 14977, 51436),
    "wordnet-gloss.300d.bin": (14596, 12884, 54635),
}


@functools.cache
def read_once(file: Path) -> WordVectors:
    """Return the vectors of a file, which no test changes."""
    return read_word_vectors(file)


@pytest.mark.parametrize(("file", "synonyms"), COVERAGE)
def test_coverage_of_ilsvrc_classes_is_known(real_data: Path, file: str, synonyms: str) -> None:
    """Classes are counted by tokens, by words of names, and without a vector."""
    table = parse_words((real_data / "meta" / "LOC_synset_mapping.txt").read_text())
    vectors = read_once(real_data / "words" / file)
    classes = class_vectors(vectors, table.items(), synonyms=synonyms)
    counts = classes.coverage()
    assert (counts["token"], counts["words"], counts["none"]) == COVERAGE[file, synonyms]
    assert len(classes.missing) == counts["none"]


@pytest.mark.slow
@pytest.mark.parametrize("file", NOUNS)
def test_coverage_of_all_nouns_is_known(real_data: Path, file: str) -> None:
    """The table has 82,115 nouns."""
    table = parse_words((real_data / "meta" / "imagenet_words_82k.txt").read_text())
    counts = class_vectors(read_word_vectors(real_data / "words" / file), table.items()).coverage()
    assert (counts["token"], counts["words"], counts["none"]) == NOUNS[file]
