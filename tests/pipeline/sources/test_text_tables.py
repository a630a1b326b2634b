"""Text tables in every encoding, with every line end and separator."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources.imagenet_tables import find_ground_truth, find_words
from pipeline.sources.location import Location
from pipeline.sources.text_tables import (
    decode_table,
    lines_of,
    parse_annotations,
    parse_numbers,
    parse_solution,
    parse_words,
    rows_of,
)

VAL = {f"ILSVRC2012_val_{n:08d}": wnid for n, wnid in enumerate(["n01440764", "n01443537"], 1)}
words = st.text(st.characters(blacklist_characters="\0\r\n", blacklist_categories=["Cs"]))
SAVED = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with BOM": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 big endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("saved", SAVED)
@given(lines=st.lists(words.filter(lambda line: not line.startswith("\ufeff")), max_size=6))
def test_lines_are_read_in_any_encoding(saved, end, lines):
    """Each encoding with a mark and each line end is read; other characters end no line."""
    text = "".join(line + end for line in lines)
    assert lines_of(decode_table(SAVED[saved](text), "t")) == lines
    if lines and lines[-1]:
        without_last_end = text[: -len(end)]
        assert lines_of(decode_table(SAVED[saved](without_last_end), "t")) == lines


@pytest.mark.parametrize("separator", ["\t", ";", ",", " "])
@pytest.mark.parametrize("quoted", [False, True])
def test_cells_are_split_by_the_separator_of_the_first_line(separator, quoted):
    """Cells are separated as spreadsheets of different countries write them."""
    table = [["a", "b1"], ["c", "d"]]
    cell = '"{}"'.format if quoted else "{}".format
    text = "\n\n".join(separator.join(map(cell, row)) for row in table)
    assert rows_of(text, "t") == [(1, ["a", "b1"]), (3, ["c", "d"])]


def test_a_quoted_cell_may_hold_the_separator():
    """The cell `"n1 1 2, 3"` is one cell."""
    assert rows_of('x,y\n"a, b","c ""d"""\n', "t")[1] == (2, ["a, b", 'c "d"'])
    with pytest.raises(SourceError, match="t: line 2 cannot be split into cells"):
        rows_of('x,y\n"a,b\n', "t")


def test_bytes_that_are_no_text_are_refused_by_table_and_line():
    """Latin-1 in a table of classes, and truncated or unmarked UTF-16, are refused by line."""
    with pytest.raises(
        SourceError, match=r"t: line 2 is not UTF-8 text .* Save the table as UTF-8"
    ):
        decode_table("a\ncr\xe8me\n".encode("latin-1"), "t")
    with pytest.raises(SourceError, match=r"t: line 1 has a zero byte: .* UTF-16 without its byte"):
        decode_table("abc".encode("utf-16-le"), "t")
    with pytest.raises(SourceError, match="is not UTF-16 text"):
        decode_table("abc".encode("utf-16")[:-1], "t")


def test_words_may_be_latin_1(tmp_path):
    """Words are only for display, so that Latin-1 is accepted."""
    line = "n01440764\tcr\xe8me br\xfbl\xe9e\n".encode("latin-1")
    (tmp_path / "words.txt").write_bytes(line)
    assert find_words(Location(str(tmp_path))) == {"n01440764": "cr\xe8me br\xfbl\xe9e"}


@pytest.mark.parametrize(
    "line",
    [
        "n01440764 tench, Tinca tinca",
        "n01440764\ttench, Tinca tinca",
        'n01440764\t"tench, Tinca tinca"',
        "n01440764;tench, Tinca tinca",
        'n01440764,"tench, Tinca tinca"',
        '"n01440764","tench, Tinca tinca"'.replace('","', '" "'),
        " n01440764  tench, Tinca tinca ",
    ],
)
def test_words_follow_a_wnid_and_any_separator(line):
    """Lines without a wnid are skipped."""
    text = f"wnid words\n{line}\nn0144 too short\nn014407645 too long\n"
    assert parse_words(text) == {"n01440764": "tench, Tinca tinca"}


def solution(separator: str = ",", end: str = "\n", quote: str = "") -> str:
    rows = [("ImageId", "PredictionString")]
    rows += [(name, f"{wnid} 1 2 3 4 ") for name, wnid in VAL.items()]
    return "".join(separator.join(f"{quote}{c}{quote}" for c in row) + end for row in rows)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("saved", SAVED)
def test_kaggles_table_is_read_in_each_format_of_spreadsheets(
    tmp_path, separator, end, quote, saved
):
    """Each format of a spreadsheet gives the same classes of val."""
    (tmp_path / "LOC_val_solution.csv").write_bytes(SAVED[saved](solution(separator, end, quote)))
    truth = find_ground_truth(Location(str(tmp_path)))
    assert {name: truth.wnid(f"{name}.JPEG") for name in VAL} == VAL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\n", "no column ImageId: its first line is 'a b', expected 'ImageId,Pred"),
        ("", "no column ImageId: its first line is ''"),
        ("ImageId,x\n", "no column PredictionString"),
        (solution() + "ILSVRC2012_val_00000003,\n", "line 4 is 'ILSVRC2012_val_00000003,'"),
        (solution() + "ILSVRC2012_val_00000003\n", "line 4 is 'ILSVRC2012_val_00000003'"),
        (solution() + "ILSVRC2012_val_00000003,tench 1 2\n", "line 4 is .* begins with its class"),
        (solution() + "ILSVRC2012_val_00000001,n03255030 1\n", "line 4 .* earlier line to another"),
    ],
)
def test_an_invalid_solution_is_refused_with_its_line(text, message):
    """A wrong table is refused with its line, since images would lose their classes."""
    with pytest.raises(SourceError, match=f"t.csv:? ?(has )?{message}"):
        parse_solution(text, "t.csv")


def test_annotations_have_a_class_for_each_file():
    """A line without a class, or a second class of a file, is refused; any separator is read."""
    expected = {"val_0.JPEG": "n01440764", "val_1.JPEG": "n01443537"}
    for separator in ("\t", ",", ";", " "):
        text = "\r\n".join(separator.join([*item, "0", "9"]) for item in expected.items())
        assert parse_annotations(text) == expected
    with pytest.raises(SourceError, match=r"t: line 2 is 'val_1\.JPEG': expected a file's name"):
        parse_annotations("val_0.JPEG\tn1\nval_1.JPEG\n", "t")
    with pytest.raises(SourceError, match=r"t: line 2 assigns 'a' to class 'n2', an earlier"):
        parse_annotations("a\tn1\na\tn2\n", "t")


def test_numbers_are_one_a_line():
    """A blank or invalid line would shift the classes of all images behind it."""
    assert parse_numbers("\ufeff490\r\n361\r\n\r\n", "t") == [490, 361]
    for text, line in (("1\n\n2\n", 2), ("1 2\n3\n", 1), ("1\n-2\n", 2), ("1\n\u0662\n", 2)):
        with pytest.raises(SourceError, match=f"t: line {line} is .*: expected one number"):
            parse_numbers(text, "t")
