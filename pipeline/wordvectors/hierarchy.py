"""The is-a graph of classes, as WordNet has it: how far two are apart, and which stand near one.

A hop is one edge: up to what a class is a kind of, or down to a kind of it. The graph comes from a
file of `parent child` lines or from WordNet itself, Debian's package `wordnet-base`.

Zero-shot learning on ImageNet (Frome et al. 2013, DeViSE) names sets of unseen classes after their
distance from the 1,000 known ones: its 2-hop set has 1,589, its 3-hop set 7,860. They come from
ImageNet's tree of 2011, which has only the nouns with pictures. Of WordNet `narrowed` to those,
1,572 lie within one edge and 7,918 within two: it seems that the paper counts the class as a hop.
Of the whole of WordNet, pictures or not, 1,648 lie within one edge and 6,571 within two.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError

WORDNET = Path("/usr/share/wordnet")
"""Where Debian puts WordNet's files."""

FAR = 2**15 - 1
"""Hops between two that no path joins."""


class Hierarchy:
    """Nodes by wnid; a node may have several parents."""

    def __init__(self, edges: Iterable[tuple[str, str]]) -> None:
        """Take (parent, child) pairs; the same pair twice is one."""
        self._parents: dict[str, set[str]] = defaultdict(set)
        self._beside: dict[str, set[str]] = defaultdict(set)
        for parent, child in edges:
            self._parents[child].add(parent)
            self._beside[child].add(parent)
            self._beside[parent].add(child)

    def __contains__(self, wnid: str) -> bool:
        return wnid in self._beside

    def __len__(self) -> int:
        return len(self._beside)

    @property
    def edges(self) -> set[tuple[str, str]]:
        """The (parent, child) pairs."""
        return {(up, child) for child, parents in self._parents.items() for up in parents}

    def narrowed(self, wnids: Collection[str], root: str) -> Hierarchy:
        """The graph of *wnids* alone: each a child of the nearest of them that it is a kind of.

        Args:
            wnids: The nodes to keep.
            root: A node to hang those on that are a kind of none.
        """
        keep = set(wnids)
        return Hierarchy((up, wnid) for wnid in keep for up in self._nearest(wnid, keep) or {root})

    def _nearest(self, wnid: str, keep: Set[str]) -> set[str]:
        """Of what *wnid* is a kind of, those of *keep* that no other one of *keep* hides."""
        found: set[str] = set()
        front, seen = {wnid}, {wnid}
        while front:
            front = {up for node in front for up in self._parents.get(node, ())} - seen
            seen |= front
            found |= front & keep
            front -= keep
        return found

    def rings(self, start: Collection[str]) -> Iterator[set[str]]:
        """The nodes at 0, 1, 2, ... hops from the nearest of *start*, until there are no more."""
        ring, seen = set(start), set(start)
        while ring:
            yield ring
            near = {node for one in ring for node in self._beside.get(one, ())}
            ring = near - seen
            seen |= ring

    def within(self, start: Collection[str], hops: int) -> set[str]:
        """The nodes at most *hops* from the nearest of *start*, without those themselves."""
        return set().union(*islice(self.rings(start), 1, hops + 1))

    def correct_set(self, label: str, k: int, valid: Collection[str]) -> set[str]:
        """What counts as right among k answers for a picture of *label*.

        The nodes of *valid* within a radius, the smallest that holds at least *k* of them; all of
        them where there are fewer (Frome et al. 2013, appendix A.2). The label itself is the first:
        for k = 1 it is alone, and hp@1 is hit@1, as in the paper's table 3.

        Args:
            label: The true class.
            k: Answers that are looked at.
            valid: Classes that can be answered, *label* among them; a set is not copied.

        Raises:
            ValueError: *label* is not in the graph or not in *valid*, or *k* is less than 1.
        """
        among = valid if isinstance(valid, Set) else set(valid)
        if label not in self or label not in among or k < 1:
            raise ValueError(
                f"no {k} answers can be right for {label!r}: expected a class that can be answered"
                " and is in the hierarchy, and at least 1 answer."
            )
        found: set[str] = set()
        for ring in self.rings([label]):
            found |= ring & among
            if len(found) >= k:
                return found
        return set(among)  # some are joined to it by nothing: they are the farthest

    def precision(self, label: str, answers: Sequence[str], valid: Collection[str]) -> float:
        """hp@k of a picture of *label*: the share of its k *answers* that count as right."""
        correct = self.correct_set(label, len(answers), valid)
        return len(correct.intersection(answers)) / len(answers)

    def distances(self, wnids: Sequence[str]) -> NDArray[np.int16]:
        """(n, n) int16: hops between each two of *wnids*; `FAR` where no path joins them.

        All walks are made at once, a bit for each: for 1,000 wnids WordNet takes 20 MB.
        """
        nodes = [*self._beside, *sorted(set(wnids) - self._beside.keys())]
        places = {node: place for place, node in enumerate(nodes)}
        own = np.array([places[wnid] for wnid in wnids], np.intp)
        near, starts = self._lists(nodes, places)
        walk = np.arange(len(wnids))
        reached = np.zeros((len(nodes), (len(wnids) + 63) // 64), np.uint64)
        np.bitwise_or.at(reached, (own, walk // 64), np.uint64(1) << (walk % 64).astype(np.uint64))
        found = np.full((len(wnids), len(wnids)), FAR, np.int16)
        for hops in range(FAR):
            bits = reached[own].astype("<u8").view(np.uint8)
            here = np.unpackbits(bits, axis=1, count=len(wnids), bitorder="little")
            found[(here > 0) & (found == FAR)] = hops
            grown = np.bitwise_or.reduceat(reached[near], starts, axis=0)
            if found.max(initial=0) < FAR or np.array_equal(grown, reached):
                break
            reached = grown
        return found

    def _lists(
        self, nodes: Sequence[str], places: dict[str, int]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The places of each node and of those beside it, in a row; and where each begins."""
        lists = [[places[one] for one in (node, *self._beside.get(node, ()))] for node in nodes]
        starts = np.cumsum([0, *map(len, lists)])[:-1]
        return np.array([place for each in lists for place in each], np.intp), starts

    def ancestors(self, wnid: str) -> dict[str, int]:
        """What *wnid* is a kind of, at any height, and itself: node -> least steps up to it."""
        found, front, steps = {wnid: 0}, [wnid], 0
        while front:
            steps += 1
            above = {up for node in front for up in self._parents.get(node, ())}
            front = [node for node in above if node not in found]
            found |= dict.fromkeys(front, steps)
        return found

    def vectors(
        self, wnids: Sequence[str], dim: int = 64, *, decay: float = 0.7
    ) -> NDArray[np.float32]:
        """Vectors in which kinds of the same thing lie near each other, where there are no words.

        Each node has a code, the signs of a hash of its name; a vector is the sum of the codes of
        all that its class is a kind of, that of one n steps up at decay ** n. The same on every
        machine. What is not in the graph has its own code alone.

        Returns:
            (n, dim) float32, of length 1.
        """
        above = [self.ancestors(wnid) for wnid in wnids]
        codes = {node: _code(node, dim) for node in set().union(*above)}
        made = np.zeros((len(wnids), dim))
        for place, steps in enumerate(above):
            for node in sorted(steps):  # in an order that does not depend on the process
                made[place] += decay ** steps[node] * codes[node]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made.astype(np.float32)


def _code(node: str, dim: int) -> NDArray[np.float64]:
    """(dim,) float64, each -1 or 1. No generator of numpy's: those change between versions."""
    bits = hashlib.shake_256(node.encode("utf-8", "surrogateescape")).digest((dim + 7) // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8), count=dim).astype(np.float64)
    return signs * 2 - 1


def read_hierarchy(where: str | os.PathLike[str]) -> Hierarchy:
    """Read an is-a graph.

    Args:
        where: A file of `parent child` lines, or a folder with WordNet's `data.noun`.

    Raises:
        SourceError: It is neither, or has no edge.
    """
    path = Path(where)
    noun = path / "data.noun" if path.is_dir() else path
    try:
        if noun.name == "data.noun":
            with noun.open(encoding="utf-8-sig") as lines:
                made = Hierarchy(_wordnet_edges(lines, noun))
        else:
            made = Hierarchy(_edges(_table(noun), noun))
    except UnicodeDecodeError as e:
        raise SourceError(f"{noun} is no text: expected `parent child` lines.") from e
    except OSError as e:
        raise SourceError(
            f"{noun} cannot be read ({e.strerror}): expected a file of `parent child` lines, or"
            " WordNet's folder (Debian: the package wordnet-base)."
        ) from e
    if not len(made):
        raise SourceError(f"{noun} holds no edge: expected `parent child` lines.")
    return made


def _table(path: Path) -> list[str]:
    from pipeline.sources.text_tables import decode_table, lines_of  # Arrow comes with it

    try:
        return lines_of(decode_table(path.read_bytes(), str(path)))
    except SourceError as e:
        raise SourceError(f"{path} is no text: expected `parent child` lines ({e})") from e


def _edges(lines: Sequence[str], path: Path) -> Iterator[tuple[str, str]]:
    """Read lines of two ids between which lies a tab, a semicolon, a comma or a space.

    An id may have spaces where a tab or a semicolon lies between the two; between commas it would
    be a list of names.
    """
    numbered = [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    separators = (None, "\t", ";", ",")
    fitting = (one for one in separators if all(_pair(line, one) for _, line in numbered))
    separator = next(fitting, None)
    for number, line in numbered:
        pair = _pair(line, separator)
        if pair is None:
            raise SourceError(
                f"{path} line {number} is {line.strip()[:80]!r}: expected `parent child`."
            )
        yield pair


def _pair(line: str, separator: str | None) -> tuple[str, str] | None:
    parts = [part.strip().strip('"') for part in line.split(separator)]
    if len(parts) != 2 or not all(parts) or (separator == "," and " " in "".join(parts)):
        return None
    return parts[0], parts[1]


def _wordnet_edges(lines: Iterable[str], path: Path) -> Iterator[tuple[str, str]]:
    """The hypernyms of WordNet's noun file (wndb(5)); what is an instance of a kind is no kind."""
    for number, line in enumerate(lines, 1):
        if line.startswith(" "):  # the licence
            continue
        try:
            fields = line.partition("|")[0].split()
            at = 5 + 2 * int(fields[3], 16)  # behind the words, each with its number
            places = range(at, at + 4 * int(fields[at - 1]), 4)
            pointers = [(fields[one], fields[one + 1], fields[one + 2 : one + 4]) for one in places]
            found = [offset for kind, offset, (part, _) in pointers if kind == "@" and part == "n"]
            wnid, parents = _wnid(fields[0]), [_wnid(offset) for offset in found]
        except (ValueError, IndexError):
            raise SourceError(
                f"{path} line {number} is {line.strip()[:80]!r}: expected a line of WordNet's noun"
                " file. Install it again (Debian: the package wordnet-base)."
            ) from None
        yield from ((parent, wnid) for parent in parents)


def _wnid(offset: str) -> str:
    return f"n{int(offset):08d}"
