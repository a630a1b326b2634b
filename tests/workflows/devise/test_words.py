"""Tests of `tesserae words`: the coverage of classes, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TesseraeError
from tests.images import make_folder, prepare_inline
from tests.inline import tesserae
from workflows import cli
from workflows.devise import words

TABLE = """\
n02012849 crane
n03126707 crane
n01484850 great white shark, man-eater
n01440764 tench, Tinca tinca
"""
GLOVE = """\
crane 1 0 0
white 0 1 0
shark 0 0 1
great 1 1 1
tench nan 0 0
"""
EDGES = """\
n00015388 n01503061
n01503061 n02012849
n01503061 n01514668
n00015388 n01440764
n00001740 n00015388
"""


@pytest.fixture(autouse=True)
def _is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "words", "say which classes have a word vector")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text(TABLE)
    (tmp_path / "glove.txt").write_text(GLOVE)
    (tmp_path / "edges.txt").write_text(EDGES)
    return tmp_path / "names.txt"


def run_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: object
) -> str:
    capsys.readouterr()
    assert tesserae(monkeypatch, "words", *argv) == 0
    return capsys.readouterr().out


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: object
) -> str:
    capsys.readouterr()
    assert tesserae(monkeypatch, "words", *argv) == 1
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    return output


def facts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: object
) -> Any:
    return json.loads(run_words(monkeypatch, capsys, *argv, "--json"))


def test_coverage_is_printed(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text counts the classes by source of their vector and lists the others."""
    glove = table.parent / "glove.txt"
    output = run_words(monkeypatch, capsys, table, "--word-vectors", glove).splitlines()
    assert output == [
        f"{table}  4 classes",
        f"  vectors  {glove}: 5 tokens, 3 dimensions; synonyms: mean",
        "          2   50.0 %  from a token that equals a name",
        "          1   25.0 %  from the mean over the words of a name",
        "          1   25.0 %  without a vector",
        "    without a vector: 1",
        "      n01440764  tench, Tinca tinca",
        "    names shared by several classes: 1",
        "      crane  n02012849 n03126707  (same vector)",
        "    classes with identical vectors, which no method can distinguish: 1",
        "      n02012849 n03126707",
    ]


def test_the_hierarchy_is_printed(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text counts the classes in the hierarchy and the nouns near them."""
    glove, edges = table.parent / "glove.txt", table.parent / "edges.txt"
    output = run_words(monkeypatch, capsys, table, "--word-vectors", glove, "--hierarchy", edges)
    assert f"  hierarchy  {edges}: 6 nodes, including 2 classes\n" in output
    assert (
        "    classes that are not in the hierarchy: 2\n      n03126707\n      n01484850\n"
    ) in output
    assert (
        "          2  other nodes within 1 hop of a class\n"
        "          4  other nodes within 2 hops of a class\n"
    ) in output
    assert "Frome" not in output  # the paper's sets are of other classes, in another hierarchy
    assert "mean size of the correct set of hp@k: 2.00 at k = 2\n" in output
    result = facts(monkeypatch, capsys, table, "--word-vectors", glove, "--hierarchy", edges)
    assert result["hierarchy"] == {
        "where": str(edges),
        "nouns": 6,
        "classes": 2,
        "missing": ["n03126707", "n01484850"],
        "within_hops": {"1": 2, "2": 4, "3": 4},
        "correct_sets": {"2": 2.0},
    }


@pytest.mark.parametrize(
    ("nouns", "classes", "is_shown"),
    [(82_115, 1_000, True), (82_115, 999, False), (6, 1_000, False)],
)
def test_the_paper_is_cited_for_its_own_classes_alone(
    nouns: int, classes: int, is_shown: bool
) -> None:
    """The note appears for the 1,000 classes of ILSVRC in a complete WordNet only."""
    facts = {
        "source": "x", "classes": classes, "vectors": {"file": None, "dim": 64},
        "coverage": {"none": 0}, "missing": [], "homonyms": [], "alike": [],
        "hierarchy": {
            "where": "w", "nouns": nouns, "classes": classes, "missing": [],
            "within_hops": {"1": 1_648}, "correct_sets": None,
        },
    }  # fmt: skip
    assert (
        any("1,589 nouns in the 2-hop" in line for line in words.coverage_lines(facts, 20))
        is is_shown
    )


def test_json_has_all_facts(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes that share a name need not share a vector."""
    glove = table.parent / "glove.txt"
    table.write_text(TABLE + "n01514668 hen, great\nn02017213 great, crane\n")
    result = facts(monkeypatch, capsys, table, "--word-vectors", glove)
    assert result["coverage"] == {"token": 4, "words": 1, "taxonomy": 0, "none": 1}
    assert result["homonyms"] == [
        {"name": "crane", "wnids": ["n02012849", "n03126707", "n02017213"], "alike": False},
        {"name": "great", "wnids": ["n01514668", "n02017213"], "alike": False},
    ]
    table.write_text(TABLE + "n01514668 hen, great\n")
    result = facts(monkeypatch, capsys, table, "--word-vectors", glove, "--synonyms", "first")
    assert result == {
        "source": str(table),
        "classes": 5,
        "vectors": {"file": str(glove), "tokens": 5, "dim": 3, "synonyms": "first"},
        "coverage": {"token": 2, "words": 1, "taxonomy": 0, "none": 2},
        "missing": [
            {"wnid": "n01440764", "words": "tench, Tinca tinca"},
            {"wnid": "n01514668", "words": "hen, great"},
        ],
        "homonyms": [{"name": "crane", "wnids": ["n02012849", "n03126707"], "alike": True}],
        "alike": [["n02012849", "n03126707"]],
        "hierarchy": None,
    }


def test_without_a_file_of_vectors_the_taxonomy_gives_them(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text says that vectors are derived from the taxonomy."""
    edges = table.parent / "edges.txt"
    output = run_words(monkeypatch, capsys, table, "--hierarchy", edges)
    assert "derived from the hierarchy, 64 dimensions; pass --word-vectors FILE" in output
    assert "          2   50.0 %  from the hierarchy\n" in output
    assert "    without a vector: 2\n      n03126707  crane\n" in output


def test_the_installed_wordnet_is_the_taxonomy_when_none_is_named(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The installed WordNet is used if it exists, and only without a file of vectors."""
    wordnet = table.parent / "wordnet"
    monkeypatch.setattr(words, "WORDNET", wordnet)
    output = refused(monkeypatch, capsys, table)
    assert "no word vectors and no hierarchy" in output
    assert "--word-vectors FILE" in output
    wordnet.mkdir()
    (wordnet / "data.noun").write_text("02012849 05 n 01 crane 0 001 @ 01503061 n 0000 | a bird\n")
    assert f"  hierarchy  {wordnet}: 2 nodes" in run_words(monkeypatch, capsys, table)
    result = facts(monkeypatch, capsys, table, "--word-vectors", table.parent / "glove.txt")
    assert result["hierarchy"] is None


def test_the_classes_of_a_store_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classes have the names of the store's recipe."""
    images = make_folder(tmp_path / "images", 3)
    (images / "words.txt").write_text("n00000000 crane\nn00000001 great white\nn00000002 hen\n")
    prepare_inline(images, str(tmp_path / "store"))
    (tmp_path / "glove.txt").write_text(GLOVE)
    result = facts(
        monkeypatch, capsys, tmp_path / "store", "--word-vectors", tmp_path / "glove.txt"
    )
    assert result["coverage"] == {"token": 1, "words": 1, "taxonomy": 0, "none": 1}
    assert result["missing"] == [{"wnid": "n00000002", "words": "hen"}]


def test_long_lists_are_cut_and_counted(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--all` prints the full list; tabs, a BOM and CRLF in the table are accepted."""
    names = [f"n{number:08d}\tnoun{number}\r\n" for number in range(words.MAX_LISTED + 5)]
    table.write_text("\ufeff" + "".join(names), newline="")
    glove = table.parent / "glove.txt"
    output = run_words(monkeypatch, capsys, table, "--word-vectors", glove)
    assert f"without a vector: {words.MAX_LISTED + 5}\n      n00000000  noun0\n" in output
    assert "      ... and 5 more (--all)\n" in output
    output = run_words(monkeypatch, capsys, table, "--word-vectors", glove, "--all")
    assert f"  noun{words.MAX_LISTED + 4}\n" in output
    assert "more (--all)" not in output


def test_names_are_escaped_in_the_terminal(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters in a class name are escaped."""
    table.write_text("n00000000 \x1b[2j\u202ecrane\nn00000001 \x1b[2j\u202eCrane\n")
    glove = table.parent / "glove.txt"
    glove.write_text("\x1b[2j\u202ecrane 1 2\n")
    output = run_words(monkeypatch, capsys, table, "--word-vectors", glove)
    assert all(c.isprintable() or c == "\n" for c in output)
    assert r"\x1b[2j\u202ecrane  n00000000 n00000001  (same vector)" in output
    glove.write_text("other 1 2\n")
    output = run_words(monkeypatch, capsys, table, "--word-vectors", glove)
    assert all(c.isprintable() or c == "\n" for c in output)
    assert r"n00000000  \x1b[2j\u202ecrane" in output


def test_bad_inputs_are_one_line_errors(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1, and a pickle is never loaded."""
    folder, glove = table.parent, table.parent / "glove.txt"
    assert "no store at" in refused(monkeypatch, capsys, folder, "--word-vectors", glove)
    assert "no store at" in refused(monkeypatch, capsys, folder / "none", "--word-vectors", glove)
    assert "has no line of an id and names" in refused(monkeypatch, capsys, glove)
    (folder / "word2vec.txt").write_text("2 3\ncrane 1 0 0\nshark 0 0 1\n")
    assert "has no line of an id and names" in refused(monkeypatch, capsys, folder / "word2vec.txt")
    output = refused(monkeypatch, capsys, table, "--word-vectors", table)
    assert "is not a file of word vectors" in output
    (folder / "pickle").write_bytes(b"\x80\x04N.")
    assert "is a pickle" in refused(monkeypatch, capsys, table, "--word-vectors", folder / "pickle")
    assert "has no line of an id and names" in refused(monkeypatch, capsys, folder / "pickle")
    output = refused(monkeypatch, capsys, table, "--hierarchy", glove)
    assert "line 1 is 'crane 1 0 0': expected `parent child`" in output


def test_real_word_vectors_cover_ilsvrc_classes(
    real_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 1,000 classes have a vector and a noun; the set sizes are the expected ones."""
    result = facts(
        monkeypatch,
        capsys,
        real_data / "meta" / "LOC_synset_mapping.txt",
        "--word-vectors",
        real_data / "words" / "wordnet-gloss.300d.bin",
        "--hierarchy",
        real_data / "meta" / "wordnet.parent-child.txt",
    )
    assert result["coverage"] == {"token": 1000, "words": 0, "taxonomy": 0, "none": 0}
    assert result["hierarchy"]["classes"] == 1000
    assert result["hierarchy"]["within_hops"] == {"1": 1648, "2": 6571, "3": 11183}
    means = result["hierarchy"]["correct_sets"]
    assert [round(mean, 1) for mean in means.values()] == [4.5, 9.5, 18.0, 33.8]
    assert "panda" in [homonym["name"] for homonym in result["homonyms"]]


def test_classes_can_be_named_by_a_file(tmp_path: Path) -> None:
    """Classes that the file does not name keep the names of the store."""
    classes = [("n00000001", ""), ("n00000002", "old"), ("n00000003", "")]
    file = tmp_path / "names.txt"
    file.write_text("n00000001 tench, Tinca tinca\nn00000009\tother\n")
    assert words.names_of_classes(classes, str(file)) == (
        ("n00000001", "tench, Tinca tinca"), ("n00000002", "old"), ("n00000003", ""),
    )  # fmt: skip
    assert words.names_of_classes(classes, None) == tuple(classes)
    with pytest.raises(TesseraeError, match="no names of its 1 classes, only wnids such as n0000"):
        words.names_of_classes(classes[:1], None)
    with pytest.raises(TesseraeError, match="names none of the store's 1 classes"):
        words.names_of_classes(classes[1:2], str(file))
    with pytest.raises(TesseraeError, match="which is not a file"):
        words.names_of_classes(classes, str(tmp_path))


FOLDERS = (("church", ""), ("dog", ""), ("golf_ball", ""))


def test_a_folder_name_is_split_into_words() -> None:
    """Names of the class in the store take precedence."""
    assert words.names_of_classes(FOLDERS, None) == (
        ("church", "church"), ("dog", "dog"), ("golf_ball", "golf ball"),
    )  # fmt: skip
    mixed = (("n01440764", "tench"), ("n00000001", ""), ("great-white_shark", ""))
    assert words.names_of_classes(mixed, None) == (
        ("n01440764", "tench"), ("n00000001", ""), ("great-white_shark", "great white shark"),
    )  # fmt: skip
    with pytest.raises(TesseraeError, match="only wnids such as n00000001: pass --class-names"):
        words.names_of_classes((("n00000001", ""),), None)


@pytest.mark.parametrize("named", [False, True])
def test_a_store_without_classes_has_no_names(table: Path, *, named: bool) -> None:
    """The error says so, with a file of names too."""
    with pytest.raises(TesseraeError, match="the store has no classes"):
        words.names_of_classes((), str(table) if named else None)


@pytest.mark.parametrize(
    "text",
    [
        "church church\ndog hound, dog\n",
        "church\tchurch\ndog\thound, dog\n",
        '\ufeffchurch,church\r\ndog,"hound, dog"\r\n',
    ],
)
def test_any_id_may_be_a_key_of_a_table_of_names(tmp_path: Path, text: str) -> None:
    """A folder name is a key of the table; classes it leaves out keep their folder name."""
    file = tmp_path / "names"
    file.write_bytes(text.encode())
    assert words.names_of_classes(FOLDERS, str(file)) == (
        ("church", "church"), ("dog", "hound, dog"), ("golf_ball", "golf ball"),
    )  # fmt: skip
    file.write_text("wolf wolf\n")
    with pytest.raises(TesseraeError, match=r"names none of the store's 3 classes, such as 'chur"):
        words.names_of_classes(FOLDERS, str(file))
