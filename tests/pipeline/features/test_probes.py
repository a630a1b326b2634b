"""Probes ensure that the features of several machines are of one network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbone.determinism import probe_pixels
from pipeline.backbone.load import open_backbone
from pipeline.errors import StoreMismatchError
from pipeline.features import extract
from pipeline.features.probes import KEY, encode_probe, probe_distance
from pipeline.features.shard_task import compute_shard
from pipeline.features.worker import check_probe, compute_probe, open_workspace
from pipeline.store import derived, layout
from tests.pipeline.features.small import begin, make, problems


def test_probes_of_two_machines_are_compared_by_their_distance() -> None:
    """Rounding differences are small, another network is far, and invalid text has no distance."""
    features = np.random.default_rng(0).standard_normal((2, 300)).astype(np.float32)
    first = encode_probe(features)
    assert len(first) < 1_000
    assert probe_distance(first, first) == 0
    near = probe_distance(first, encode_probe(features * (1 + 1e-5)))
    far = probe_distance(first, encode_probe(features[::-1].copy()))
    assert near is not None
    assert 0 < near < 1e-4
    assert far is not None
    assert far > 0.5
    for invalid in (
        "",
        "no base64!",
        "AAAA",
        encode_probe(features[:, :8]),
        encode_probe(0 / features * np.nan),
    ):
        assert probe_distance(first, invalid) is None
    assert torch.equal(probe_pixels(32), probe_pixels(32))
    assert probe_pixels(7).shape == (2, 3, 7, 7)


def test_each_commit_records_its_probe(store: Path, trunk: Path) -> None:
    """A later run, and `verify`, compare the probe with their own."""
    run = begin(store, trunk)
    for shard in extract.missing_shards(*run.context, ("plain",)):
        compute_shard(run.work, shard)
    extract.finish(*run.context)
    commits = derived.load_commits(*run.context)
    probes = {commit.provenance[KEY] for commit in commits.values()}
    assert probes == {extract.recorded_probe(run.objects, run.recipe)}
    network = compute_probe(open_backbone(trunk), "float32")
    assert probe_distance(probes.pop(), network) == 0
    assert problems(store) == {}


def _changed_probe(probe: str, change: float) -> str:
    values = np.frombuffer(__import__("base64").b64decode(probe), "<f4").reshape(2, -1)
    return encode_probe(values * np.float32(1 + change) + np.float32(change))


def test_a_machine_with_other_features_is_refused(store: Path, trunk: Path) -> None:
    """The machine computes no features; small differences and an empty probe pass."""
    run = begin(store, trunk)
    probe = open_workspace(run.work).probe
    for change, refused in ((1e-5, False), (1.0, True)):
        work = replace(run.work, probe=_changed_probe(probe, change))
        open_workspace.cache_clear()
        if refused:
            with pytest.raises(
                StoreMismatchError, match="computes different features for the same im"
            ):
                compute_shard(work, 0)
            with pytest.raises(StoreMismatchError, match="Install the same torch there"):
                check_probe(run.recipe, work.probe, probe)
        else:
            compute_shard(work, 0)
            check_probe(run.recipe, work.probe, probe)
    check_probe(run.recipe, "", probe)


def test_a_shard_with_another_probe_is_a_problem(store: Path, trunk: Path) -> None:
    """Commits of early versions, which have no probe, stay valid."""
    name = make(store, trunk)
    run = begin(store, trunk)
    commits = derived.load_commits(*run.context)

    def write(shard: int, probe: str | None) -> None:
        commit = commits[shard]
        provenance = {**commit.provenance, KEY: probe, "torch": "9.9", "device": "abacus"}
        if probe is None:
            del provenance[KEY]
        file = layout.FEATURES.commit(name, "train", shard)
        run.objects.put(file, replace(commit, provenance=provenance).encode())

    write(0, None)
    assert problems(store) == {}
    assert extract.recorded_probe(run.objects, run.recipe)
    write(2, _changed_probe(commits[1].provenance[KEY], 1.0))
    reported = problems(store)
    assert list(reported) == [layout.FEATURES.commit(name, "train", 2)]
    assert "torch 9.9 on abacus computed different features" in next(iter(reported.values()))
    assert "than shard 1: compute all" in next(iter(reported.values()))
    for shard in commits:
        write(shard, None)
    assert problems(store) == {}
    assert extract.recorded_probe(run.objects, run.recipe) == ""
