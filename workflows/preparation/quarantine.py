"""Rows that hold no readable picture, and rows whose picture's file was not whole: why, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.images.decode import STATUS_WORDS
from pipeline.ingest import verify
from pipeline.ingest.verify import Problem
from pipeline.store import table
from pipeline.store.commit import Commit, Written
from pipeline.store.objects import Objects
from workflows.terminal.formatting import counted


@dataclass(frozen=True)
class Reason:
    """Rows that are in quarantine for the same reason, but for the numbers in it."""

    status: str
    """The status in words."""
    reason: str
    """What was said of `key`."""
    num_rows: int
    key: str
    """The first of them, in the order of rows."""


def read_lines(
    objects: Objects, parts: Iterable[Written]
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Read the lines that say something of a row from some parts of the table.

    Returns:
        row, key, status, reason and `word` (the status in words) of each row that is in quarantine
        or carries a remark; and the parts that are damaged.
    """
    lines: list[dict[str, Any]] = []
    problems = []
    for written in parts:
        problem = verify.check_object(objects, written)
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
    """Return True if rows by status in words count one that is not readable."""
    return any(count for word, count in counts.items() if word != "readable")


def by_reason(lines: Iterable[Mapping[str, Any]]) -> list[Reason]:
    """Group lines of the table by status and reason, the most frequent first.

    Numbers in a reason do not count: "truncated (7 bytes not processed)" is one reason.
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
    """Return why rows of committed shards are in quarantine; damaged parts are left out."""
    parts = [kept.table for kept in commits if has_quarantined(kept.counts)]
    lines, _ = read_lines(objects, parts)
    return by_reason(line for line in lines if line["status"])


def examples(reasons: Sequence[Reason], limit: int = 4) -> str:
    """Name a row of each of the first *limit* reasons, as the end of a sentence."""
    shown = [f"{r.key!r} ({r.status}: {r.reason})" for r in reasons[:limit]]
    more = len(reasons) - len(shown)
    return ", ".join(shown) + (f", and {counted(more, 'more reason')}" if more > 0 else "")
