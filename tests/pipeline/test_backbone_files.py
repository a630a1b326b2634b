"""Broken folders of models are refused by an error that names the file and the cure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.backbone.check_files import check_folder
from pipeline.backbone.load import open_backbone
from pipeline.backbone.transform import read_transform
from pipeline.errors import TesseraeError
from tests.pipeline.features.small import small_trunk

WEIGHTS, CONFIG, TRANSFORM = "model.safetensors", "config.json", "preprocessor_config.json"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(scope="module")
def intact_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_trunk(tmp_path_factory.mktemp("whole") / "vit")


@pytest.fixture
def folder(intact_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of an intact model that a test may break."""
    return Path(shutil.copytree(intact_folder, tmp_path / "vit"))


def pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(LFS)


def pointer_settings(folder: Path) -> None:
    (folder / CONFIG).write_bytes(LFS)


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def cut_in_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:40])


def page(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"<!DOCTYPE html><html>please sign in</html>")


def damaged_header(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[20:24] = b"\xff{}{"
    (folder / WEIGHTS).write_bytes(data)


def other_width(folder: Path) -> None:
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**settings, "intermediate_size": 24}))


def nan(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    next(iter(state.values())).view(-1)[0] = float("nan")
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def broken(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text('{"a": 1,')  # type: ignore[func-returns-value]


def transform(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        before = json.loads((folder / TRANSFORM).read_text())
        (folder / TRANSFORM).write_text(json.dumps({**before, **fields}))

    return change


@pytest.mark.parametrize(
    ("spoil", "file", "says"),
    [
        (pointer, WEIGHTS, "is a pointer of Git LFS, not the file itself: run `git lfs pull`"),
        (pointer_settings, CONFIG, "is a pointer of Git LFS"),
        (empty, WEIGHTS, "is empty. Download the whole folder again"),
        (cut, WEIGHTS, "it is cut off or damaged. Download the whole folder again"),
        (cut_in_header, WEIGHTS, "is not a safetensors file"),
        (page, WEIGHTS, "is not a safetensors file (it begins with b'<!DOCTYPE"),
        (damaged_header, WEIGHTS, "has a damaged header"),
        (other_width, CONFIG, "does not match the weights in the same folder"),
        (nan, "", "contain NaN or infinity, in "),
        (broken(CONFIG), CONFIG, "is not JSON"),
        (broken(TRANSFORM), TRANSFORM, "is not JSON"),
        (lambda folder: (folder / TRANSFORM).write_text("[]"), TRANSFORM, "holds list"),
        (transform(image_mean=[0.5]), TRANSFORM, "has image_mean [0.5]: expected three numbers"),
        (transform(image_mean="0.5"), TRANSFORM, "has image_mean 0.5: expected three numbers"),
        (transform(image_mean=[0.5, None, 1]), TRANSFORM, "expected three numbers"),
        (transform(image_std=[1, 0, 1]), TRANSFORM, "numbers that are not 0"),
        (transform(rescale_factor="x"), TRANSFORM, "has rescale_factor x"),
        (transform(size={"height": "a", "width": "a"}), TRANSFORM, "has size"),
    ],
)
def test_a_broken_file_is_named_with_the_cure(
    folder: Path, spoil: Callable[[Path], object], file: str, says: str
) -> None:
    """The error is one sentence, whichever library would fail first."""
    assert open_backbone(folder).dim
    spoil(folder)
    with pytest.raises(TesseraeError) as refused:
        open_backbone(folder)
    assert str(folder / file) in str(refused.value)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.integers(0, 10**4), st.binary(max_size=30), st.booleans())
def test_any_damage_to_weights_is_reported_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, data: bytes, truncated: bool
) -> None:
    """A check of a folder raises nothing but `TesseraeError`."""
    folder = tmp_path_factory.mktemp("damage")
    save_file({"a": torch.arange(64.0), "b": torch.zeros(3, 5)}, folder / WEIGHTS)
    before = (folder / WEIGHTS).read_bytes()
    at %= len(before)
    after = before[:at] + data + (b"" if truncated else before[at + len(data) :])
    (folder / WEIGHTS).write_bytes(after)
    try:
        check_folder(folder)
    except TesseraeError:
        return
    assert len(after) == len(before) or after[:8] != before[:8]


def test_a_preprocessing_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """What the library raises for it, also without a network, becomes one kind of error."""
    with pytest.raises(TesseraeError, match=r"gone/preprocessor_config.json cannot be read \("):
        read_transform(str(tmp_path / "gone"), None, local=True)


def test_a_randomly_masking_network_is_refused(tmp_path: Path) -> None:
    """A masked autoencoder sees a random part of an image; without masking it is accepted."""
    from transformers import ViTMAEConfig, ViTMAEModel

    thin = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    thin |= {f"decoder_{name}": value for name, value in thin.items()}
    for ratio in (0.75, 0.0):
        config = ViTMAEConfig(
            image_size=32, patch_size=8, intermediate_size=16, mask_ratio=ratio, **thin
        )
        ViTMAEModel(config).save_pretrained(tmp_path / "mae")
        (tmp_path / "mae" / TRANSFORM).write_text(
            json.dumps({"size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
        )
        if ratio:
            with pytest.raises(
                TesseraeError, match="computes different features for the same images"
            ):
                open_backbone(tmp_path / "mae")
        else:
            assert open_backbone(tmp_path / "mae").dim == 16


def test_a_network_with_active_dropout_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features of an image must not depend on chance."""
    from pipeline.backbone.network import Backbone

    plain = Backbone.forward
    monkeypatch.setattr(
        Backbone, "forward",
        lambda self, pixels: torch.nn.functional.dropout(plain(self, pixels), 0.2, training=True),
    )  # fmt: skip
    with pytest.raises(TesseraeError, match="masks or drops out at random"):
        open_backbone(folder)
