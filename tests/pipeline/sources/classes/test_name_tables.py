"""Tables of class names and lists of classes, in the formats that people write."""

from __future__ import annotations

import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources.classes.name_tables import parse_list, parse_names

IDS = ("church", "dog", "golf ball", "n01440764", "big_cat", "3")
NAMES = {
    "church": "church, church building",
    "dog": "dog",
    "golf ball": "golf ball",
    "n01440764": "tench, Tinca tinca",
    "big_cat": "tiger",
    "3": "cat's eye",
}


def written(separator: str, end: str = "\n", *, quoted: bool = False) -> str:
    def cell(text: str) -> str:
        return f'"{text}"' if quoted or (separator in text and separator == ",") else text

    return "".join(f"{cell(key)}{separator}{cell(names)}{end}" for key, names in NAMES.items())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", ["\t", ";", ",", " ", ", ", " \t"])
def test_any_id_may_be_a_key(separator: str, end: str) -> None:
    """An id may be a wnid, a word, several words, or a number."""
    assert parse_names(written(separator, end), IDS) == NAMES


def test_cells_may_be_quoted() -> None:
    """Cells may be quoted, as spreadsheets write them."""
    assert parse_names(written(",", quoted=True), IDS) == NAMES
    assert parse_names(written("\t", quoted=True), IDS) == NAMES


def test_names_may_have_separate_cells() -> None:
    """Names in several cells are synonyms."""
    assert parse_names("church,church,church building\ndog,hound\n", IDS) == {
        "church": "church, church building",
        "dog": "hound",
    }


def test_the_separator_is_the_one_that_finds_the_ids() -> None:
    """A header, and commas between names, do not decide the separator."""
    text = "id names\nchurch church, church building\ndog dog, hound\n"
    names = parse_names(text, IDS)
    assert names["church"] == "church, church building"
    assert names["dog"] == "dog, hound"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("church church\ndog hound, dog\n", {"church": "church", "dog": "hound, dog"}),
        ("golf ball\tgolf ball\ndog\thound\n", {"golf ball": "golf ball", "dog": "hound"}),
        ("golf ball,the ball\ndog,hound\n", {"golf ball": "the ball", "dog": "hound"}),
        (
            "n01440764 tench, Tinca tinca\nnote of mine\nn01443537 goldfish\n",
            {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"},
        ),
        ("n01440764\n", {}),
        ("", {}),
    ],
)
def test_a_table_of_unknown_ids_is_read_by_its_lines(text: str, expected: dict[str, str]) -> None:
    """Unknown ids end at the first separator of every line; beside wnids, others are skipped."""
    assert parse_names(text) == expected


@given(
    st.dictionaries(
        st.text("abc_-09 ", min_size=1).map(str.strip).filter(bool),
        st.lists(st.text("abc '-", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=3),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["\t", ";"]),
)
def test_names_that_are_written_can_be_read(classes: dict[str, list[str]], separator: str) -> None:
    """Any ids and names that are written can be read."""
    names = {key: ", ".join(words) for key, words in classes.items()}
    text = "".join(f"{key}{separator}{words}\n" for key, words in names.items())
    assert parse_names(text, list(classes)) == names


ENCODED = {
    "utf-8": lambda text: text.encode(),
    "bom": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
}


@pytest.mark.parametrize("encoding", list(ENCODED))
@pytest.mark.parametrize(
    "text",
    [
        "church\ngolf ball\n",
        "church\r\ngolf ball\r\n",
        "church some words\ngolf ball of mine\n",
        "church\tsome words\ngolf ball\t3\n",
        "church,3\ngolf ball,4\n",
        '"church"\n"golf ball"\n\n# a note\n',
        json.dumps({"seen": ["church", "golf ball"], "unseen": []}),
        json.dumps(["church", "golf ball"]),
    ],
)
def test_a_list_of_classes_is_read_from_lines_or_json(text: str, encoding: str) -> None:
    """A list is read by line, with further cells ignored, or from JSON."""
    data = ENCODED[encoding](text)
    assert parse_list(data, "x", IDS, "seen") == ["church", "golf ball"]


def test_unexpected_ids_are_listed_too() -> None:
    """An unexpected id is listed, so that the caller can report it."""
    assert parse_list(b"dog\nwolf, grey\n", "x", IDS, "seen") == ["dog", "wolf"]


@pytest.mark.parametrize("text", ["{}", '{"seen": 3}', '{"seen": [[]]}', "[{}]", '["dog"'])
def test_json_without_the_list_is_refused(text: str) -> None:
    """The error names the key that is missing in JSON."""
    with pytest.raises(SourceError, match="x is not a JSON file with a list 'seen'"):
        parse_list(text.encode(), "x", IDS, "seen")
