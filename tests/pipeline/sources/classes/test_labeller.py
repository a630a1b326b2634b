"""The decision which class a sample has, and the order of classes."""

import json
import math
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import UNLABELLED, folder_class
from pipeline.sources.classes.class_order import Classes, combine_classes, sort_key
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.evidence import METADATA, ClassBasis, Evidence
from pipeline.sources.classes.labeller import Labeller
from pipeline.sources.classes.labels import read_label
from pipeline.sources.classes.number_tables import parse_class_table, parse_mapping
from pipeline.sources.classes.split_classes import SplitClasses
from pipeline.sources.options import LISTING_RULES, SourceOptions
from pipeline.sources.text_tables import parse_words
from pipeline.store import recipe

BIRDS = ClassTable(("albatross", "crane", "crane", "maillot / top"), "classes.txt")


def evidence(*samples: tuple[str, Any], table: ClassTable | None = None, **how: Any) -> Evidence:
    """Return the evidence of *samples* (path, label; () for none)."""
    labeller, collected = Labeller(table, SourceOptions(**how)), Evidence()
    for path, label in samples:
        collected.add(*labeller.key(path, {} if label == () else {"label": label}, repr(path)))
    return collected


def settled(*samples: tuple[str, Any], table: ClassTable | None = None, **how: Any) -> Classes:
    """Return the classes of one split of *samples*."""
    return combine_classes({"train": SplitClasses(evidence(*samples, table=table, **how), table)})


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, 3), (3.0, 3), ("3", 3), ("3.0", 3), (" 07\n", 7), (b"3", 3), ("cat ", "cat"),
        (b"\xef\xbb\xbfcat", "cat"), ("cafe\u0301", "caf\u00e9"), (True, "true"), (False, "false"),
        (-1, None), ("-1", None), (-1.0, None), (None, None), ("", None), (math.nan, None),
        ("1st", "1st"), ("3.5", "3.5"), ("\u0663", "\u0663"), (10**12, 10**12),
    ],
    ids=repr,
)  # fmt: skip
def test_labels_are_numbers_names_or_none(value: object, label: object) -> None:
    """A label may have any type; -1, null, NaN and empty texts are no class."""
    assert read_label(value, "x") == label
    assert type(read_label(value, "x")) is type(label)


@pytest.mark.parametrize(
    "value", [-2, "-7", 0.5, math.inf, [0, 1], [3], (1,), {"a": 1}, "1\n2"], ids=repr
)
def test_a_label_of_no_or_many_classes_is_refused_with_its_value(value: object) -> None:
    """The error holds the sample and the value."""
    with pytest.raises(SourceError, match=r"^row 5 has the label"):
        read_label(value, "row 5")


def test_names_of_numbers_keep_the_numbers_order() -> None:
    """Label 0 is the source's class 0, even if no sample is of it."""
    table = ClassTable(("zebra", "ant", "bee"), "the column 'label'")
    classes = settled(("1.png", 1), ("0.png", 0), table=table)
    assert classes.names == ("zebra", "ant", "bee")
    assert classes.numbers == (0, 1, 2)
    assert classes.empty == {"bee"}


def test_one_name_for_two_numbers_stays_two_classes() -> None:
    """Two numbers of one name are two classes with the number in their names."""
    classes = settled(*((f"{n}.png", n) for n in range(4)), table=BIRDS)
    assert classes.names == ("albatross", "crane#1", "crane#2", "maillot _ top")
    assert classes.words == ("", "crane", "crane", "maillot / top")
    with pytest.raises(SourceError, match="'crane' occurs more than once among"):
        settled(("1.png", "crane"), table=BIRDS)


def test_numbers_without_names_are_in_the_order_of_numbers() -> None:
    """Classes that are numbers are sorted by value, from any first number and with gaps."""
    classes = settled(*((f"{n}.png", n) for n in (10, 9, 1, 200)))
    assert (classes.names, classes.numbers) == (("1", "9", "10", "200"), (1, 9, 10, 200))
    folders = settled(*((f"{name}/1.png", ()) for name in ("10", "9", "x", "100", "b")))
    assert folders.names == ("9", "10", "100", "b", "x")
    assert sorted(["10", "9", "a"], key=sort_key) == ["9", "10", "a"]


def test_a_number_beyond_its_table_is_refused_with_the_sample() -> None:
    """The error asks if the labels begin at 1."""
    with pytest.raises(SourceError, match=r"'x' has the label 4, and classes.txt has 4 .*begin at"):
        settled(("x", 4), table=BIRDS)


def test_wnids_replace_the_numbers_beside_them() -> None:
    """A wnid in a name replaces the number of a label, one to one, or is refused."""
    table = ClassTable(("tench, Tinca tinca", "goldfish"), "the column 'label'")
    samples = (("n01443537_1.JPEG", 1), ("n01440764_1_n01440764.JPEG", 0))
    classes = settled(*samples, table=table)
    assert classes.names == ("n01440764", "n01443537")
    assert classes.words == table.names
    with pytest.raises(SourceError, match=r"class 'n01443537' has two labels, 1 .* and 0 .*"):
        settled(*samples, ("n01443537_2.JPEG", 0), table=table)
    with pytest.raises(SourceError, match=r"label 1 stands for two classes, 'n01443537' .*"):
        settled(*samples, ("n02119789_2.JPEG", 1), table=table)


def test_a_table_of_wnids_in_another_order_decides_the_labels() -> None:
    """The order of a table of wnids, such as the devkit's, decides the labels."""
    table = parse_mapping("n02119789 kit fox\nn01440764 tench\n", "LOC_synset_mapping.txt")
    classes = settled(("n02119789/a.jpg", 0), ("n01440764/b.jpg", 1), table=table)
    assert classes.names == ("n02119789", "n01440764")
    assert settled(("n02119789/a.jpg", ()), ("n01440764/b.jpg", ()), table=table).names == (
        ("n01440764", "n02119789")
    )
    with pytest.raises(SourceError, match=r"two classes: label says 1 and its folder says 'n0211"):
        settled(("n02119789/a.jpg", 1), table=table)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([("a", 1), ("b", "cat")], "some labels are numbers, as of '1/a', and some are names"),
        ([("x/a", 1), ("x/b", ())], "'1/a' has a label, and 'x/b' has none"),
        ([("x/a", ()), ("b", ())], "'-/b' lies in no class folder"),
        ([("x/y/a", ()), ("x/b", ())], "different depths, as 'x/b' and 'x/y/a'"),
        ([("x/y/a", ()), ("z/y/b", ())], "class 'y' comes from two folders, 'x/y' and 'z/y'"),
        ([("7/a", ()), ("07/b", ())], "'7' and '07' are one number written in two ways"),
        ([("7/a", ()), ("7.0/b", ())], r"'7' and '7\.0' are one number written in two ways"),
        ([("-2/a", ()), ("-02/b", ())], "'-2' and '-02' are one number written in two ways"),
        ([("a", "1.5"), ("b", "1.50")], r"'1\.5' and '1\.50' are one number written in two ways"),
        ([("a", "1"), ("b", "01")], "labels '1' .of '1/a'. and '01' .of '1/b'. are the number 1"),
        ([("a", "2"), ("b", b"2.0\n")], r"labels '2' .* and '2\.0' .* are the number 2 written"),
        ([("a", 2), ("b", "+2")], r"labels '2' .* and '\+2' .* one class or two\? If they are one"),
        ([("dog/a", ()), ("dog /b", ())], "differ only in spaces or Unicode normalisation"),
        ([("-/a", ())], "called '-'"),
        ([("-1/a", ()), ("0/b", ())], "'-1', beside .* numbers from 0 .* --ignore=-1"),
        (
            [("caf\u00e9/a", ()), ("cafe\u0301/b", ())],
            r"'caf.xe9' and 'cafe.u0301' differ only in Unicode normalisation",
        ),
        (
            [("d/n00000001_1", ()), ("d/n00000002_1", ()), ("e/n00000003_1", ())],
            "2 folders .* 3 wnids",
        ),
    ],
)
def test_classes_without_an_unambiguous_order_are_refused(samples: Any, message: str) -> None:
    """The error names two samples or classes that contradict each other."""
    with pytest.raises(SourceError, match=message):
        settled(*samples)


def test_folders_that_are_numbers_are_in_the_order_of_numbers() -> None:
    """Numbers below 0 or with a point are sorted by value, before names."""
    names = ["10.0", "2.0", "0.5", "-2", "-10", "-1", "cat", "v1.10", "007"]
    classes = settled(*((f"{name}/a", ()) for name in names))
    assert classes.names == ("-10", "-2", "-1", "0.5", "2.0", "007", "10.0", "cat", "v1.10")
    assert "number 7 is label 5" in classes.notes[0]
    assert settled(("0/a", ()), ("1/a", ()), ("cat/a", ())).notes == ()


def test_samples_may_have_no_class() -> None:
    """A whole split, or some samples of one, may have no class."""
    assert settled(("a", ()), ("b", ())).names == ()
    assert settled(("a", 0), ("b", -1), ("c", None), ("d", ())).names == ("0",)


def test_classes_are_those_of_all_splits() -> None:
    """Classes may occur in a single split, or only in a table or an empty folder."""
    splits = {
        "train": SplitClasses(evidence(("a/1", ()), ("c/1", ()))),
        "val": SplitClasses(evidence(("b/1", ()))),
    }
    splits["val"].evidence.add_class("d", ClassBasis("folder"), 0)
    classes = combine_classes(splits)
    assert (classes.names, classes.empty) == (("a", "b", "c", "d"), {"d"})
    assert classes.non_empty().names == ("a", "b", "c")


def test_splits_that_number_their_classes_differently_are_refused() -> None:
    """Splits with other names, another order, or no table are refused."""
    train_table, val_table = ClassTable(("a", "b"), "t/train"), ClassTable(("b", "a"), "t/val")
    for table in (val_table, None):
        splits = {
            "train": SplitClasses(evidence(("1", 0), table=train_table), train_table),
            "val": SplitClasses(evidence(("1", 0), table=table), table),
        }
        with pytest.raises(SourceError, match=r"'train' and 'val' number their classes differ"):
            combine_classes(splits)


def test_names_may_differ_only_in_case_within_one_split() -> None:
    """The letters A and a may be classes of one split; Dog and dog in two splits are an error."""
    letters = settled(("A/1", ()), ("a/1", ()))
    assert letters.names == ("A", "a")
    assert "differ only in case" in letters.notes[0]
    apart = {n: SplitClasses(evidence((f"{n}/1", ()))) for n in ("Dog", "dog")}
    with pytest.raises(SourceError, match="'Dog' and 'dog' differ only in case"):
        combine_classes(apart)


def test_a_name_in_two_compositions_is_one_class() -> None:
    """A decomposed name, as macOS writes it, is the same class as the composed one."""
    assert folder_class("cafe\u0301") == folder_class("caf\u00e9") == "caf\u00e9"
    assert settled(("cafe\u0301/1", ()), ("x/1", ())).names == ("caf\u00e9", "x")


def test_digits_that_are_names_are_never_read_as_numbers() -> None:
    """A text of digits that is one class's name and another's number is refused."""
    table = ClassTable(("1", "2", "0"), "names")
    with pytest.raises(SourceError, match=r"'1', which is the name of the class 0"):
        settled(("x", "1"), table=table)
    assert settled(("x", 1), table=table).names == ("1", "2", "0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\nb\n", "line 2 is blank"),
        ("1 a\n2 b\n", "line 1 with 1: expected 0"),
        ("0 a\n2 b\n", "line 2 with 2: expected 1"),
    ],
)
def test_a_table_with_ambiguous_numbers_is_refused(text: str, message: str) -> None:
    """The error names the line of an ambiguous table."""
    with pytest.raises(SourceError, match=message):
        parse_class_table(text, "classes.txt")


def test_lines_of_tables_hold_numbers_words_or_just_names() -> None:
    """A table may have a byte order mark, other line ends and blank lines at its end."""
    table = parse_class_table("\ufeff0 a b\r\n1 c\r\n\r\n", "x")
    assert table is not None
    assert table.names == ("a b", "c")
    table = parse_class_table("n01440764\ttench, Tinca\nn01443537 goldfish", "x")
    assert table is not None
    assert (table.names[1], table.words) == ("n01443537", ("tench, Tinca", "goldfish"))
    with pytest.raises(SourceError, match="lines 1 and 2 are both n01440764"):
        parse_mapping("n01440764 a\nn01440764 b\n", "x")
    with pytest.raises(SourceError, match="line 1 is 'id words': expected a wnid"):
        parse_mapping("id words\nn01440764 b\n", "x")


def test_evidence_is_stored_with_its_listing() -> None:
    """Evidence in the metadata of blocks merges into that of the source."""
    first, second = evidence(("a/1", ()), ("b/2", ())), evidence(("a/3", ()), ("c", -1))
    second.skip("system folders", "@eaDir", 2)
    merged = Evidence.decode(first.encode())
    assert merged == first
    merged.merge(Evidence.decode(second.encode()))
    assert {n: s.count for n, b, s in merged.items()} == {"a": 2, "b": 1, UNLABELLED: 1}
    assert merged.skipped["system folders"].count == 2
    assert Evidence.decode(None) == Evidence()


def test_older_stores_are_listed_by_their_own_rules() -> None:
    """Under listing rules 1, numbers are texts, and only samples without a class are refused."""
    old = SourceOptions(rules=1)
    assert Labeller(None, old).key("a.jpg", {"label": -1}, "x")[0] == "-1/a.jpg"
    assert Labeller(BIRDS, old).key("cat/a.jpg", {"label": 9}, "x")[0] == "cat/a.jpg"
    with pytest.raises(SourceError, match="listing rules 1"):
        Labeller(None, old).key("a.jpg", {}, "x")
    classes = combine_classes(
        {"train": SplitClasses(evidence(*((f"{n}", n) for n in range(11)), rules=1))}, rules=1
    )
    assert classes.names[:3] == ("0", "1", "10")
    assert LISTING_RULES == recipe.LISTING_RULES


@pytest.mark.parametrize("line", ["n01440764\ttench", "n01440764,tench", '"n01440764";"tench"'])
def test_tables_of_classes_and_of_words_have_the_same_separators(line):
    """A table may serve for numbers and words, so both parsers must split it alike."""
    assert parse_words(line) == {"n01440764": "tench"}
    for table in (parse_mapping(line, "x"), parse_class_table(line, "x")):
        assert table is not None
        assert (table.names, table.words) == (("n01440764",), ("tench",))


def test_a_number_is_written_in_one_way_or_counted_by_a_table() -> None:
    """Numbers of one width are one class each; a table decides numbers and names."""
    assert settled(("a", "01"), ("b", "02"), ("c", "10"), ("d", " 01\n")).names == ("1", "2", "10")
    assert settled(("a", 1), ("b", 1.0), ("c", "1")).names == ("1",)
    table = ClassTable(("cat", "dog"), "classes.txt")
    assert settled(("a", "1"), ("b", "01"), ("c", "1.0"), table=table).names == ("cat", "dog")
    sevens = ClassTable(("7", "07", "7.0"), "classes.txt")
    assert settled(("a", 0), ("b", 1), ("c", 2), table=sevens).names == ("7", "07", "7.0")


def test_splits_write_a_number_in_one_way() -> None:
    """A label 1 in train and 01 in val may be two codes, and is refused."""
    splits = {
        "train": SplitClasses(evidence(("a", "1"))),
        "val": SplitClasses(evidence(("b", "01"))),
    }
    with pytest.raises(SourceError, match="are the number 1 written in two ways"):
        combine_classes(splits)


def test_a_number_with_too_many_digits_is_refused_with_its_sample() -> None:
    """A number beyond Python's limit of 4,300 digits is refused with its sample."""
    with pytest.raises(SourceError, match=r"x has the label '111.*\.\.\., .* 5,000 characters"):
        read_label("1" * 5000, "x")


def test_evidence_of_an_earlier_spool_is_read() -> None:
    """Evidence without the text of a number, of an earlier version, is read."""
    fields = {"seen": [["3", "number", 3, "", "3/a", 5]], "passed": {}, "notes": []}
    decoded = Evidence.decode({METADATA: json.dumps(fields).encode()})
    assert list(decoded.groups) == [("3", ClassBasis("number", 3))]
    again = evidence(("a", "03"))
    assert Evidence.decode(again.encode()).groups.keys() == again.groups.keys()
