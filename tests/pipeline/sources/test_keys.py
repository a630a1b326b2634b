"""Keys and splits, as derived from names."""

import pytest

from pipeline.sources.keys import (
    canonical_split,
    key_of,
    looks_like_image,
    may_be_image,
    split_in_name,
)


@pytest.mark.parametrize(
    ("path", "label", "key"),
    [
        ("n01440764/a.jpg", "cat", "n01440764/a.jpg"),
        ("n01440764/a.jpg", 1, "n01440764/a.jpg"),
        ("n01440764/images/a.jpg", None, "n01440764/a.jpg"),
        ("cats/n01440764_1.jpg", None, "n01440764/n01440764_1.jpg"),
        ("cats/a.jpg", None, "cats/a.jpg"),
        ("cats/a.jpg", "dogs", "dogs/a.jpg"),
        ("cats/a.jpg", 0, "zero/a.jpg"),
        ("cats/a.jpg", "1", "n09999999/a.jpg"),
        ("cats/a.jpg", 5, "cats/a.jpg"),
        ("train/a.jpg", 5, "5/a.jpg"),
        ("train/a.jpg", None, ""),
        ("a.jpg", -1, "-1/a.jpg"),
        ("n014407645_1.jpg", None, ""),
        ("n0144076\u0665_1.jpg", None, ""),
        ("./a.jpg", "x", "x/a.jpg"),
    ],
)
def test_a_wnid_precedes_a_name_which_precedes_a_number(path, label, key):
    """A wnid in folder, label or file name takes precedence, then a label's name, then a number."""
    assert key_of(path, label, ("zero", "n09999999")) == key


def test_several_words_name_the_same_split():
    """A known word stands for its split, and any other word for itself."""
    assert [canonical_split(word) for word in ("validation", "Valid", "TRAIN", "mine")] == [
        "val",
        "val",
        "train",
        "mine",
    ]
    assert split_in_name("imagenet-train-000001.tar") == "train"
    assert split_in_name("validation-00000-of-00014.parquet") == "val"
    assert split_in_name("trainer-0.tar") == ""
    assert split_in_name("mine_0.tar", "mine") == "mine"


def test_files_with_a_suffix_of_no_other_content_may_be_images():
    """Hidden files, texts, tables and archives are no images; known suffixes look like one."""
    assert all(map(may_be_image, ["a", "a.JPEG", "a.b.c", "txt", "a."]))
    assert not any(map(may_be_image, [".a.jpg", "a.txt", "a.XML", "a.tar"]))
    assert all(map(looks_like_image, ["a.JPEG", "a.x.png"]))
    assert not any(map(looks_like_image, ["a", "jpg", ".jpg", "a.txt"]))
