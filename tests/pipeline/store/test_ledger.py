"""A ledger has an exact copy of each document, and reports its own damage."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import document, layout
from pipeline.store.ledger import Ledger, _ledger_lines, encode_ledger, read_ledger
from pipeline.store.local import LocalObjects
from tests.pipeline.store.test_plan import MADE as PLAN
from tests.pipeline.store.test_recipe import MADE as RECIPE

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(texts, st.dictionaries(texts, texts, max_size=3), max_size=5))
def test_a_ledger_preserves_each_document(
    fields: dict[str, dict[str, str]],
) -> None:
    """Any content is preserved, line breaks included."""
    documents = {
        name: document.encode_document(
            {**{k: v for k, v in value.items() if k != "digest"}, "format": 1}
        )
        for name, value in fields.items()
    }
    data = encode_ledger(documents.items())
    assert data.count(b"\n") == len(documents) + 1
    assert dict(_ledger_lines(data)) == documents


def test_a_damaged_ledger_returns_its_intact_copies(objects: LocalObjects) -> None:
    """Any damage is reported."""
    name = layout.ledger("train")
    documents = {layout.RECIPE: RECIPE.encode(), layout.plan("train"): PLAN.encode()}
    intact = encode_ledger(documents.items())
    assert read_ledger(objects, "train") == Ledger({}, "missing")
    objects.put(name, intact)
    assert read_ledger(objects, "train") == Ledger(documents, None)
    for offset in range(0, len(intact), 7):
        objects.put(name, intact[:offset] + bytes([intact[offset] ^ 4]) + intact[offset + 1 :])
        ledger = read_ledger(objects, "train")
        assert ledger.damage == "damaged", offset
        assert set(ledger.copies.values()) <= set(documents.values())
        assert len(ledger.copies) >= 1
    for lines in (intact.split(b"\n")[:1], intact.split(b"\n")[:2], [b""]):
        objects.put(name, b"\n".join(lines))
        assert read_ledger(objects, "train").damage == "damaged"
