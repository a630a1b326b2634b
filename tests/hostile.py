"""Hostile documents: valid ones in which one value is replaced, removed or added."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(
        [
            10**400,
            -1,
            0,
            1e308,
            float("nan"),
            float("inf"),
            "../../home/.ssh/authorized_keys",
            "/etc/passwd",
            "train/../../x",
            "abc",
            "0" * 64,
            "\x1b[2J",
        ]
    )
)
values = (
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc/.", max_size=4), inner)
        ),
        max_leaves=4,
    )
    | st.just([[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]])
    | st.just({})
    | st.just([])
)
"""Any JSON value, and some that Python's parser accepts beyond JSON."""

Path = tuple[str | int, ...]


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Yield the path of every value in a document, beginning with the document itself."""
    yield at
    inside = dict(enumerate(value)) if isinstance(value, list) else value
    for key, inner in inside.items() if isinstance(inside, dict) else ():
        yield from paths(inner, (*at, key))


@st.composite
def mutated_fields(draw: Any, fields: Any) -> Any:
    """Draw the fields of a document with one value replaced, removed or added."""
    fields = copy.deepcopy(fields)
    path = draw(st.sampled_from(list(paths(fields))[1:]))
    parent = fields
    for key in path[:-1]:
        parent = parent[key]
    change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
    if change == "replace":
        parent[path[-1]] = draw(values)
    elif change == "remove":
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent[draw(st.sampled_from(["../x", "abc", "digest2", ""]))] = draw(values)
    else:
        parent.append(draw(values))
    return fields


def mutated(fields: Any) -> st.SearchStrategy[bytes]:
    """Draw the text of a mutated document without a digest, or of any other value."""
    return (mutated_fields(fields) | values).map(
        lambda value: json.dumps(value, ensure_ascii=True).encode()
    )
