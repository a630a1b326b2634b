"""`tesserae train devise`, from a store to a report, as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.backbone.load import open_backbone
from pipeline.errors import TesseraeError
from tests.commands import CommandResult
from tests.commands import run as run_command
from tests.workflows.devise.small import (
    SIZE,
    WNIDS,
    Small,
    features_inline,
    make_small,
    small_words,
)
from tests.workflows.training.inline import inline_ranks
from workflows.cli import main
from workflows.devise.class_splits import UNSEEN, class_parts
from workflows.devise.model import open_devise_model
from workflows.devise.stage import load_initial_weights
from workflows.training.run_folder import RunFolder

WORDS = (
    *("--batch-size", 8, "--hidden-units", 16, "--steps", 20, "--eval-every", 10),
    *("--threads-per-rank", 1, "--no-dashboard"),
)


SECONDS = 110.0


def run(*words: object, scratch: Path) -> CommandResult:
    """Run a command to its end."""
    return run_command(*words, scratch=scratch, seconds=SECONDS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Create a store with 48 training and 24 validation images of six classes."""
    return make_small(tmp_path_factory.mktemp("devise"))


def words_of_run(small: Small, folder: Path) -> tuple[object, ...]:
    """Return the command that trains a run of 20 steps with two unseen classes."""
    kinds = small.root / "is-a.txt"
    parts = class_parts(WNIDS, np.ones(6, bool), unseen="2", validation=0, seed=0)
    unseen = np.flatnonzero(parts == UNSEEN)
    near, far = (WNIDS[label] for label in unseen)  # of those seen
    seen = [wnid for wnid in WNIDS if wnid not in (near, far)]
    edges = [("animal", wnid) for wnid in (near, *seen)] + [("pet", far), ("animal", "pet")]
    kinds.write_text("".join(f"{parent} {child}\n" for parent, child in edges))
    return (
        "train", "devise", small.store, "--run", folder, "--trunk", small.trunk, "--word-vectors",
        small.words, "--unseen-classes", 2, "--hierarchy", kinds, *WORDS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(small: Small) -> Path:
    """Train a run of 20 steps with two unseen classes in this process; return its folder."""
    folder = small.root / "run"
    with pytest.MonkeyPatch.context() as patch, inline_ranks(patch):
        assert main([str(word) for word in words_of_run(small, folder)]) == 0
    return folder


@pytest.mark.slow
def test_a_run_maps_images_and_words_into_one_space(tmp_path: Path) -> None:
    """The vectors computed from pixels equal those computed from stored features."""
    from pipeline.features.reader import open_features
    from pipeline.store import arrays
    from pipeline.store.open import open_objects

    small, folder = make_small(tmp_path), tmp_path / "run"
    done = run(*words_of_run(small, folder), scratch=tmp_path)
    assert done.status == 0, done.err
    assert "classes: 4 seen, 0 for validation, 2 unseen" in done.out
    assert "features" in done.out
    model = open_devise_model(folder)
    assert (model.step, model.dim, model.size) == (20, 8, SIZE)
    rows, vectors = next(model.embed_split("val"))
    assert rows.tolist() == open_features(small.store, small.features, "val").readable.tolist()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    pixels = arrays.read_pixel_rows(open_objects(str(small.store)), "val", SIZE, 0, 5)
    np.testing.assert_allclose(model.embed_images(pixels), vectors[:5], atol=1e-4)
    cat = model.phrase_vector("great cat")
    assert cat is not None
    label = [words for _, words in model.classes].index("great cat")
    np.testing.assert_allclose(cat, model.class_vectors[label], atol=1e-5)
    assert model.phrase_vector("xyzzy") is None
    names, vocabulary = model.vocabulary()
    assert "boat" in names
    assert sorted(path.suffix for path in (folder / "search" / "words").iterdir()) == [
        ".json", ".words",
    ]  # fmt: skip
    assert vocabulary.shape == (8, 8)


def test_the_report_has_table_and_galleries(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page compares baselines and says that a pretrained trunk rules out zero-shot."""
    assert main(["report", str(trained)]) == 0
    page = (trained / "report.html").read_text()
    for word in ("Comparison with baselines", "ridge, centred vectors", "ConSE, centred vectors",
                 "random codes", "(unseen class)",
                 "not zero-shot recognition", "hit@1 of unseen classes", "chance",
                 "Distance of the first answer", "at most 2, with seen classes", "at most 3",
                 "Unseen classes among themselves", "Most frequent confusion"):  # fmt: skip
        assert word in page
    assert "hit@1 of unseen classes" in capsys.readouterr().out


@pytest.mark.slow
def test_a_search_ends_with_status_0_each_time(trained: Path, tmp_path: Path) -> None:
    """Fifty processes end cleanly: no library thread uses Python during shutdown."""
    assert run("search", trained, "dog", scratch=tmp_path).status == 0  # embeds the store
    ended = [run("search", trained, "dog", "--k", 3, scratch=tmp_path) for _ in range(50)]
    assert [(process.status, process.err) for process in ended] == [(0, "")] * 50
    assert len({process.out for process in ended}) == 1


@pytest.mark.slow
def test_the_same_command_resumes_and_another_is_refused(
    small: Small, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command with other unseen classes is refused."""
    command = ("train", "devise", small.store, "--run", trained, "--trunk", small.trunk,
               "--word-vectors", small.words, "--hierarchy", small.root / "is-a.txt",
               *WORDS)  # fmt: skip
    longer = run(*command, "--unseen-classes", 2, "--steps", 25, scratch=tmp_path)
    assert longer.status == 0, longer.err
    steps = [line["step"] for line in RunFolder(trained).metrics() if not line.get("what")]
    assert steps == list(range(1, 26))
    assert main([str(word) for word in (*command, "--unseen-classes", 3)]) == 1
    assert (
        "was started with --unseen-classes 2 and cannot continue with --unseen-classes 3"
        in capsys.readouterr().err
    )


def test_a_missing_option_is_a_one_line_error(
    small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the missing option and its expected value."""
    start = ("train", "devise", small.store, "--run", tmp_path / "run", *WORDS)
    both = ("--trunk", small.trunk, "--word-vectors", small.words)
    for words, expected in (
        ((), "or a hub name; --word-vectors or --hierarchy is required"),
        (("--trunk", small.trunk), "--word-vectors or --hierarchy is required"),
        (("--trunk", small.trunk, "--word-vectors", tmp_path / "none"), "none"),
        (("--trunk", tmp_path / "none", "--word-vectors", small.words), "is not a backbone"),
        (
            ("--trunk", small.trunk, "--word-vectors", small.words, "--unseen-classes", "5"),
            "1 class left to train on (",
        ),
        ((*both, "--cut", "nowhere"), "no block"),
        (("--loss", "none"), "--loss"),
        ((*both, "--hierarchy", tmp_path / "none"), "cannot be read"),
        ((*both, "--unseen-classes", 2, "--seen-classes", small.words), "Pass only one of them"),
        ((*both, "--init-from", tmp_path / "none"), "is not the word space of a run"),
        (
            (*both, "--held-out", "test"),
            "--held-out is 'test': expected none or a finished split: train, val",
        ),
    ):
        assert main([str(word) for word in (*start, *words)]) == 1, words
        message = capsys.readouterr().err
        assert expected in message
        assert message.count("\n") == 1
        assert not (tmp_path / "run" / "options.json").exists()


@pytest.mark.slow
def test_the_trunk_is_trained_from_pixels(
    small: Small, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run from pixels starts from the head of another run; batch norm keeps its statistics.

    Its trunk can be exported and opened as a backbone.
    """
    import torch

    done = run(
        "train", "devise", small.store, "--run", tmp_path / "run", "--trunk", small.trunk,
        "--word-vectors", small.words, "--unseen-classes", 2, "--learn", "all",
        "--init-from", trained,
        "--trunk-learning-rate", "1e-3", *WORDS, scratch=tmp_path,
    )  # fmt: skip
    assert done.status == 0, done.err
    model, before = open_devise_model(tmp_path / "run"), open_devise_model(trained)
    assert model.features is None
    assert model.trunk_state is not None
    state = before.trunk.model.state_dict()
    moved = {
        name for name, value in model.trunk_state.items() if not torch.equal(value, state[name])
    }
    assert moved
    assert not any("running" in name for name in moved)
    rows, vectors = next(model.embed_split("val"))
    assert len(rows) == len(vectors) > 0
    first = json.loads((tmp_path / "run" / "options.json").read_text())["options"]
    assert first["learn"] == "all"
    begin = ("train", "devise", small.store, "--trunk", small.trunk, "--word-vectors", small.words)
    for words, expected in (
        (("--unseen-classes", 2, "--class-split-seed", 9), "was trained on"),
        (
            ("--unseen-classes", 2, "--validation-classes", 1),
            "was trained on 1 of the 3 classes",
        ),
    ):
        command = (*begin, "--run", tmp_path / "b", "--init-from", tmp_path / "run", *words, *WORDS)
        assert main([str(word) for word in command]) == 1
        assert expected in capsys.readouterr().err
    with pytest.raises(TesseraeError, match="whose head belongs to the trunk that it fine-tuned"):
        load_initial_weights(str(tmp_path / "run"), model.head, None, model.space)
    assert main(["export", str(tmp_path / "run")]) == 0
    assert main(["export", str(tmp_path / "run")]) == 1  # it is there
    assert main(["export", str(trained)]) == 1
    output = capsys.readouterr()
    assert "trunk: MobileNetV1Model (trunk) of step 20" in output.out
    assert ", trained on images of " in output.out
    assert "exists already: pass another folder" in output.err
    assert "unchanged. `export` needs a run of `train devise --learn all`" in output.err
    opened = open_backbone(tmp_path / "run" / "trunk")
    assert opened.transform == before.trunk.transform
    assert opened.digest == model.trunk.digest != before.trunk.digest
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    torch.testing.assert_close(opened.extract(images), model.trunk.extract(images))
    with pytest.raises(TesseraeError, match="is a training run: `tesserae export"):
        open_backbone(tmp_path / "run")


def test_words_of_another_file_are_refused(small: Small, trained: Path, tmp_path: Path) -> None:
    """A changed file of word vectors is refused, because its vectors would be wrong."""
    original = small.words.read_bytes()
    try:
        small_words(small.words, dim=5)
        with pytest.raises(
            TesseraeError, match="is not the file of word vectors that the run was trained with"
        ):
            open_devise_model(trained).phrase_vector("ant")
    finally:
        small.words.write_bytes(original)
    assert open_devise_model(trained).phrase_vector("ant") is not None


def test_another_network_under_the_same_name_is_refused(
    small: Small, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files of the run stay unchanged."""
    from safetensors.torch import load_file, save_file

    before = (trained / "options.json").read_bytes()
    weights = small.trunk / "model.safetensors"
    original = weights.read_bytes()
    try:
        save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights)
        for split in ("train", "val"):
            features_inline(small.store, small.trunk, split)
        command = ("train", "devise", small.store, "--run", trained, "--trunk", small.trunk,
                   "--word-vectors", small.words, "--hierarchy", small.root / "is-a.txt",
                   "--unseen-classes", 2,
                   *WORDS)  # fmt: skip
        assert main([str(word) for word in command]) == 1
    finally:
        weights.write_bytes(original)
    assert "holds a run with the features" in capsys.readouterr().err
    assert (trained / "options.json").read_bytes() == before


def test_a_split_of_unseen_classes_alone_evaluates_a_run(
    small: Small, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report uses a split that was finished after the run had begun."""
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "options.json"
    document = json.loads(file.read_text())
    document["data"]["held_out"] = None
    file.write_text(json.dumps(document))
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "24 of split val" in capsys.readouterr().out
