"""The command: it resumes to the same figures, and refuses what cannot end well."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import StoreError, TesseraeError
from pipeline.loader.dataset import SplitDataset
from tests.images import prepare_inline
from tests.workflows.studies.cut.small import (
    KNOWN,
    SIZE,
    WNIDS,
    WORDS,
    small_network,
    small_options,
)
from workflows.cli import main
from workflows.devise.class_splits import SEEN
from workflows.studies.cut import PIXELS, experiment
from workflows.studies.cut.command import cut
from workflows.studies.cut.experiment import CutStudy, load_grams
from workflows.studies.cut.grams import Gram
from workflows.studies.cut.heads import PENALTIES
from workflows.studies.cut.images import open_image_set

TIMES = ("forward_ms", "head_seconds")


def _figures(out: Path) -> list[tuple[Any, ...]]:
    """Return the recorded runs without times."""
    records = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    return [
        (r["arm"], r["seed"], {k: v for k, v in r["metrics"].items() if k not in TIMES})
        for r in records
    ]


@pytest.fixture(scope="module")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the small study without an interruption, and return its folder."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert cut(small_options(files, out=out)) == 0
    return out


def test_a_study_ends_with_a_report(finished: Path) -> None:
    """Every cut has its forms, and nothing but results is left in the folder."""
    arms = {arm for arm, _, _ in _figures(finished)}
    assert len(arms) == 5 * 3 + 1 + 2
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert names == {"settings.json", "runs.jsonl", "report.html", "top1.svg"}
    page = (finished / "report.html").read_text()
    assert "before the last down-sampling" in page
    assert "chance" in page
    # Each of two seeds has a penalty of each of two heads in each arm; chosen copies do not count.
    match = re.search(r"(\d+) of (\d+) chosen penalties are the smallest or the largest", page)
    metrics = [figures for _, _, figures in _figures(finished)]
    at_bound = [
        m[name] in (PENALTIES[0], PENALTIES[-1])
        for m in metrics for name in ("probe_penalty", "devise_penalty")
    ]  # fmt: skip
    assert match is not None
    assert (int(match[1]), int(match[2])) == (sum(at_bound), len(at_bound))


@pytest.mark.slow
def test_an_interrupted_study_continues_to_the_same_figures(
    files: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is broken off between the seeds of a cut, of which nothing is computed again."""
    out, computed, calls = tmp_path / "out", [], []
    cut_grams, run_probe = experiment.cut_grams, experiment.run_probe

    def count(network: Any, cut: Any, images: Any) -> Any:
        computed.append(cut.block)
        return cut_grams(network, cut, images)

    def interrupt(products: Any, task: Any) -> Any:
        calls.append(task)
        if len(calls) == 4:  # pixels have two seeds, and the first form of the stem one
            raise KeyboardInterrupt
        return run_probe(products, task)

    monkeypatch.setattr(experiment, "cut_grams", count)
    monkeypatch.setattr(experiment, "run_probe", interrupt)
    with pytest.raises(KeyboardInterrupt, match="has 3 runs that are finished"):
        cut(small_options(files, out=out))
    assert len(list((out / "cache").iterdir())) == 1
    monkeypatch.setattr(experiment, "run_probe", run_probe)

    cut(small_options(files, out=out))

    assert len(computed) == 6  # each cut once, the stem before the interruption
    assert _figures(out) == _figures(finished)
    assert not (out / "cache").exists()


def test_a_damaged_cache_is_computed_again(tmp_path: Path) -> None:
    """It is neither read nor an error."""
    file = tmp_path / "grams.npz"
    assert load_grams(file) is None
    file.write_bytes(b"PK\x03\x04 torn")
    assert load_grams(file) is None
    np.savez(file)
    assert load_grams(file) is None


def test_other_settings_are_refused(files: Path, finished: Path) -> None:
    """The error names the difference."""
    with pytest.raises(TesseraeError, match="unseen classes is 2 in the folder and 3 here"):
        cut(small_options(files, out=finished, unseen_classes=3))


def test_unseen_classes_are_new_to_the_network(files: Path, tmp_path: Path) -> None:
    """The network's labels name two classes, which are seen ones in every seed."""
    study = CutStudy(small_options(files, out=tmp_path))
    (network,) = study.networks
    data = study.data[network.name]
    assert np.array_equal(data.trained_classes, np.arange(len(WNIDS)) < KNOWN)
    assert data.unseen_are_new
    for seed in range(2):
        _, devise = study._tasks(network, seed)
        assert (devise.parts[:KNOWN] == SEEN).all()
    few = CutStudy(small_options(files, out=tmp_path, unseen_classes=3))
    assert not few.data[network.name].unseen_are_new  # two of six would have to remain


def test_the_probe_is_restricted_to_enough_new_classes(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer of them it tells apart all classes."""
    for least, num_probed in ((7, 8), (6, 6)):
        monkeypatch.setattr(experiment, "MIN_NEW_CLASSES", least)
        study = CutStudy(small_options(files, out=tmp_path))
        probe, _ = study._tasks(study.networks[0], 0)
        assert len(np.unique(probe.labels[probe.train])) == num_probed
    assert probe.labels[probe.train].min() == KNOWN


def test_heads_have_the_inner_products_of_their_stores(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe has those of its own store, and bytes are those of the other one."""
    study = CutStudy(small_options(files, out=tmp_path))
    of_store, of_probe = (
        Gram(np.full((1, 1), value), int(value), 1.0, 1.0) for value in (1.0, 2.0)
    )
    grams = {"store": {PIXELS: of_store}, "probe": {PIXELS: of_probe}}
    passed = []

    def head(products: Any, task: Any) -> dict[str, float]:
        passed.append(float(products[0, 0]))
        return {"probe_seconds": 2.0, "devise_seconds": 3.0}

    monkeypatch.setattr(study, "_grams_of", lambda _: grams)
    monkeypatch.setattr(experiment, "run_probe", head)
    monkeypatch.setattr(experiment, "run_devise", head)
    metrics = study.run(f"{study.networks[0].name}: {PIXELS}", 0)
    assert passed == [2.0, 1.0]
    assert metrics == {"row_bytes": 1, "forward_ms": 1.0, "head_seconds": 6.0}


def test_chance_is_that_of_the_classes_to_choose_from() -> None:
    """The k of hit@k is a share of the unseen classes."""
    study = SimpleNamespace(
        options=SimpleNamespace(seeds=2, unseen_classes=10),
        _tasks=lambda _, seed: (SimpleNamespace(chance=0.2 + 0.2 * seed), None),
    )
    chances = CutStudy.chances(study, None)  # type: ignore[arg-type]
    assert chances == pytest.approx({"top1": 0.3, "hit1": 0.1, "hit5": 0.5})


@pytest.mark.slow
def test_the_probe_can_have_a_store_of_its_own(files: Path, tmp_path: Path) -> None:
    """Its images are those of the other store; DeViSE's and the bytes are not."""
    other = tmp_path / "other"
    other.symlink_to(files / "store")
    study = CutStudy(small_options(files, out=tmp_path / "out", probe_store=str(other)))
    (network,) = study.networks
    data = study.data[network.name]
    assert data.probe_images is not data.images
    metrics = study.run(f"{network.name}: {PIXELS}", 0)
    assert {"top1", "hit1", "row_bytes"} <= metrics.keys()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"unseen_classes": 6}, "left to train on"),
        ({"store": "missing"}, "missing"),
        ({"trunk": ("missing-network",)}, "missing-network"),
        ({"word_vectors": "no.txt"}, r"--word-vectors is no.txt, which cannot be read"),
    ],
)
def test_what_cannot_end_well_is_refused_before_any_run(
    files: Path, tmp_path: Path, choices: dict[str, Any], message: str
) -> None:
    """Nothing is written."""
    with pytest.raises(TesseraeError, match=message):
        cut(small_options(files, out=tmp_path / "out", **choices))
    assert not (tmp_path / "out").exists()


def test_other_class_names_are_other_settings(files: Path, tmp_path: Path) -> None:
    """A file that was changed gives other class vectors, whatever its name is."""
    names = tmp_path / "names.txt"
    settings = []
    for text in WORDS, WORDS[::-1]:
        names.write_text("".join(f"{w}\t{n}\n" for w, n in zip(WNIDS, text, strict=True)))
        settings.append(CutStudy(small_options(files, class_names=str(names))).settings())
    assert settings[0]["class_names"].startswith("names.txt ")
    assert settings[0]["class_names"] != settings[1]["class_names"]
    assert settings[0]["torch"] == torch.__version__


def test_images_and_labels_are_those_of_the_rows(files: Path) -> None:
    """Images of the split train come first, and each has the label of its row."""
    images = open_image_set(str(files / "store"), SIZE, 24, 16)
    assert (images.num_train, len(images.images)) == (24, 40)
    for split, part in (("train", slice(24)), ("val", slice(24, None))):
        labels = {
            image.numpy().tobytes(): label
            for image, label, _ in SplitDataset(files / "store", split, size=SIZE)
        }
        read = [labels[image.numpy().tobytes()] for image in images.images[part].contiguous()]
        assert read == images.labels[part].tolist()
    assert np.array_equal(np.bincount(images.train_labels), np.full(8, 3))


def test_a_store_without_val_is_tested_on_its_split_test(files: Path, tmp_path: Path) -> None:
    """Such a store is one of CIFAR."""
    source = tmp_path / "source"
    for ours, split in (("train", "train"), ("val", "test")):
        shutil.copytree(files / "source" / ours, source / split)
        prepare_inline(source, str(tmp_path / "store"), split=split, sizes=(SIZE,), serves=SIZE)
    images = open_image_set(str(tmp_path / "store"), SIZE, 24, 16)
    assert (images.num_train, len(images.test_labels)) == (24, 16)
    shutil.rmtree(tmp_path / "store")
    prepare_inline(source, str(tmp_path / "store"), split="train", sizes=(SIZE,), serves=SIZE)
    with pytest.raises(StoreError, match="has no split 'val'"):
        open_image_set(str(tmp_path / "store"), SIZE, 24, 16)


def test_networks_of_the_same_size_share_the_images(files: Path, tmp_path: Path) -> None:
    """They are in memory once."""
    small_network(tmp_path / "second")
    trunks = (str(files / "trunk"), str(tmp_path / "second"))
    first, second = CutStudy(small_options(files, trunk=trunks)).data.values()
    assert first.images is second.images is second.probe_images


def test_a_network_is_named_once(files: Path, tmp_path: Path) -> None:
    """Two of the same name could not be told apart."""
    trunk = str(files / "trunk")
    with pytest.raises(ValueError, match="twice: pass each network once"):
        small_options(files, trunk=(trunk, trunk))
    (tmp_path / "trunk").symlink_to(files / "trunk")
    with pytest.raises(TesseraeError, match="two of --trunk are named 'trunk'"):
        CutStudy(small_options(files, trunk=(trunk, str(tmp_path / "trunk"))))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_study_runs_on_real_images(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with a report, and says that its figures support no conclusion."""
    store, out = str(tmp_path / "store"), str(tmp_path / "out")
    source = str(real_data / "tiny-imagenet-200.tar")
    assert main(["prepare", source, store, "--split", "all", "--sizes", "64"]) == 0
    arguments = [
        "study", "cut", "--quick", "--store", store, "--out", out,
        "--trunk", str(real_data / "mobilenet_v1_0.75_224"),
        "--word-vectors", str(real_data / "words" / "wordnet-gloss.300d.bin"),
    ]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "figures support no conclusion" in printed
    assert re.search(r"before the last down-sampling +layer.21, pooled", printed)
    assert "the network has, so that hit@k compares cuts and is no zero-shot figure" in printed
    assert (Path(out) / "top1.svg").exists()
