"""`tesserae upscale --store`: the images of a store, enlarged row for row."""

from __future__ import annotations

import json
import shutil
import signal
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import zarr

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features import shard_task
from pipeline.features.worker import open_workspace
from pipeline.loader import Loader
from pipeline.store import derived, layout, records
from pipeline.store.layout import UPSCALED
from pipeline.store.local import LocalWriter
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from pipeline.store.upscaled import UpscaledCommit, open_upscaled_split
from tests.commands import CommandResult, start, wait_until
from tests.commands import run as run_command
from tests.damage import damage
from tests.images import make_folder, prepare_inline
from tests.workflows.superres.small import STEP, small_run
from tests.workflows.training.inline import inline_ranks
from workflows import cli
from workflows.runs.options import UpscaleOptions
from workflows.superres.derived_rows import UpscalerNetwork, UpscaleTaskConfig
from workflows.superres.model import open_upscaler

SCALE, LOW, HIGH = 2, 8, 16
ROWS, BAD = 21, 4
"""21 rows make three shards of 8, 8 and 5 rows."""
NAME = f"fsrcnn-x{SCALE}-{HIGH}"
SECONDS = 110.0

Upscale = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a network that enlarges by 2."""
    folder = tmp_path_factory.mktemp("runs") / "fsrcnn"
    small_run(folder, scale=SCALE)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 8 px with the splits train, four rows of which are unreadable, and val."""
    root = tmp_path_factory.mktemp("images")
    for split, count, bad in (("train", ROWS, BAD), ("val", 10, 0)):
        source = make_folder(root / split, count, bad=bad)
        # Upscaled images are not compressed, whatever the codec of the images.
        prepare_inline(source, str(root / "store"), split=split, sizes=(LOW,), codec="zstd:1")
    return root / "store"


@pytest.fixture
def store(images: Path, tmp_path: Path) -> Path:
    """Return a copy of the store without upscaled images."""
    return Path(shutil.copytree(images, tmp_path / "store"))


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command here; it returns status, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        open_workspace.cache_clear()  # a test may have changed the store or the network
        with inline_ranks(monkeypatch):
            status = cli.main([*map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def upscale(command: Upscale, trained: Path) -> Upscale:
    """Return a function that enlarges the images of a store to 16 px here."""

    def call(store: Path, *words: object) -> tuple[int, str, str]:
        return command("upscale", trained, "--store", store, "--size", HIGH, *words)

    return call


@pytest.fixture(scope="module")
def complete(images: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the upscaled images of both splits."""
    store = Path(shutil.copytree(images, tmp_path_factory.mktemp("complete") / "store"))
    with pytest.MonkeyPatch.context() as patch, inline_ranks(patch):
        words = ("upscale", trained, "--store", store, "--size", HIGH)
        assert cli.main([*map(str, words)]) == 0
    return store


@pytest.fixture
def damageable(complete: Path, tmp_path: Path) -> Path:
    """Return a copy of the store with upscaled images that a test may change."""
    return Path(shutil.copytree(complete, tmp_path / "complete"))


def promised(store: Path) -> dict[str, bytes]:
    """Return the reproducible files of upscaled images: all but commits, which have a time."""
    root = store / UPSCALED.folder
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and "commits" not in file.parts
    }


def snapshot(store: Path) -> dict[str, bytes]:
    """Return all files of a store by path."""
    return {
        str(file.relative_to(store)): file.read_bytes()
        for file in store.rglob("*")
        if file.is_file()
    }


def array_of(store: Path, split: str = "train") -> np.ndarray:
    """Return the upscaled images of a split as zarr reads them."""
    group = zarr.open_group(str(store / UPSCALED.set_folder(NAME) / UPSCALED.hierarchy), mode="r")
    array = group[f"{split}/{HIGH}"]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[:])


def test_any_zarr_reader_and_the_loader_read_what_the_network_computes(
    complete: Path, trained: Path
) -> None:
    """Each row is the network's result for the stored row; unreadable rows are zeros."""
    pixels = array_of(complete)
    assert (pixels.shape, pixels.dtype) == ((ROWS, HIGH, HIGH, 3), np.uint8)
    readable = open_split(open_objects(str(complete)), "train", [LOW]).readable
    assert (~readable).sum() == BAD
    assert not readable[[1, 7]].any()  # in the middle of a shard, and at the end of it
    assert not pixels[~readable].any()
    network = open_upscaler(trained)
    low_batches = Loader(complete, size=LOW, batch_size=1, rank=0, world=1, seed=3)
    loader = Loader(complete, size=HIGH, upscaled=NAME, batch_size=1, rank=0, world=1, seed=3)
    rows = []
    for low, high in zip(low_batches, loader, strict=True):
        assert torch.equal(low.rows, high.rows)
        assert torch.equal(low.labels, high.labels)
        expected = network.enlarge(low.images)
        assert high.images.dtype == torch.uint8
        # Sums may differ with the number of images that are computed at once.
        assert int((high.images.int() - expected.int()).abs().max()) <= 1
        assert np.array_equal(high.images.permute(0, 2, 3, 1).numpy(), pixels[high.rows.numpy()])
        rows += high.rows.tolist()
    assert sorted(rows) == np.flatnonzero(readable).tolist()
    assert f"upscaled='{NAME}'" in repr(loader)


def test_a_second_run_computes_nothing_and_a_further_split_is_added(
    store: Path, complete: Path, upscale: Upscale
) -> None:
    """Splits may come one after the other, and their bytes are those of a run of both."""
    status, out, _ = upscale(store, "--split", "train")
    assert status == 0
    assert f"upscaled images {NAME}: 21 rows of 16 px, 16.1 kB; " in out
    assert "train: upscaled images: 21 images in " in out
    assert f"{store}: upscaled images {NAME}, 16 px" in out
    first = snapshot(store / UPSCALED.folder)
    status, out, _ = upscale(store)
    assert status == 0
    assert f"train: upscaled images {NAME} exist already\n" in out
    assert "val: upscaled images: 10 images in " in out
    both = snapshot(store / UPSCALED.folder)
    assert {name: both[name] for name in first} == first
    assert promised(store) == promised(complete)
    assert upscale(store)[1].count("exist already") == 2
    assert snapshot(store / UPSCALED.folder) == both


def test_the_order_of_shards_and_the_threads_do_not_change_a_byte(
    complete: Path, damageable: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with several workers, and after an interruption: batches begin anew with each shard."""
    monkeypatch.setattr("workflows.superres.derived_rows.BATCH_PIXELS", 2 * LOW**2)
    before = promised(damageable)
    shutil.rmtree(damageable / UPSCALED.folder / NAME / UPSCALED.hierarchy / "train" / str(HIGH))
    shutil.rmtree(damageable / UPSCALED.folder / NAME / "commits")
    run = "upscaled-test"
    objects = open_objects(str(damageable), run)
    objects.begin()
    config = UpscaleTaskConfig(
        store=str(damageable), split="train", run=run, name=NAME, kinds=(str(HIGH),),
        folder=str(trained),
    )  # fmt: skip
    shards = [UPSCALED.shard(NAME, "train", str(HIGH), shard) for shard in range(3)]
    results = []
    for order, threads in (((2, 0, 1), 2), ((0, 1, 2), 1)):
        open_workspace.cache_clear()
        for shard in order:
            assert shard_task.compute_shard(config, shard, threads).bytes_out > 0
            assert shard_task.compute_shard(config, shard, threads).bytes_out == 0
        results.append([(damageable / name).read_bytes() for name in shards])
        for name in shards:
            (damageable / name).unlink()
    objects.end()
    assert results[0] == results[1]
    assert len(before) == len(promised(complete))


def test_another_network_of_the_same_name_is_refused(
    damageable: Path, trained: Path, tmp_path: Path, command: Upscale, upscale: Upscale
) -> None:
    """The sentence names what differs, and nothing is written."""
    before = snapshot(damageable)
    other = tmp_path / "other"
    small_run(other, scale=SCALE, seed=1)
    named = ("--name", NAME)
    small_run(tmp_path / "large", network="fsrcnn", scale=4)
    large = ("upscale", tmp_path / "large", "--store", damageable, "--size", 32, *named)
    for (status, _, err), says in (
        (command("upscale", other, "--store", damageable, "--size", HIGH), "other weights"),
        (upscale(damageable, "--self-ensemble"), "self ensemble False, not True"),
        (command(*large), "scale 2, not 4; other weights"),
    ):
        assert status == 1
        assert f"has upscaled images {NAME} with {says}. Pass another --name, or remove" in err
        assert err.count("\n") == 1
    assert snapshot(damageable) == before
    assert upscale(damageable, "--self-ensemble", "--name", "mean")[0] == 0
    (damageable / UPSCALED.recipe(NAME)).unlink()
    status, _, err = command("upscale", other, "--store", damageable, "--size", HIGH)
    assert status == 1
    assert "with a lost recipe that was another one" in err


def test_verify_finds_damage_that_repair_mends(
    damageable: Path, complete: Path, command: Upscale, upscale: Upscale
) -> None:
    """The problem is named with the command that repairs it; a lost file needs no --repair."""
    status, out, _ = command("verify", damageable)
    assert status == 0
    # recipe and metadata (4), shards and their commits (3 of each)
    assert f"train: upscaled images {NAME}: ok; 10 files, " in out
    shard = UPSCALED.shard(NAME, "train", str(HIGH), 1)
    damage(damageable, shard, "flip", np.random.default_rng(0))
    status, out, _ = command("verify", damageable)
    assert status == 1
    assert f"  {shard}: damaged\n" in out
    assert (
        f"`tesserae upscale RUN --store STORE --size {HIGH} --name {NAME} --split train --repair`"
        " recomputes only the damaged and missing files"
    ) in out
    assert upscale(damageable)[1].count("exist already") == 2
    status, out, _ = upscale(damageable, "--repair")
    assert status == 0
    assert f"  {shard}: missing or damaged" in out
    assert "train: upscaled images: 8 images in" in out
    assert promised(damageable) == promised(complete)
    damage(damageable, shard, "remove", np.random.default_rng(0))
    status, out, _ = upscale(damageable)
    assert "train: upscaled images: 8 images in" in out
    for name in (UPSCALED.recipe(NAME), UPSCALED.done(NAME, "val")):
        damage(damageable, name, "truncate", np.random.default_rng(0))
        assert command("verify", damageable)[0] == 1
        assert upscale(damageable)[0] == 0
    assert promised(damageable) == promised(complete)
    assert command("verify", damageable)[0] == 0


def test_images_that_have_changed_are_enlarged_again(
    damageable: Path, complete: Path, command: Upscale, upscale: Upscale
) -> None:
    """Neither verify nor a loader accepts images of other pixels than the store has now."""
    file = UPSCALED.commit(NAME, "train", 1)
    commit = derived.decode_document(UpscaledCommit, (damageable / file).read_bytes(), file)
    (damageable / file).write_bytes(replace(commit, pixels="0" * 32).encode())
    status, out, _ = command("verify", damageable)
    assert status == 1
    assert f"  {file}: belongs to images that have changed since: run the same `tesserae" in out
    status, out, _ = upscale(damageable)
    assert status == 0
    assert "train: upscaled images: 8 images in" in out
    assert promised(damageable) == promised(complete)
    objects = open_objects(str(damageable))
    done = records.load_finish_record(objects, "train")
    assert done is not None
    (damageable / layout.done("train")).write_bytes(replace(done, parts="0" * 32).encode())
    with pytest.raises(StoreMismatchError, match="belong to images that have changed since"):
        open_upscaled_split(objects, "train", NAME)


def test_a_store_on_an_object_store_gets_the_same_bytes(
    images: Path, complete: Path, trained: Path, command: Upscale
) -> None:
    """They are verified and read there, too."""
    name = uuid.uuid4().hex
    url = f"memory://{name}"
    objects = open_objects(url)
    for file, data in snapshot(images).items():
        objects.put(file, data)
    try:
        words = ("upscale", trained, "--store", url, "--size", HIGH, "--split", "train")
        assert command(*words)[0] == 0
        assert f"train: upscaled images {NAME} exist already" in command(*words)[1]
        assert command("verify", url, "--split", "train")[0] == 0
        root = f"{UPSCALED.set_folder(NAME)}/{UPSCALED.hierarchy}"
        for file in objects.names(root):
            assert objects.get(file) == (complete / file).read_bytes()
        local, remote = (
            [batch.images for batch in Loader(
                location, size=HIGH, upscaled=NAME, batch_size=8, rank=0, world=1
            )]
            for location in (complete, url)
        )  # fmt: skip
        assert all(map(torch.equal, local, remote))
    finally:
        fsspec.filesystem("memory").rm(name, recursive=True)


def test_a_store_that_cannot_be_written_is_refused(store: Path, upscale: Upscale) -> None:
    """Nothing is written, and the sentence names the folder."""
    shutil.rmtree(store / layout.TEMPORARY, ignore_errors=True)
    (store / layout.TEMPORARY).write_bytes(b"")  # whoever may write anything is refused, too
    before = snapshot(store)
    status, _, err = upscale(store)
    assert status == 1
    assert f"cannot write to {store}: Not a directory. Choose a writable folder." in err
    assert err.count("\n") == 1
    assert snapshot(store) == before


def test_info_lists_upscaled_images(damageable: Path, command: Upscale) -> None:
    """Network, step, sides and bytes are shown, as text and as JSON."""
    facts = json.loads(command("info", damageable, "--json")[1])["upscaled"][NAME]
    assert (facts["network"], facts["step"], facts["scale"], facts["size"]) == (
        "fsrcnn", STEP, SCALE, HIGH,
    )  # fmt: skip
    shards = (damageable / UPSCALED.set_folder(NAME)).rglob("c.*")
    assert facts["num_bytes"] == sum(file.stat().st_size for file in shards)
    out = command("info", damageable)[1]
    assert f"  upscaled {NAME}  " in out
    assert "16 px, 2 times 8 px, network fsrcnn at step 7, computed in float32" in out
    assert "train  finished: 16; 3 shards" in out
    (damageable / UPSCALED.done(NAME, "val")).unlink()
    assert "val  not finished: 16; 2 shards" in command("info", damageable)[1]


def test_a_full_disk_ends_with_a_sentence_and_the_run_goes_on(
    store: Path, complete: Path, upscale: Upscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed shards are kept, and no unfinished object has its name."""
    write, writes = LocalWriter.write, 0

    def failing(self: LocalWriter, data: bytes) -> None:
        nonlocal writes
        if "c.1.0.0.0" in str(self.name):
            raise StoreError("cannot write: No space left on device. Free some space.")
        writes += 1
        write(self, data)

    monkeypatch.setattr(LocalWriter, "write", failing)
    with pytest.raises(StoreError, match="No space left"):
        upscale(store, "--debug")
    monkeypatch.setattr(LocalWriter, "write", write)
    shard = store / UPSCALED.shard(NAME, "train", str(HIGH), 1)
    assert not shard.exists()
    assert (store / UPSCALED.commit(NAME, "train", 0)).exists()
    assert not (store / UPSCALED.done(NAME, "train")).exists()
    assert upscale(store)[0] == 0
    assert promised(store) == promised(complete)


def test_too_little_space_is_said_before_the_first_task(
    store: Path, upscale: Upscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence has both figures."""
    monkeypatch.setattr("pipeline.store.local.LocalObjects.free_bytes", lambda _: 1_000)
    status, _, err = upscale(store)
    assert status == 1
    assert "has 1.00 kB of free space, and the upscaled images take 16.1 kB. Free some space" in err


def test_what_cannot_be_enlarged_is_refused_before_anything_is_written(
    store: Path, trained: Path, tmp_path: Path, command: Upscale, upscale: Upscale
) -> None:
    """Each error is one sentence that says what is there, or what to pass."""
    small_run(tmp_path / "wgan", stage="wgan")
    (tmp_path / "empty").mkdir()
    before = snapshot(store)
    words = ("upscale", trained, "--store")
    for arguments, says in (
        ((*words, store, "--size", 32), "'train' has no images of 16 px, which the network"),
        ((*words, store, "--size", 32), "it has 8. Add them with `tesserae prepare ... --sizes 16"),
        ((*words, store, "--size", 32), ", or pass --size 16."),
        ((*words, store, "--size", 15), "--size is 15: the network of"),
        ((*words, store, "--size", 15), "a multiple of 2, such as 14."),
        (("upscale", tmp_path / "wgan", *words[2:], store, "--size", 16), "of the stage wgan"),
        (("upscale", tmp_path / "empty", *words[2:], store, "--size", 16), "empty"),
        ((*words, tmp_path / "none", "--size", 16), "no store at"),
        ((*words, store, "--size", 16, "--split", "test"), "no split 'test'"),
        ((*words, store, "--size", 16, "--gpus", 2), "--gpus is 2: the cluster has 0 workers"),
    ):
        status, _, err = command(*arguments)
        assert status == 1, arguments
        assert says in err
        assert err.count("\n") == 1
        shutil.rmtree(store / ".tmp", ignore_errors=True)
        if "--gpus" not in arguments:
            assert snapshot(store) == before
    (store / layout.done("val")).unlink()
    status, _, err = upscale(store, "--split", "val")
    assert status == 1
    assert "split 'val' is not finished. Run `tesserae prepare` again" in err
    status, out, _ = upscale(store)
    assert (status, "val" in out) == (0, False)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"images": ("a.png",), "size": 16}, "--store is s and IMAGE is a.png: omit one"),
        ({"out": "o", "size": 16}, "--out is for image files: omit it, or --store"),
        ({"overwrite": True, "size": 16}, "--overwrite is for image files"),
        ({"tile": 9, "size": 16}, "--tile is for image files"),
        ({"device": "cpu", "size": 16}, "--device is for image files"),
        ({"format": "png", "size": 16}, "--format is for image files"),
        ({}, "--size is missing: --store needs the side of the enlarged images"),
        ({"size": 16, "precision": "auto"}, "--precision is auto: with --store expected float32"),
        ({"size": 16, "name": "a/b"}, "--name is 'a/b': expected letters, digits"),
        ({"size": 5_000}, "--size is 5000: expected 2 to 4,096"),
    ],
)
def test_options_of_files_are_refused_with_a_store(choices: dict[str, object], says: str) -> None:
    """One sentence names the option."""
    with pytest.raises(ValueError, match=says):
        UpscaleOptions(run=Path("r"), store="s", **choices)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "choices",
    [
        {"size": 16}, {"name": "a"}, {"split": ("val",)}, {"gpus": 0}, {"repair": True},
        {"wait": True}, {"workers": 2}, {"threads": 2}, {"cluster": "tls://h:1"}, {"certs": "c"},
        {"dashboard": False},
    ],
)  # fmt: skip
def test_options_of_a_store_are_refused_with_files(choices: dict[str, object]) -> None:
    """One sentence names the option."""
    (name,) = choices
    flag = "--no-dashboard" if name == "dashboard" else f"--{name}"
    with pytest.raises(ValueError, match=f"^{flag} is for the images of a store: omit it, or add"):
        UpscaleOptions(run=Path("r"), images=("a.png",), out=Path("o"), **choices)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="--out is missing: expected the folder"):
        UpscaleOptions(run=Path("r"), images=("a.png",))


def test_a_loader_refuses_what_it_cannot_read(damageable: Path, upscale: Upscale) -> None:
    """The size must be that of the images, and they must be complete and of the present images."""

    def first(**choices: object) -> object:
        keywords = {"size": HIGH, "upscaled": NAME, "batch_size": 4, "rank": 0, "world": 1}
        return next(iter(Loader(damageable, **{**keywords, **choices})))  # type: ignore[arg-type]

    for choices, says in (
        ({"size": LOW}, f"size is {LOW}: upscaled images {NAME} have {HIGH} px. Pass size={HIGH}"),
        ({"upscaled": "none"}, f"has no upscaled images 'none': it has {NAME}"),
        ({"split": "test"}, "test"),
    ):
        with pytest.raises(StoreError, match=says):
            first(**choices)
    with pytest.raises(ValueError, match="allow_partial was given with upscaled"):
        first(allow_partial=True)
    shard = UPSCALED.shard(NAME, "train", str(HIGH), 0)
    data = bytearray((damageable / shard).read_bytes())
    data[5] ^= 1
    (damageable / shard).write_bytes(data)
    with pytest.raises(StoreDamagedError, match=r"tesserae upscale.* --repair") as error:
        list(Loader(damageable, size=HIGH, upscaled=NAME, batch_size=4, rank=0, world=1))
    assert UPSCALED.set_folder(NAME) in str(error.value)
    (damageable / UPSCALED.done(NAME, "train")).unlink()
    with pytest.raises(StoreError, match="of split 'train' are not finished"):
        first()


def test_a_network_that_changes_during_the_run_is_refused(
    damageable: Path, tmp_path: Path, trained: Path
) -> None:
    """A run that still trains has newer weights when a worker opens it."""
    folder = tmp_path / "run"
    small_run(folder, scale=SCALE, seed=5)
    config = UpscaleTaskConfig(
        store=str(damageable), split="train", run="r", name=NAME, kinds=(str(HIGH),),
        folder=str(folder),
    )  # fmt: skip
    recipe = config.load_recipe(open_objects(str(damageable)))
    with pytest.raises(StoreMismatchError, match="with other weights than those of the upscaled"):
        config.open_network(recipe, torch.device("cpu"))


def test_the_free_memory_of_a_gpu_does_not_decide_on_tiles(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums depend on the tiles, and so would the bytes."""
    monkeypatch.setattr(
        "workflows.superres.model.tile_side", lambda *_: pytest.fail("memory decides")
    )
    network = UpscalerNetwork(open_upscaler(trained), stored_size=LOW, self_ensemble=True)
    assert network.compute(torch.zeros(3, 3, LOW, LOW, dtype=torch.uint8), "").shape == (
        3, HIGH, HIGH, 3,
    )  # fmt: skip


def run(*words: object, scratch: Path) -> CommandResult:
    """Run a command to its end."""
    return run_command(*words, "--no-dashboard", scratch=scratch, seconds=SECONDS)


def large_store(root: Path) -> Path:
    """Create a store of 150 rows in shards of 8 rows."""
    prepare_inline(make_folder(root / "train", 150), str(root / "large"), sizes=(LOW,))
    return root / "large"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_resumes(trained: Path, tmp_path: Path, how: int) -> None:
    """The result has the bytes of one run, with another number of workers."""
    store = large_store(tmp_path)
    reference = Path(shutil.copytree(store, tmp_path / "reference"))
    words = ("upscale", trained, "--size", HIGH)
    done = run(*words, "--store", reference, "--workers", 1, scratch=tmp_path)
    assert done.status == 0, done.err
    words = (*words, "--store", store, "--workers", 4)
    commits = f"{UPSCALED.folder}/*/commits/train/*.json"
    with start(*words, "--no-dashboard", scratch=tmp_path) as command:
        assert wait_until(lambda: len(list(store.glob(commits))) >= 2, SECONDS)
        command.process.send_signal(how)
        status = command.wait(SECONDS)
        assert command.gone()
    assert status == (130 if how == signal.SIGINT else -signal.SIGKILL)
    done = run(*words, scratch=tmp_path)
    assert done.status == 0, done.err
    assert promised(store) == promised(reference)
    assert run_command("verify", store, scratch=tmp_path, seconds=SECONDS).status == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_workers_are_replaced(trained: Path, tmp_path: Path) -> None:
    """Their shards are computed again."""
    store = large_store(tmp_path)
    reference = Path(shutil.copytree(store, tmp_path / "reference"))
    words = ("upscale", trained, "--size", HIGH)
    assert run(*words, "--store", reference, "--workers", 2, scratch=tmp_path).status == 0
    commits = f"{UPSCALED.folder}/*/commits/train/*.json"
    words = (*words, "--store", store, "--workers", 2, "--no-dashboard")
    with start(*words, scratch=tmp_path) as command:
        assert wait_until(lambda: list(store.glob(commits)), SECONDS)
        workers = command.workers()
        assert workers
        for worker in workers:
            worker.kill()
        assert command.wait(SECONDS) == 0, command.err
    assert promised(store) == promised(reference)
