"""Reasons why rows are quarantined, and remarks on readable rows whose files were incomplete."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.images.rejection import STATUS_WORDS
from pipeline.store import integrity, table
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.integrity import Problem
from pipeline.store.objects import Objects
from workflows.terminal.formatting import counted


@dataclass(frozen=True)
class Reason:
    """A group of rows with the same reason, apart from the numbers in it."""

    status: str
    """The status in words, e.g. `truncated`."""
    reason: str
    """The decoder's message about `key`."""
    num_rows: int
    key: str
    """The key of the first row of the group."""


def read_lines(
    objects: Objects, parts: Iterable[ObjectRecord]
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Read the lines of quarantined rows, and of rows with a remark, from parts of the table.

    Args:
        objects: The objects of the store, from `open_objects(STORE)` of `pipeline.store.open`.
        parts: The records of the table's parts, such as `commit.table` of each commit.

    Returns:
        A dictionary for each such row, with `row` (int), `key`, `status` (int, 0 for a readable
        row), `reason` (empty if there is none) and `word` (the status in words); and a problem,
        with the `name` of the object and a `description`, for each part that is missing or damaged.
    """
    lines: list[dict[str, Any]] = []
    problems = []
    for written in parts:
        problem = integrity.check_object(objects, written)
        if problem is not None:
            problems.append(problem)
            continue
        part = table.decode_part(objects.get(written.name), written.name)
        lines += [
            {
                **line,
                "reason": line["reason"] or "",
                "word": STATUS_WORDS.get(line["status"], "unknown"),
            }
            for line in part.select(["row", "key", "status", "reason"]).to_pylist()
            if line["status"] or line["reason"]
        ]
    return lines, problems


def has_quarantined(counts: Mapping[str, int]) -> bool:
    """Return True if any count but that of `readable` is above 0.

    Args:
        counts: The number of rows by status in words, such as `commit.counts`; `readable` is the
            status of readable rows.
    """
    return any(count for word, count in counts.items() if word != "readable")


def by_reason(lines: Iterable[Mapping[str, Any]]) -> list[Reason]:
    """Group lines of the table by status and reason, the most frequent first.

    Reasons that differ only in numbers are the same: "truncated (7 bytes not processed)".

    Args:
        lines: Dictionaries with `key`, `word` (the status in words) and `reason` (empty or None if
            there is none), as `read_lines` returns them.

    Returns:
        A value for each group, with `status`, `reason`, `num_rows` and `key`; reason and key are
        those of its first line.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        reason = line["reason"] or ""
        groups.setdefault((line["word"], re.sub(r"\d[\d,.]*", "0", reason)), []).append(line)
    reasons = [
        Reason(word, group[0]["reason"] or "", len(group), group[0]["key"])
        for (word, _), group in groups.items()
    ]
    return sorted(reasons, key=lambda reason: -reason.num_rows)


def quarantined_reasons(objects: Objects, commits: Iterable[Commit]) -> list[Reason]:
    """Return why rows of committed shards are in quarantine, the most frequent reason first.

    Args:
        objects: The objects of the store, from `open_objects(STORE)` of `pipeline.store.open`.
        commits: The commits of the shards, such as the values of `load_commits(objects, plan)` of
            `pipeline.store.records`; parts of the table that are damaged are left out.

    Returns:
        A value for each group of rows, with `status` (in words), `reason`, `num_rows` and `key`
        (that of its first row); empty if no row is in quarantine.
    """
    parts = [commit.table for commit in commits if has_quarantined(commit.counts)]
    lines, _ = read_lines(objects, parts)
    return by_reason(line for line in lines if line["status"])


def examples(reasons: Sequence[Reason], limit: int = 4) -> str:
    """Return examples of quarantined rows as text, to end a sentence.

    Args:
        reasons: The reasons, each with an example; without any, the text is empty.
        limit: Number of reasons to list; the others are counted (default 4).

    Returns:
        A text such as `'n01440764/a.JPEG' (truncated: ...), and 3 more reasons`.
    """
    listed = [f"{r.key!r} ({r.status}: {r.reason})" for r in reasons[:limit]]
    more = len(reasons) - len(listed)
    return ", ".join(listed) + (f", and {counted(more, 'more reason')}" if more > 0 else "")
