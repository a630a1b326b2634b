"""Stages have names: on the command line, in run folders, and outside of Tesserae too."""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from tests.workflows.training.inline import InlineCluster, inline_ranks
from tests.workflows.training.own_stage import OwnOptions
from tests.workflows.training.small import SIZE, small_store
from workflows import cli
from workflows.training import stage_registry
from workflows.training.records import read_recorded_options
from workflows.training.run_folder import RunFolder
from workflows.training.stage import Data
from workflows.training.stage_registry import STAGES, StageEntry

OWN = "tests.workflows.training.own_stage"
OWN_STAGE = StageEntry(
    "learn the mean of all pixels",
    f"{OWN}:OwnOptions",
    f"{OWN}:Own",
    evaluate=f"{OWN}:evaluate_own",
)
TENSORS = re.compile(r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage")
"""The globals by which `torch.save` writes tensors."""
SMALL: dict[str, tuple[object, ...]] = {
    "wgan": (
        *("--image-size", SIZE, "--batch-size", 8, "--latent-dim", 4, "--generator-width", 2),
        *("--critic-width", 2, "--critic-steps", 1, "--warmup-critic-steps", 0),
        *("--precision", "float32", "--threads-per-rank", 1),
    ),
    "colourise": ("--image-size", SIZE, "--batch-size", 8, "--width", 2, "--threads-per-rank", 1),
    "classify": (
        *("--network", "resnet9", "--image-size", SIZE, "--batch-size", 8, "--width", 8),
        *("--ema-decay", 0.5, "--mixup", 0.2, "--schedule", "constant", "--threads-per-rank", 1),
    ),
    "own": ("--batch-size", 8, "--threads-per-rank", 1, "--rate", 0.25),
}

Run = Callable[..., int]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 36 and 18 pictures of 16 px."""
    return small_store(tmp_path_factory.mktemp("small"))


@pytest.fixture
def own() -> Iterator[None]:
    """Register the stage outside of Tesserae for one test, after the command is loaded."""
    cli.command_of("train")
    stage_registry.register("own", OWN_STAGE)
    yield
    stage_registry._stages.pop("own", None)


@pytest.fixture
def tesserae(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command with its ranks in this process."""

    def run(*words: object) -> int:
        with inline_ranks(monkeypatch):
            return cli.main([str(word) for word in words])

    return run


def recorded(folder: Path) -> str:
    """Return the stage in `options.json` as it is written there."""
    options: dict[str, Any] = json.loads((folder / "options.json").read_text())["options"]
    return str(options["stage"])


@pytest.mark.parametrize("name", STAGES)
def test_all_that_a_stage_names_exists(name: str) -> None:
    """Import locations are texts, which no type checker follows."""
    entry = STAGES[name]
    for location in (entry.options, entry.stage, entry.prepare_data, entry.evaluate):
        assert location is None or callable(stage_registry.import_object(location))


@pytest.mark.parametrize("stage", SMALL)
@pytest.mark.usefixtures("own")
def test_a_run_records_the_name_of_its_stage(
    stage: str, store: Path, tmp_path: Path, tesserae: Run
) -> None:
    """Neither options nor checkpoints name a module of Tesserae or of the stage."""
    folder = tmp_path / "run"
    train = ("train", stage, store, "--run", folder, *SMALL[stage], "--no-dashboard")
    assert tesserae(*train, "--steps", 2) == 0
    assert recorded(folder) == stage
    (checkpoint,) = (folder / "checkpoints").glob("*.pt")
    assert all(TENSORS.fullmatch(name) for name in globals_of(checkpoint))
    assert tesserae(*train, "--steps", 3) == 0  # it continues
    assert [line["step"] for line in RunFolder(folder).metrics() if "what" not in line] == [1, 2, 3]


def globals_of(checkpoint: Path) -> set[str]:
    """Return the globals that unpickling a checkpoint looks up, as `module name`."""
    with zipfile.ZipFile(checkpoint) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        opcodes = list(pickletools.genops(archive.read(name)))
    assert not [opcode for opcode, _, _ in opcodes if opcode.name == "STACK_GLOBAL"]
    return {str(argument) for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.former_names])
def test_a_run_that_recorded_a_module_is_of_the_stage(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is one of the stage, wherever the module has moved since."""
    earlier = f"workflows.{name}.stage:{name.capitalize()}"
    moved = {**STAGES, name: replace(STAGES[name], stage="elsewhere.stages:Stage")}
    monkeypatch.setattr(stage_registry, "STAGES", moved)
    run = RunFolder(tmp_path / "run")
    run.create_or_continue({"stage": earlier, "steps": 1}, {})
    assert read_recorded_options(run.path / "options.json")["options"]["stage"] == name
    run.check_options({"stage": name, "steps": 1})
    run.create_or_continue({"stage": name, "steps": 2}, {}, changeable_on_resume=("steps",))
    assert recorded(run.path) == name
    with pytest.raises(TesseraeError, match=f"a run of the stage {name}, not of the stage own"):
        run.check_options({"stage": "own", "steps": 2})


@pytest.mark.usefixtures("own")
def test_a_registered_stage_evaluates_its_runs(
    store: Path, tmp_path: Path, tesserae: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report has the evaluation of the stage's function while the stage is registered."""
    run = tmp_path / "run"
    train = ("train", "own", store, "--run", run, "--steps", 2, "--no-dashboard")
    assert tesserae(*train, *SMALL["own"]) == 0
    assert tesserae("report", run, "--samples", 123) == 0
    assert "samples asked for: 123" in capsys.readouterr().out
    assert "Evaluation at step 2" in (run / "report.html").read_text()
    del stage_registry._stages["own"]
    assert tesserae("report", run) == 0
    assert "Evaluation" not in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("stage", "name"), [(f"{OWN}:Own", f"{OWN}:Own"), ("workflows.wgan.stage:Wgan", "wgan")]
)
def test_a_stage_may_be_given_by_its_import_location(
    stage: str, name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run records the import location only of a stage that is not registered."""
    from workflows.training.launch import WorldConfig, train_on
    from workflows.wgan.options import WganOptions

    small = {"batch_size": 8, "steps": 2, "threads_per_rank": 1, "image_size": SIZE}
    gan = {"latent_dim": 4, "generator_width": 2, "critic_width": 2, "precision": "float32"}
    options = WganOptions(**small, **gan) if name == "wgan" else OwnOptions(**small)
    data = Data(Loader(store, size=SIZE, batch_size=8), None, ("zero", "one", "two"))
    run = RunFolder(tmp_path / "run")
    with inline_ranks(monkeypatch):
        for steps in (2, 3):  # begun, and continued
            wanted = replace(options, steps=steps)
            cluster: Any = InlineCluster()
            assert train_on(cluster, WorldConfig(1), stage, wanted, data, run) == "done"
    assert recorded(run.path) == name
    monkeypatch.setattr(stage_registry, "STAGES", {**STAGES, "own": OWN_STAGE})
    registered = {f"{OWN}:Own": "own"}.get(name, name)  # a run of before it was registered
    assert run.read_options()["options"]["stage"] == registered


@pytest.mark.usefixtures("own")
def test_names_are_unique_and_no_import_locations() -> None:
    """Registering the same stage again, as a module that is reloaded does, changes nothing."""
    stage_registry.register("own", OWN_STAGE)
    with pytest.raises(ValueError, match="there is a stage 'wgan' already"):
        stage_registry.register("wgan", OWN_STAGE)
    for name in (f"{OWN}:Own", "Own", "", "own stage", "../own"):
        with pytest.raises(ValueError, match="expected a letter, then letters, digits"):
            stage_registry.register(name, OWN_STAGE)
