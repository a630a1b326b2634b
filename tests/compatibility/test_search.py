"""An index that an earlier version wrote is searched as it is, with the same results."""

from __future__ import annotations

import json

import pytest

from tests.compatibility.bundles import Bundle
from tests.compatibility.make_fixtures import QUERIES, ROOT


def test_an_index_gives_the_recorded_results(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exact and approximate indexes are opened, and none of their files is written."""
    run = bundle.root / "runs" / "devise"
    # The path of the trunk as it was typed is a part of the model's identity.
    options = (run / "options.json").read_text()
    (run / "options.json").write_text(options.replace(f"{bundle.root}/trunk", f"{ROOT}/trunk"))
    files = {file: file.stat().st_ino for file in run.glob("search/*/*/*")}
    assert {file.parent.name for file in files} == {"exact", "lsh", "hnsw"}
    for query, words in QUERIES.items():
        search = ("search", "runs/devise", query, *words, "--k", 5, "--to", "both", "--json")
        assert bundle.tesserae(*search) == 0
        results, expected = json.loads(capsys.readouterr().out), bundle.expected["search"][query]
        assert len(expected["images"]) == 5
        for kind in ("images", "words"):
            assert len(results[kind]) == len(expected[kind])
            for hit, before in zip(results[kind], expected[kind], strict=True):
                # A result may have gained keys; those that it had keep their values.
                recorded = {key: hit[key] for key in before}
                assert recorded == {**before, "score": pytest.approx(before["score"], abs=1e-5)}
    assert {file: file.stat().st_ino for file in files} == files
