"""WebDataset shards: grouping, classes, and errors."""

import io
import json
import tarfile
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources import open_source
from pipeline.sources.archives.outline import sample_name
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.formats.webdataset import WebDatasetShard
from pipeline.sources.options import SourceOptions
from tests.pipeline.sources.layouts import tar_bytes
from tests.pipeline.sources.test_sources import read_all

# folders that tell the class, so that only the grouping decides
names = st.lists(
    st.tuples(
        st.sampled_from(["n00000001/", "a/n00000001/", "n00000002/", "x.y/n00000003/"]),
        st.sampled_from(["0", "1", "n01440764_5", ""]),
        st.sampled_from(["jpg", "JPEG", "seg.png", "cls", "json", "txt", "", "tar.old"]),
    ).map(lambda parts: parts[0] + parts[1] + ("." + parts[2] if parts[2] else "")),
    unique=True,
    max_size=14,
).filter(lambda paths: len({path.split("n0", 1)[1] for path in paths}) == len(paths))


def shard(folder: Path, members: dict[str, bytes], name: str = "s-000.tar") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(tar_bytes(members))
    return folder


def keys(root: Path) -> list[str]:
    listing = open_source(root, "train", "webdataset").list(lambda num_new: None)
    return listing["key"].to_pylist()


def oracle(members: list[str]) -> list[list[str]]:
    """Return the samples by WebDataset's own rule: adjacent members of one base name."""
    visible = [name for name in members if not Path(name).name.startswith(".")]
    visible = [name for name in visible if "." in name.split("/")[-1]]
    base = {
        name: name[: name.rindex(name.split("/")[-1])] + name.split("/")[-1].split(".")[0]
        for name in visible
    }
    return [list(group) for _, group in groupby(visible, base.get)]


@given(names)
def test_members_are_grouped_as_by_webdataset(tmp_path_factory, members):
    """Each group with an image is one row; a group with two images is refused."""
    images = [
        [name for name in group if name.lower().endswith((".jpg", ".jpeg", ".png"))]
        for group in oracle(members)
    ]
    root = shard(tmp_path_factory.mktemp("x"), dict.fromkeys(members, b"3"))
    expected = [group[0] for group in images if group]
    if any(len(group) > 1 for group in images):
        with pytest.raises(SourceError, match="has two images"):
            keys(root)
        return
    if not expected:
        with pytest.raises(SourceError, match="no images found"):
            keys(root)
        return
    groups = [sample_name(group[0])[0] for group in oracle(members)]
    try:
        listed = keys(root)
    except SourceError:  # a label apart from a sample that is complete
        assert len(set(groups)) < len(groups)
        return
    assert listed == sorted("/".join(name.split("/")[-2:]) for name in expected)


@pytest.mark.parametrize(
    ("members", "key"),
    [
        ({"n01440764/a.jpg": b""}, "n01440764/a.jpg"),
        ({"train/n01440764/a.jpg": b"", "train/n01440764/a.cls": b"dog"}, "n01440764/a.jpg"),
        ({"a.jpg": b"", "a.cls": b"1\n"}, "dog/a.jpg"),
        ({"a.cls": b"0", "a.jpg": b""}, "n02119789/a.jpg"),
        ({"a.jpg": b"", "a.cls": b"\xef\xbb\xbfdog\r\n"}, "dog/a.jpg"),
        ({"a.jpg": b"", "a.cls": b"-1"}, "-/a.jpg"),
        ({"a.jpg": b""}, "-/a.jpg"),
        ({"a.jpg": b"", "a.json": json.dumps({"label": 1}).encode()}, "dog/a.jpg"),
        ({"a.jpg": b"", "a.json": b'{"wnid": "n01440764", "label": 1}'}, "n01440764/a.jpg"),
        ({"a.jpg": b"", "a.cls": b"1", "a.json": b'{"cls": "dog"}'}, "dog/a.jpg"),
        ({"n01440764_1.jpg": b"", "n01440764_1.cls": b"1"}, "n01440764/n01440764_1.jpg"),
        ({"n01440764_1.JPEG": b""}, "n01440764/n01440764_1.JPEG"),
        ({"cats/a.jpg": b""}, "cats/a.jpg"),
        ({"train/a.jpg": b"", "train/a.txt": b"words", "train/a.cls": b"1"}, "dog/a.jpg"),
        ({"a.jpg": b"", "a.cls.txt": b"1"}, "dog/a.jpg"),
        ({"a.JPG": b"", "a.Label": b"1"}, "dog/a.JPG"),
        ({"a.v1.jpg": b"", "a.v1.cls": b"1"}, "dog/a.v1.jpg"),
        ({"photos/a.jpg": b"", "photos/a.class": b"1"}, "dog/a.jpg"),
        ({"a.jpg": b"", "a.label.json": b"1"}, "dog/a.jpg"),
        ({"a.jpg": b"", "a.json": b'{"width": 3, "Target": 1}'}, "dog/a.jpg"),
        ({"a.jpg": b"", "a.json": b'{"label": 1, "category": "mammal"}'}, "dog/a.jpg"),
    ],
)
def test_the_class_comes_from_a_label_a_folder_or_a_name(tmp_path, members, key):
    """The class comes from a label, counted by a table, or from a folder or a name."""
    root = shard(tmp_path, members)
    (root / "classes.txt").write_text("n02119789\ndog\n")
    assert keys(root) == [key]


def test_the_order_of_classes_may_come_from_kaggles_table(tmp_path):
    """The numbers of labels count the lines of LOC_synset_mapping.txt."""
    root = shard(tmp_path / "shards", {"a.jpg": b"", "a.cls": b"1"})
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    assert keys(root) == ["n01443537/a.jpg"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.cls": b"2"}, r"'a\.jpg' has the label 2, and .*classes\.txt has 2 .* begin at 1\?"),
        ({"a.cls": b"bird"}, r"label 'bird' is none of the 2 classes of .*classes\.txt"),
        ({"a.cls": b"1", "a.json": b'{"cls": 0}'}, r"\.cls says '1' and cls says 0"),
        ({"a.cls": b"-2"}, r"label '-2': expected a number from 0 on, or -1"),
        ({"a.cls": b"0\n1\n"}, "of several lines"),
        ({"a.cls": b"\xff"}, r"'a\.cls' is not UTF-8"),
        ({"a.json": b'{"label": [0, 1]}'}, r"label \[0, 1\], which is a list"),
        ({"a.json": b'{"label": 0.5}'}, r"label 0\.5: expected a whole number"),
        ({"a.json": b'{"label": -1, "cls": 1}'}, "two classes"),
        ({"a.cls": b"1", "a.cls.txt": b"0"}, r"\.cls says '1' and \.cls\.txt says '0'"),
        ({"a.label": b"bird"}, r"label 'bird' is none of the 2 classes"),
    ],
)
def test_a_label_that_is_no_class_is_refused_with_the_sample(tmp_path, members, message):
    """The error has the sample and the value, before any image is decoded."""
    root = shard(tmp_path, {"a.jpg": b"", **members})
    (root / "classes.txt").write_text("n02119789\ndog\n")
    with pytest.raises(SourceError, match=message):
        keys(root)


def test_a_folder_and_a_label_of_two_wnids_are_refused(tmp_path):
    """Two wnids of one sample are refused, since either may be right."""
    members = {"n01440764/a.jpg": b"", "n01440764/a.cls": b"n02119789"}
    with pytest.raises(SourceError, match=r"two classes: \.cls says 'n02119789' and its folder"):
        keys(shard(tmp_path, members))


def test_two_images_in_one_sample_are_refused(tmp_path):
    """Two images of one sample are refused, since either may be the sample."""
    with pytest.raises(SourceError, match=r"sample 'n01440764_1' has two images, .*l\.jpg' and"):
        keys(shard(tmp_path, {"n01440764_1.l.jpg": b"", "n01440764_1.r.jpg": b""}))


@pytest.mark.parametrize("suffix", ["cls", "json"])
@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_linked_label_is_refused(tmp_path, suffix, kind):
    """A link has no bytes in the shard: its sample would silently have no class."""
    with tarfile.open(tmp_path / "s-000.tar", "w") as tar:
        for name, data in ((f"0.{suffix}", b"3"), ("0.jpg", b""), ("1.jpg", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo(f"1.{suffix}")
        member.type, member.linkname = kind, f"0.{suffix}"
        tar.addfile(member)

    with pytest.raises(SourceError, match=rf"'1\.{suffix}' is a link, which a shard cannot hold"):
        keys(tmp_path)


def test_invalid_json_is_refused(tmp_path):
    """The error for invalid JSON names the sample."""
    with pytest.raises(SourceError, match=r"\.json of the sample 'a' is not JSON"):
        keys(shard(tmp_path, {"a.jpg": b"", "a.json": b"{"}))


def test_one_key_in_two_shards_is_refused_with_both(tmp_path):
    """A sample in two shards is refused with both names."""
    for name in ("s-000.tar", "s-001.tar"):
        shard(tmp_path, {"n01440764_1.jpg": b"1"}, name)
    with pytest.raises(SourceError, match=r"'s-000\.tar' at byte 512 and 's-001\.tar' at byte 512"):
        keys(tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_samples_of_shards_that_count_from_0_get_unique_names(tmp_path, mode):
    """Samples of equal names get that of their shard, and keep their labels and bytes."""
    for number, name in enumerate(("s-000.tar", "s-001.tar")):
        members = {"0.jpg": b"1" * (number + 1), "0.cls": b"0", f"own{number}.jpg": b"x"}
        (tmp_path / name).write_bytes(tar_bytes(members, mode))
    source = open_source(tmp_path, "train", "webdataset")
    assert read_all(source, tmp_path / "spool")[1] == {
        "0/s-000-000000000.jpg": b"1",
        "0/s-001-000000000.jpg": b"11",
        "-/own0.jpg": b"x",
        "-/own1.jpg": b"x",
    }


def test_a_name_is_split_at_the_first_dot_of_its_last_part():
    """Dots in the names of folders do not split a name."""
    assert sample_name("a.b/c.d.e") == ("a.b/c", "d.e")
    assert sample_name("c") == ("c", "")


CLASSES = ("bird", "cat", "dog")


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=8),
    suffix=st.sampled_from(["cls", "json"]),
    data=st.data(),
)
def test_the_order_of_members_never_decides_a_label(tmp_path_factory, labels, suffix, data):
    """In any order of members, each image has its own label, or the shard is refused."""
    label_text = {"cls": "{}", "json": '{{"label": {}}}'}[suffix]
    members = [(f"photos/{i:03d}.jpg", b"x" * (i + 1)) for i in range(len(labels))]
    members += [
        (f"photos/{i:03d}.{suffix}", label_text.format(label).encode())
        for i, label in enumerate(labels)
    ]
    members += [(f"photos/{i:03d}.txt", b"a photo") for i in range(len(labels))]
    root = tmp_path_factory.mktemp("x")
    (root / "classes.txt").write_text("\n".join(CLASSES))
    shard(root, dict(data.draw(st.permutations(members))))
    expected = sorted(f"{CLASSES[label]}/{i:03d}.jpg" for i, label in enumerate(labels))
    assert keys(root) == expected


def test_a_label_in_two_places_of_a_shard_is_refused(tmp_path):
    """A label in two places of a shard is refused with advice, since either may be right."""
    members = [("a.jpg", b"1"), ("a.cls", b"0"), ("b.jpg", b"2"), ("b.cls", b"1")]
    root = shard(tmp_path / "x", dict(members))
    with (root / "s-000.tar").open("ab") as file:
        file.write(tar_bytes({"a.cls": b"1"}))
    with pytest.raises(
        SourceError, match=r"sample 'a' has a label in two separate places .* --sort=name"
    ):
        keys(root)


def test_samples_without_an_image_are_counted(tmp_path):
    """Samples without an image, also those of a label alone, are counted."""
    members = {"a.jpg": b"1", "a.cls": b"0", "b.cls": b"1", "c.txt": b"x", "readme": b"x"}
    root = shard(tmp_path / "x", members)
    listing = open_source(root, "train", "webdataset").list(lambda num_new: None)
    passed = Evidence.decode(listing.schema.metadata).skipped
    assert {why: (seen.first, seen.count) for why, seen in passed.items()} == {
        "samples without an image": ("c", 2),
        "names without a suffix": ("readme", 1),
        "parts of samples that are neither image nor label": ("c.txt", 1),
    }


@pytest.mark.parametrize("suffix", ["cls", "label", "CLS.txt"])
def test_a_tree_with_labels_is_refused_at_its_first_label(tmp_path, suffix):
    """A label behind more images than the outline holds refuses a tree."""
    members = {f"photos/{i:03d}.jpg": b"x" for i in range(80)}
    members |= {f"photos/{i:03d}.{suffix}": b"%d" % (i % 2) for i in range(80)}
    root = shard(tmp_path / "x", members)
    source = open_source(root, "train")
    assert source.kind == "tar"
    with pytest.raises(SourceError, match=rf"'photos/000\.{suffix}' gives the class of the sample"):
        source.list(lambda num_new: None)
    assert {key.partition("/")[0] for key in keys(root)} == {"0", "1"}


def test_tars_without_labels_that_may_be_classes_are_refused(tmp_path):
    """Unnumbered tars of images without labels are refused; numbered ones, or one, are shards."""
    root = shard(tmp_path / "x", {"1.jpg": b"1"}, "dog.tar")
    assert keys(root) == ["-/1.jpg"]
    shard(root, {"2.jpg": b"2"}, "cat.tar")
    with pytest.raises(SourceError, match=r"2 tars of images without labels \(cat, dog\)"):
        open_source(root, "train")
    for kind, expected in (
        ("class-tars", ["cat/2.jpg", "dog/1.jpg"]),
        ("webdataset", ["-/1.jpg", "-/2.jpg"]),
    ):
        listing = open_source(root, "train", kind).list(lambda num_new: None)
        assert listing["key"].to_pylist() == expected
    root = shard(tmp_path / "y", {"1.jpg": b"1", "1.txt": b"a dog"}, "a.tar")
    assert keys(shard(root, {"2.jpg": b"2", "2.txt": b"a cat"}, "b.tar")) == ["-/1.jpg", "-/2.jpg"]
    root = shard(tmp_path / "z", {"1.jpg": b"1"}, "a-0.tar")
    assert keys(shard(root, {"2.jpg": b"2"}, "a-1.tar")) == ["-/1.jpg", "-/2.jpg"]


NUMBERED = {"a.jpg": b"1", "a.txt": b"1\n", "b.jpg": b"2", "b.txt": b" 0"}


def evidence(root: Path, **how: object) -> Evidence:
    source = open_source(root, "train", "webdataset", SourceOptions(**how))
    return Evidence.decode(source.list(lambda num_new: None).schema.metadata)


@pytest.mark.parametrize(
    ("members", "are_numbers"),
    [
        ({}, True),
        ({"c.jpg": b"3", "c.txt": b"a dog"}, False),
        ({"c.jpg": b"3", "c.txt": b""}, False),
        ({"c.jpg": b"3", "c.txt": b"7" * 99}, False),
        ({"c.jpg": b"3", "c.cls": b"3"}, False),
        ({"c.jpg": b"3", "c.json": b'{"label": 3}'}, False),
    ],
)
def test_texts_of_numbers_alone_are_no_labels_and_are_reported(tmp_path, members, are_numbers):
    """Texts beside labels, and captions, are counted as other parts."""
    listed_evidence = evidence(shard(tmp_path / "x", NUMBERED | members))
    texts = [(why, seen) for why, seen in listed_evidence.skipped.items() if seen.first == "a.txt"]
    assert ("no labels unless --label-column txt says so" in texts[0][0]) == are_numbers
    assert texts[0][1].count == sum(name.endswith(".txt") for name in NUMBERED | members)


@pytest.mark.parametrize(
    ("column", "members", "classes"),
    [
        ("txt", NUMBERED, {"0", "1"}),
        (".TXT", {**NUMBERED, "a.cls": b"7", "b.cls": b"8"}, {"0", "1"}),
        ("species", {"a.jpg": b"", "a.json": b'{"Species": "ant", "label": 3}'}, {"ant"}),
        ("txt", {**NUMBERED, "c.jpg": b""}, {"0", "1", "-"}),
        ("json", {"a.jpg": b"", "a.json": b"3", "b.jpg": b"", "b.json": b'"ant"'}, {"3", "ant"}),
    ],
)
def test_label_column_names_the_part_that_is_the_label(tmp_path, column, members, classes):
    """A suffix or a key of the JSON that --label-column names is the only label."""
    listed_evidence = evidence(shard(tmp_path / "x", members), label_column=column)
    assert {name for name, _, _ in listed_evidence.items()} == classes


def test_a_label_column_that_no_sample_has_is_refused(tmp_path):
    """All images would otherwise be without a class."""
    root = shard(tmp_path / "x", NUMBERED)
    with pytest.raises(SourceError, match=r"no sample has a label under 'lbl', .* ends in \.lbl"):
        evidence(root, label_column="lbl")


def test_the_text_of_a_layout_in_fingerprints_never_changes():
    """A spool of an earlier version holds this text in its fingerprint."""
    layout = WebDatasetShard("/data", SourceOptions(rules=1))
    assert repr(layout) == f"Shard(root='/data', options={SourceOptions(rules=1)!r})"
