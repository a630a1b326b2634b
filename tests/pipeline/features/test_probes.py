"""Features of one network, whichever machines made them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbone.determinism import probe_pictures
from pipeline.errors import StoreMismatchError
from pipeline.features import extract
from pipeline.features.probes import KEY, encode_probe, probe_distance
from pipeline.features.shard import check_probe, make_features, probe_of, workspace
from pipeline.store import features, layout
from tests.pipeline.features.small import begin, make, problems


def test_probes_of_two_machines_are_compared_by_their_distance() -> None:
    """Small differences of sums are small; another network is far; text that is none is nothing."""
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
    for other in (
        "",
        "no base64!",
        "AAAA",
        encode_probe(features[:, :8]),
        encode_probe(0 / features * np.nan),
    ):
        assert probe_distance(first, other) is None
    assert torch.equal(probe_pictures(32), probe_pictures(32))
    assert probe_pictures(7).shape == (2, 3, 7, 7)


def test_each_commit_has_what_its_network_made_of_the_probe(store: Path, trunk: Path) -> None:
    """So that a later run, and `verify`, can compare it with theirs."""
    run = begin(store, trunk)
    for shard in extract.missing(*run.what, ("plain",)):
        make_features(run.work, shard)
    extract.finish(*run.what)
    commits = features.load_commits(*run.what)
    probes = {kept.provenance[KEY] for kept in commits.values()}
    assert probes == {extract.known_probe(run.objects, run.recipe)}
    assert probe_distance(probes.pop(), probe_of(workspace(run.work).backbone, "float32")) == 0
    assert problems(store) == {}


def _other(probe: str, by: float) -> str:
    values = np.frombuffer(__import__("base64").b64decode(probe), "<f4").reshape(2, -1)
    return encode_probe(values * np.float32(1 + by) + np.float32(by))


def test_a_machine_that_makes_other_features_is_refused(store: Path, trunk: Path) -> None:
    """Before it makes any; a little is let pass, and so is a run that compares nothing."""
    run = begin(store, trunk)
    here = workspace(run.work).probe
    for by, refused in ((1e-5, False), (1.0, True)):
        work = replace(run.work, probe=_other(here, by))
        workspace.cache_clear()
        if refused:
            with pytest.raises(StoreMismatchError, match="makes other features of the same pict"):
                make_features(work, 0)
            with pytest.raises(StoreMismatchError, match="Install the same torch there"):
                check_probe(run.recipe, work.probe, here)
        else:
            make_features(work, 0)
            check_probe(run.recipe, work.probe, here)
    check_probe(run.recipe, "", here)


def test_a_shard_of_another_machine_is_named(store: Path, trunk: Path) -> None:
    """By `verify`; commits of before, which have no probe, are as good as they were."""
    name = make(store, trunk)
    run = begin(store, trunk)
    commits = features.load_commits(*run.what)

    def write(shard: int, probe: str | None) -> None:
        kept = commits[shard]
        provenance = {**kept.provenance, KEY: probe, "torch": "9.9", "device": "abacus"}
        if probe is None:
            del provenance[KEY]
        file = layout.features_commit(name, "train", shard)
        run.objects.put(file, replace(kept, provenance=provenance).encode())

    write(0, None)
    assert problems(store) == {}
    assert extract.known_probe(run.objects, run.recipe)
    write(2, _other(commits[1].provenance[KEY], 1.0))
    found = problems(store)
    assert list(found) == [layout.features_commit(name, "train", 2)]
    assert "torch 9.9 on abacus made other features" in next(iter(found.values()))
    assert "than those of shard 1 are" in next(iter(found.values()))
    for shard in commits:
        write(shard, None)
    assert problems(store) == {}
    assert extract.known_probe(run.objects, run.recipe) == ""
