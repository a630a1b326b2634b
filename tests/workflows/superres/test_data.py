"""Pairs come from the arrays that suit them, and a run keeps its arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from pipeline.errors import StoreError
from tests.images import jpeg, prepare_inline
from tests.workflows.training.small import small_store
from workflows.superres.choices import BICUBIC, BLUR_JPEG, STORED
from workflows.superres.data import (
    PairArrays,
    choose_arrays,
    choose_options,
    pair_loader,
    prepare_data,
)
from workflows.superres.options import SuperresOptions
from workflows.superres.stage import pair_maker
from workflows.training.batches import Batches
from workflows.training.image_rows import FinishedArrays
from workflows.training.run_folder import RunFolder
from workflows.training.run_options import RunOptions
from workflows.training.stage import Data
from workflows.training.world import World

ENCODED = "jpeg:24@90"
SMALL: dict[str, Any] = {"patch_size": 4, "batch_size": 8, "network": "fsrcnn"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 36 and 18 images of 12 and 24 px, and of 24 px in encoded rows."""
    return small_store(tmp_path_factory.mktemp("small"), sizes=(12, 24), encoded=(ENCODED,))


def run_options(store: Path, run: Path) -> RunOptions:
    return RunOptions(stage="superres", store=str(store), run=run)


def open_pairs(
    store: Path, run: Path, held_out: str | None = "val", **choices: Any
) -> tuple[SuperresOptions, Data]:
    """Return the options and the data of a run, as the command has them."""
    on = run_options(store, run)
    options = choose_options(on, SuperresOptions(**{**SMALL, **choices}))
    return options, prepare_data(on, options, Mock(), held_out)[0]


@pytest.mark.parametrize(
    ("sizes", "encodings", "choices", "expected"),
    [
        ((72, 288), (), {}, PairArrays(4, STORED, (72, 288))),
        ((72, 144, 288), (), {}, PairArrays(4, STORED, (72, 288))),
        ((72, 144, 288), (), {"scale": 2}, PairArrays(2, STORED, (144, 288))),
        ((96, 288), (), {}, PairArrays(3, STORED, (96, 288))),
        ((72, 288), (), {"scale": 3}, PairArrays(3, BICUBIC, (288,))),
        ((72, 288), (), {"degradation": "bicubic"}, PairArrays(4, BICUBIC, (288,))),
        ((72, 288), (), {"degradation": "blur+jpeg"}, PairArrays(4, BLUR_JPEG, (288,))),
        ((72, 224), (), {}, PairArrays(4, BICUBIC, (224,))),
        ((224,), (), {"scale": 2}, PairArrays(2, BICUBIC, (224,))),
        ((16, 32, 288), (), {}, PairArrays(4, BICUBIC, (288,))),  # no room for a patch at 16 px
        ((16, 32), ("jpeg:72@90", "original"), {}, PairArrays(4, BICUBIC, encoded="original")),
        ((), ("jpeg:256@90",), {"scale": 3}, PairArrays(3, BICUBIC, encoded="jpeg:256@90")),
        (
            (72, 288), ("original",), {"encoded": "original", "degradation": "blur+jpeg"},
            PairArrays(4, BLUR_JPEG, encoded="original"),
        ),
    ],
)  # fmt: skip
def test_the_arrays_of_pairs_are_chosen(
    sizes: tuple[int, ...], encodings: tuple[str, ...], choices: dict[str, Any],
    expected: PairArrays,
) -> None:  # fmt: skip
    """Stored pairs come first, then the largest originals, then encoded rows."""
    arrays = FinishedArrays(sizes, encodings)
    assert choose_arrays("STORE", arrays, SuperresOptions(**choices)) == expected


@pytest.mark.parametrize(
    ("sizes", "choices", "message"),
    [
        ((288,), {"degradation": "stored"}, r"STORE has images of 288 px: --degradation stored"
         r" needs two sizes of which one is 2, 3 or 4 times the other\. Add them with .* --sizes"
         r" 72 288`, or pass --degradation bicubic"),
        ((72, 224), {"degradation": "stored"}, r"\(224 / 72 is 3\.11\): --degradation stored"),
        ((96, 288), {"degradation": "stored", "scale": 2},
         r"one is 2 times the other\. Add them with `tesserae prepare \.\.\. --sizes 144 288`"),
        ((16, 32), {"degradation": "stored"}, r"--patch-size is 32: the low-resolution images of"
         r" STORE have 16 px\. Pass at most 16, or add larger sizes"),
        ((64,), {}, r"STORE has images of 64 px: expected originals of at least 128 px, 4 times"
         r" --patch-size 32\. Add them with .* --sizes 288` or `--encoded original`, or pass a"),
        ((), {}, "STORE has no finished images: expected originals of at least 128 px"),
        ((64,), {"patch_size": 100}, "--sizes 400`"),
    ],
)  # fmt: skip
def test_a_store_without_suitable_arrays_is_refused(
    sizes: tuple[int, ...], choices: dict[str, Any], message: str
) -> None:
    """The message has the sizes of the store, and how to add one."""
    with pytest.raises(StoreError, match=message):
        choose_arrays("STORE", FinishedArrays(sizes, ()), SuperresOptions(**choices))


def test_what_is_read_is_printed() -> None:
    """In one sentence for each kind of pairs."""
    texts = [
        str(PairArrays(4, STORED, (72, 288))),
        str(PairArrays(3, BICUBIC, (288,))),
        str(PairArrays(2, BLUR_JPEG, encoded="original")),
    ]
    assert texts == [
        "pairs of stored images, 72 px and 288 px.",
        "pairs of stored images of 288 px and the same reduced by 3.",
        "pairs of pictures of the encoded rows original and the same blurred, reduced and"
        " compressed by 2.",
    ]


def test_a_run_keeps_its_arrays_when_the_store_gets_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new run reads the largest pair, and the former one that which it began with."""
    store = small_store(tmp_path, sizes=(6, 12))
    options, data = open_pairs(store, tmp_path / "run")
    assert (options.scale, options.degradation, options.encoded) == (2, STORED, None)
    assert "notice: training on pairs of stored images, 6 px and 12 px." in capsys.readouterr().out
    assert (data.train.sizes, data.sizes) == ((6, 12), (6, 12))
    run = RunFolder(tmp_path / "run")
    run.create_or_continue(
        {"stage": "superres", **options.as_dict()}, {"data": {"sizes": list(data.sizes)}}
    )
    for split in ("train", "val"):
        prepare_inline(tmp_path / "source", str(store), split=split, sizes=(24,), serves=16)
    again = SuperresOptions(**SMALL).with_recorded_choices(run.read_options()["options"])
    on = run_options(store, run.path)
    assert prepare_data(on, choose_options(on, again), Mock(), None)[0].train.sizes == (
        6, 12,
    )  # fmt: skip
    assert open_pairs(store, tmp_path / "new")[1].train.sizes == (6, 24)


def test_the_warm_up_is_recorded(store: Path, tmp_path: Path) -> None:
    """Half of the steps of the first command, also when a later one has more."""
    options, _ = open_pairs(store, tmp_path, patch_size=12, adversarial_weight=0.1, steps=50)
    assert options.warmup_steps == 25
    assert open_pairs(store, tmp_path, steps=50)[0].warmup_steps is None


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"batch_size": 37}, "'train' has 36 readable images, fewer than --batch-size 37"),
        ({"encoded": ENCODED, "patch_size": 12}, r"'train' has 0 readable images of at least 64 px,"
         r" fewer than --batch-size 8\. Pass a smaller --patch-size\."),
        ({"adversarial_weight": 0.1}, r"its original has 8 px, and the critic takes at least 24\."
         r" Pass at least 12\."),
    ],
)  # fmt: skip
def test_data_that_do_not_suffice_are_refused(
    store: Path, tmp_path: Path, choices: dict[str, Any], message: str
) -> None:
    """Before any rank starts."""
    with pytest.raises(StoreError, match=message):
        open_pairs(store, tmp_path, **choices)


def test_images_that_are_too_small_are_not_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SSIM needs a window of 11 px inside of the border that is left out."""
    store = small_store(tmp_path, sizes=(4, 16))
    _, data = open_pairs(store, tmp_path / "run")
    assert data.held_out is None
    assert (
        "notice: the images of split 'val' have 16 px, and an evaluation needs 19: this run is not"
        " evaluated." in capsys.readouterr().out
    )
    on = replace(run_options(store, tmp_path / "run"), held_out="val")
    options = choose_options(on, SuperresOptions(**SMALL))
    with pytest.raises(StoreError, match=r"needs 19\. Pass another --held-out, or --held-out none"):
        prepare_data(on, options, Mock(), "val")


def test_small_and_unreadable_pictures_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch has neither of them, and the number of small ones is printed."""
    for split in ("train", "val"):
        folder = tmp_path / "source" / split / "n00000000"
        folder.mkdir(parents=True)
        for number in range(12):
            width, height = (400, 3) if number < 3 else (30, 40)
            data = jpeg(number, width, height)
            (folder / f"{number}.JPEG").write_bytes(data[:200] if number == 3 else data)
        prepare_inline(
            tmp_path / "source", str(tmp_path / "store"), split=split, sizes=(),
            encoded=("original",),
        )  # fmt: skip
    choices = {"encoded": "original", "scale": 2, "batch_size": 4}
    options, data = open_pairs(tmp_path / "store", tmp_path / "run", **choices)
    make_pairs = pair_maker(options, cut_by_loader=True)
    output = capsys.readouterr().out
    assert (
        "notice: 3 of 11 pictures of split 'train' are smaller than 16 px, the side of a" in output
    )
    assert "are smaller than 240 px, the side of what is evaluated, and are left out" in output
    assert "split 'val' has no image that can be evaluated: this run is not evaluated." in output
    assert data.held_out is None
    assert (data.train.num_rows, len(data.train)) == (8, 2)
    batches = Batches(data.train)
    for _ in range(4):
        batch = batches.take_sizes()
        pair = make_pairs(batch.images, batch.rows, batch.epoch)
        assert pair.low.shape == (4, 3, 4, 4)
        assert pair.high.shape == (4, 3, 8, 8)
    batches.close()


def test_the_evaluated_centre_fits_the_encoded_pictures(store: Path) -> None:
    """Its side is a multiple of every scale."""
    options = SuperresOptions(scale=2, degradation=BICUBIC, encoded=ENCODED, **SMALL)
    arrays = PairArrays(2, BICUBIC, encoded=ENCODED)
    held_out = pair_loader(str(store), "val", options, arrays, training=False)
    assert (held_out.sizes, held_out.num_rows) == ((24,), 18)
    train = pair_loader(str(store), "train", options, arrays, training=True)
    assert (train.sizes, train.num_rows) == ((16,), 36)


@pytest.mark.parametrize("arrays", [
    PairArrays(2, STORED, (12, 24)), PairArrays(2, BICUBIC, encoded=ENCODED),
])  # fmt: skip
def test_pairs_do_not_depend_on_ranks(store: Path, arrays: PairArrays) -> None:
    """The parts of two ranks are the batch of one, pixel for pixel, over two epochs."""
    options = SuperresOptions(
        scale=2, degradation=arrays.degradation, encoded=arrays.encoded, **SMALL
    )
    loader = pair_loader(str(store), "train", options, arrays, training=True)
    alone, *ranks = (Batches(loader, world=World(rank, size)) for rank, size in
                     ((0, 1), (0, 2), (1, 2)))  # fmt: skip
    for _ in range(7):  # an epoch has four batches
        batch, parts = alone.take_sizes(), [rank.take_sizes() for rank in ranks]
        assert torch.equal(torch.cat([part.rows for part in parts]), batch.rows)
        assert {part.epoch for part in parts} == {batch.epoch}
        for number, images in enumerate(batch.images):
            assert torch.equal(torch.cat([part.images[number] for part in parts]), images)
    for batches in (alone, *ranks):
        batches.close()


def test_options_of_another_order_of_reading_give_the_same_pairs(store: Path) -> None:
    """Neither the number of threads nor staging decides a row."""
    arrays = PairArrays(2, BICUBIC, encoded=ENCODED)
    options = SuperresOptions(scale=2, degradation=BICUBIC, encoded=ENCODED, **SMALL)
    batches = [
        Batches(pair_loader(str(store), "train", each, arrays, training=True))
        for each in (options, replace(options, loader_threads=1, prefetch_bytes=1))
    ]
    for _ in range(5):
        first, second = (each.take_sizes() for each in batches)
        assert torch.equal(first.rows, second.rows)
        assert torch.equal(first.images[0], second.images[0])
    for each in batches:
        each.close()
