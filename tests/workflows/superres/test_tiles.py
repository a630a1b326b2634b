"""Images that are enlarged in tiles equal those that are enlarged whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.workflows.superres.small import small_run
from workflows.superres import tiles as tiles_module
from workflows.superres.choices import NETWORKS, SCALES
from workflows.superres.model import TrainedUpscaler, open_upscaler
from workflows.superres.networks import make_network
from workflows.superres.tiles import MAX_SIDE, MIN_SIDE, intervals, tile_side

LENGTHS = st.integers(1, 200)


@given(LENGTHS, st.integers(1, 70), st.integers(0, 40))
@example(1, 1, 40)
@example(81, 1, 40)
def test_intervals_cover_an_axis_once(length: int, side: int, margin: int) -> None:
    """No part is longer than the side, margins end at the axis, and none reads more than others."""
    parts = intervals(length, side, margin)
    assert [pixel for part in parts for pixel in range(part.start, part.stop)] == [*range(length)]
    reads = {part.read_stop - part.read_start for part in parts[:-1]}
    assert len(reads) <= 1
    for part in parts:
        assert part.read_start == max(part.start - margin, 0)
        assert part.read_stop == min(part.stop + margin, length)
        assert part.read_stop - part.read_start <= side + 2 * margin


def test_the_number_of_tiles_is_the_smallest_possible() -> None:
    """At the ends a margin is missing, so that a part may be larger there."""
    assert [len(intervals(length, 10, 3)) for length in (1, 16, 17, 26, 27, 36)] == [
        1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert [(part.start, part.stop) for part in intervals(30, 10, 3)] == [
        (0, 11),
        (11, 19),
        (19, 30),
    ]


def images_of(height: int, width: int) -> torch.Tensor:
    """Return two images of noise, of which each pixel matters."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


def upscaler(folder: Path, network: str, scale: int, *, base: bool) -> TrainedUpscaler:
    """Return a network with random weights."""
    run = folder / f"{network}-{scale}-{base}"
    if not run.exists():
        small_run(run, network=network, scale=scale, base="bicubic" if base else "none")
    return open_upscaler(run)


def assert_tiled_equals_whole(
    trained: TrainedUpscaler, images: torch.Tensor, side: int, *, self_ensemble: bool = False
) -> None:
    """Compare the tiles with the network's own result for the whole images."""
    scale = trained.scale
    whole = trained.enlarge(images, self_ensemble=self_ensemble).int()
    count = 0
    for tile, pixels in trained.enlarge_tiles(images, side=side, self_ensemble=self_ensemble):
        expected = whole[:, :, tile.rows.output(scale), tile.columns.output(scale)]
        assert (pixels.int() - expected).abs().max() <= 1
        count += pixels.numel()
    assert count == whole.numel()


@pytest.mark.parametrize("scale", SCALES)
def test_tiles_equal_the_whole_image(tmp_path: Path, scale: int) -> None:
    """They do at the edges, too, where networks pad with zeros, and for single pixels."""
    trained = upscaler(tmp_path, "fsrcnn", scale, base=scale != 3)
    for height, width, side in ((31, 40, 15), (1, 1, 3), (1, 90, 16), (23, 2, 7)):
        assert_tiled_equals_whole(trained, images_of(height, width), side)
    assert_tiled_equals_whole(trained, images_of(9, 33), 20, self_ensemble=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs of a property."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.timeout(1_500)
@settings(max_examples=60, deadline=None)
@given(
    network=st.sampled_from(sorted(NETWORKS)),
    scale=st.sampled_from(SCALES),
    base=st.booleans(),
    height=st.integers(1, 110),
    width=st.integers(1, 110),
    side=st.integers(1, 60),
)
@example("edsr", 4, True, 1, 4000, 300)
@example("span", 3, False, 4000, 1, 40)
@example("lesson", 2, False, 150, 150, 50)
@example("successor", 3, True, 100, 100, 20)
def test_tiles_equal_the_whole_image_for_all_networks(
    runs: Path, network: str, scale: int, base: bool, height: int, width: int, side: int
) -> None:
    """Every size, scale and network, with and without the bicubic base."""
    side = max(side, max(height, width) // 8)  # at most 81 tiles
    trained = upscaler(runs, network, scale, base=base)
    assert_tiled_equals_whole(trained, images_of(height, width), side)


def test_many_small_images_are_computed_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch needs no more memory than a tile, and its images do not depend on the others."""
    trained = upscaler(tmp_path, "fsrcnn", 2, base=True)
    images = torch.cat([images_of(12, 10)] * 4)
    sizes: list[torch.Size] = []
    trained.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    whole = trained.enlarge(images)
    assert [tuple(size) for size in sizes] == [(8, 3, 12, 10)]
    sizes.clear()
    monkeypatch.setattr("workflows.superres.model.tile_side", lambda *_: 2)  # 20 x 20 pixels
    assert (trained.enlarge(images).int() - whole.int()).abs().max() <= 1
    assert [tuple(size) for size in sizes] == [(3, 3, 12, 10)] * 2 + [(2, 3, 12, 10)]


def test_the_side_follows_from_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with more and larger layers gets smaller tiles, with limits on both ends."""
    cpu = torch.device("cpu")
    sides = {name: tile_side(make_network(name, 4), cpu) for name in NETWORKS}
    assert sides["fsrcnn"] == MAX_SIDE
    assert sides["edsr"] == 248
    assert MIN_SIDE < sides["edsr"] < sides["span"] < MAX_SIDE
    monkeypatch.setattr(tiles_module, "CPU_BUDGET_BYTES", 1_000_000)
    assert tile_side(make_network("edsr", 4), cpu) == MIN_SIDE
