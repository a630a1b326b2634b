"""Writes a bundle of files as the code of an earlier commit makes them.

    git worktree add --detach /tmp/earlier COMMIT
    PYTHONPATH=/tmp/earlier python tests/compatibility/make_fixtures.py NAME

The commands `prepare`, `features`, `train`, `search` and `sample-images` are those of the checkout
that PYTHONPATH names. They run in a folder at a fixed path, since runs record absolute paths.
`NAME.tar.xz` is written beside this file; README.md lists the bundles.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path("/tmp/tesserae-fixture")
"""The folder in which every bundle is made."""
SPLITS = {"train": 24, "val": 12, "test": 8}
"""The images of each split of the source; `test` is not prepared."""
CLASSES = ("ant", "bee", "great cat", "dog")
DAMAGED = "train5"
"""The image that is cut off, and therefore quarantined."""
SIDE = 16
FIRST_STEPS, LAST_STEPS = 4, 7
"""The steps at which the runs of a bundle end, and to which they are continued elsewhere."""

SMALL = ("--rank-threads", 1, "--batch-size", 8)
DEVISE = ("devise", "--trunk", "trunk", "--words", "words.txt", "--unseen", 1, "--hidden", 8)
RUNS: dict[str, tuple[object, ...]] = {
    "wgan": (
        *("wgan", "--objective", "wgan-gp", "--image-size", SIDE, "--noise", 4, "--rate", 1e-3),
        *("--generator-width", 2, "--critic-width", 2, "--critic-steps", 2, *SMALL),
        *("--precision", "float32"),
    ),
    "colourise": ("colourise", "--image-size", 8, "--width", 2, "--adversarial", 0, *SMALL),
    "devise": (*DEVISE, *SMALL),
    "devise-all": (*DEVISE, *SMALL, "--learn", "all"),
}
"""The stage and the options of each run, with the flags that earlier versions have for them."""
PACE = ("--look-every", 4, "--tell-every", 1)
QUERIES = {
    "ant": ("--index", "exact"),
    "great cat + boat": ("--index", "lsh", "--split", "val"),
    "#3": ("--index", "hnsw"),
    "bee - dog": ("--index", "exact"),
}
"""The options with which each query is searched."""


RUN = "import os, sys; from workflows.cli import main; n = main(); sys.stdout.flush(); os._exit(n)"
"""A command that ends at once: threads of earlier versions could abort Python's own end."""


def tesserae(*words: object) -> str:
    """Run a command of the earlier checkout in `ROOT`, and return its output."""
    line = [sys.executable, "-c", RUN, *map(str, words)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line[2:])}: {done.stdout}{done.stderr}")
    return done.stdout


def make_source() -> None:
    """Write class folders of pictures as PPM files, whose bytes no library decides."""
    ramp = np.arange(SIDE)
    for offset, (split, count) in enumerate(SPLITS.items()):
        for number in range(count):
            label = number % len(CLASSES)
            file = ROOT / "source" / split / f"n{label:08d}" / f"{split}{number}.ppm"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
            pixels[..., 0] = 60 * label + ramp[:, None]
            pixels[..., 1] = 60 * offset + number + 7 * ramp
            pixels[..., 2] = 10 * number
            data = b"P6\n%d %d\n255\n" % (SIDE, SIDE) + pixels.tobytes()
            file.write_bytes(data[:99] if file.stem == DAMAGED else data)
    lines = [f"n{label:08d}\t{words}\n" for label, words in enumerate(CLASSES)]
    (ROOT / "source" / "words.txt").write_text("".join(lines))


def make_words(dim: int = 6) -> None:
    """Write word vectors of the classes and of two more words in word2vec's text format."""
    tokens = [*(name.replace(" ", "_") for name in CLASSES), "boat", "engine"]
    values = np.random.default_rng(5).integers(-9, 10, (len(tokens), dim))
    lines = [
        f"{token} {' '.join(map(str, row))}" for token, row in zip(tokens, values, strict=True)
    ]
    (ROOT / "words.txt").write_text("\n".join([f"{len(tokens)} {dim}", *lines]) + "\n")


def make_trunk() -> None:
    """Save a vision transformer of one thin layer."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    thin = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(image_size=SIDE, patch_size=8, intermediate_size=8, **thin)
    ViTModel(config, add_pooling_layer=False).save_pretrained(ROOT / "trunk")
    size, half = {"height": SIDE, "width": SIDE}, [0.5] * 3
    transform = {"size": size, "image_mean": half, "image_std": half}
    (ROOT / "trunk" / "preprocessor_config.json").write_text(json.dumps(transform))


def lengths(state: Any) -> list[float]:
    """Return the length of every tensor in a nested state, in order."""
    import torch

    if isinstance(state, torch.Tensor):
        return [float(state.double().norm())]
    nested = state.values() if isinstance(state, dict) else state
    within = isinstance(state, dict | list | tuple)
    return [length for part in nested for length in lengths(part)] if within else []


def continued(run: str, words: Sequence[object]) -> dict[str, Any]:
    """Continue a copy of a run with the earlier code, and describe its result."""
    import torch

    shutil.copytree(ROOT / "runs" / run, ROOT / "continued" / run)
    tesserae(*words, "--run", f"continued/{run}", "--steps", LAST_STEPS)
    lines = (ROOT / "continued" / run / "metrics.jsonl").read_text().splitlines()
    losses = [line for line in map(json.loads, lines) if "what" not in line]
    newest = max((ROOT / "continued" / run / "checkpoints").glob("*.pt"))
    state = torch.load(newest, weights_only=True)
    return {"losses": losses, "lengths": sorted(lengths(state["stage"]))}


def main(name: str) -> None:
    """Make the bundle *name*."""
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir()
    make_source()
    make_words()
    make_trunk()
    local = ("--workers", 1, "--no-dashboard")
    shape = ("--sizes", SIDE, "--shard-rows", 8, "--chunk-rows", 4)
    prepared = ("prepare", "source", "store", "--split", "train", "val", "--max-bad", 0.1)
    tesserae(*prepared, *shape, *local)
    tesserae("features", "store", "--trunk", "trunk", "--mirrored", *local)
    expected: dict[str, Any] = {"continued": {}, "search": {}}
    for run, (stage, *options) in RUNS.items():
        words = ("train", stage, "store", *options, *PACE, *local, "--ranks", 1)
        tesserae(*words, "--run", f"runs/{run}", "--steps", FIRST_STEPS)
        expected["continued"][run] = continued(run, words)
    for query, words in QUERIES.items():
        answer = tesserae(
            "search", "runs/devise", query, *words, "--k", 5, "--to", "both", "--json"
        )
        expected["search"][query] = json.loads(answer)
    tesserae("sample-images", "runs/wgan", "-n", 4, "-o", "samples.png")
    (ROOT / "expected.json").write_text(json.dumps(expected, indent=1))
    shutil.rmtree(ROOT / "continued")
    (ROOT / "store" / "report.html").unlink()
    for unshared in (".tmp", ".cache", "meetings"):
        for folder in list(ROOT.rglob(unshared)):
            shutil.rmtree(folder)
    with tarfile.open(Path(__file__).parent / f"{name}.tar.xz", "w:xz", preset=9) as bundle:
        for file in sorted(ROOT.rglob("*")):
            if file.is_file():
                bundle.add(file, file.relative_to(ROOT), filter=anonymous)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member without owner and time."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(sys.argv[1])
