"""The is-a graph of classes, as in WordNet: distances between classes, and sets of near ones.

A hop is one edge: up to the parent of a class, or down to a child. The graph comes from a file of
`parent child` lines or from WordNet itself, Debian's package `wordnet-base`.

Zero-shot learning on ImageNet (Frome et al. 2013, DeViSE) names sets of unseen classes after their
distance from the 1,000 known ones: its 2-hop set has 1,589, its 3-hop set 7,860. They come from
ImageNet's tree of 2011, which has only the nouns with images. In WordNet restricted to those,
1,572 lie within one edge and 7,918 within two: apparently the paper counts the class as a hop. In
the whole of WordNet 1,648 lie within one edge and 6,571 within two.
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
"""The folder of WordNet's files on Debian."""

NO_PATH = 2**15 - 1
"""The distance in hops of two nodes without a path between them."""


class Hierarchy:
    """An is-a graph of nodes that are named by wnid; a node may have several parents.

    Examples:
        >>> hierarchy = tesserae.Hierarchy([("animal", "cat"), ("animal", "dog")])
        >>> sorted(hierarchy.neighbours_within(["cat"], 2))
        ['animal', 'dog']
    """

    def __init__(self, edges: Iterable[tuple[str, str]]) -> None:
        """Build the graph from (parent, child) pairs; repeated pairs count once."""
        self._parents: dict[str, set[str]] = defaultdict(set)
        self._neighbours: dict[str, set[str]] = defaultdict(set)
        for parent, child in edges:
            self._parents[child].add(parent)
            self._neighbours[child].add(parent)
            self._neighbours[parent].add(child)

    def __contains__(self, wnid: str) -> bool:
        return wnid in self._neighbours

    def __len__(self) -> int:
        return len(self._neighbours)

    @property
    def edges(self) -> set[tuple[str, str]]:
        """The (parent, child) pairs."""
        return {(up, child) for child, parents in self._parents.items() for up in parents}

    def restricted_to(self, wnids: Collection[str], root: str) -> Hierarchy:
        """Return the graph of *wnids* alone: each is a child of its nearest remaining ancestors.

        This graph is not changed.

        Args:
            wnids: The nodes to keep; those outside of the graph become children of *root*.
            root: The parent of nodes that have no remaining ancestor, which should not be one of
                *wnids*. It is a node of the result, unless *wnids* is empty.
        """
        keep = set(wnids) - {root}
        return Hierarchy((up, wnid) for wnid in keep for up in self._nearest(wnid, keep) or {root})

    def _nearest(self, wnid: str, keep: Set[str]) -> set[str]:
        """Return the ancestors of *wnid* in *keep* with no other one of *keep* in between."""
        nearest: set[str] = set()
        front, seen = {wnid}, {wnid}
        while front:
            front = {up for node in front for up in self._parents.get(node, ())} - seen
            seen |= front
            nearest |= front & keep
            front -= keep
        return nearest

    def nodes_by_hops(self, start: Collection[str]) -> Iterator[set[str]]:
        """Yield the set of nodes at 0, 1, 2, ... hops from the nearest of *start*.

        A hop leads up to a parent or down to a child.

        Args:
            start: The nodes by wnid; those outside of the graph are at 0 hops and have no
                neighbours.

        Yields:
            Sets of wnids, of which the first is *start* itself. It ends when no further node can be
            reached, so nothing is yielded without *start*. The sets must not be changed.
        """
        ring, seen = set(start), set(start)
        while ring:
            yield ring
            near = {node for inner in ring for node in self._neighbours.get(inner, ())}
            ring = near - seen
            seen |= ring

    def neighbours_within(self, start: Collection[str], hops: int) -> set[str]:
        """Return the nodes at most *hops* from the nearest of *start*, without *start* itself.

        Args:
            start: The nodes by wnid; those outside of the graph have no neighbours.
            hops: The maximum number of edges, up to a parent or down to a child, at least 0.

        Returns:
            A new set of wnids; empty if *hops* is 0 or there are no neighbours.
        """
        return set().union(*islice(self.nodes_by_hops(start), 1, hops + 1))

    def correct_set(self, label: str, k: int, valid: Collection[str]) -> set[str]:
        """Return the classes that count as right among k answers for an image of *label*.

        They are the nodes of *valid* within the smallest radius that holds at least *k* of them,
        or all if there are fewer (Frome et al. 2013, appendix A.2). The label is the nearest: for
        k = 1 it is alone, and hp@1 equals hit@1, as in the paper's table 3.

        Args:
            label: The true class, by wnid.
            k: The number of answers that are judged, at least 1.
            valid: The classes that can be answers, by wnid, including *label*; a set is not copied.

        Returns:
            A new set of at least *k* wnids of *valid*, always with *label*; all of *valid* if fewer
            than *k* of them can be reached.

        Raises:
            ValueError: *label* is not in the graph or not in *valid*, or *k* is less than 1.
        """
        candidates = valid if isinstance(valid, Set) else set(valid)
        if label not in self or label not in candidates or k < 1:
            raise ValueError(
                f"no correct set of {k} classes for {label!r}: expected one of the candidate"
                " classes that is in the hierarchy, and k of 1 or more."
            )
        correct: set[str] = set()
        for ring in self.nodes_by_hops([label]):
            correct |= ring & candidates
            if len(correct) >= k:
                return correct
        return set(candidates)  # fewer than k are connected: the others count as farthest

    def precision(self, label: str, answers: Sequence[str], valid: Collection[str]) -> float:
        """Return hp@k for an image of *label*: the share of its k *answers* that are right.

        Args:
            label: The true class, by wnid.
            answers: The k classes that were answered, by wnid, at least one, all different.
            valid: The classes that can be answers, by wnid, including *label*.

        Returns:
            0 to 1: the share of *answers* in `correct_set(label, k, valid)`, the classes of *valid*
            within the smallest radius around the label that holds at least k of them.

        Raises:
            ValueError: *label* is not in the graph or not in *valid*, or there is no answer.
        """
        correct = self.correct_set(label, len(answers), valid)
        return len(correct.intersection(answers)) / len(answers)

    def distances(self, wnids: Sequence[str]) -> NDArray[np.int16]:
        """Return the least number of hops, up to a parent or down to a child, between all pairs.

        All breadth-first walks run at once, with a bit for each: 20 MB for 1,000 wnids of WordNet.

        Args:
            wnids: The n classes; those outside of the graph have a path to themselves only.

        Returns:
            (n, n) int16, symmetric, in the order of *wnids*, 0 on the diagonal; `NO_PATH` (32,767)
            without a path.
        """
        nodes = [*self._neighbours, *sorted(set(wnids) - self._neighbours.keys())]
        index_of = {node: index for index, node in enumerate(nodes)}
        own = np.array([index_of[wnid] for wnid in wnids], np.intp)
        near, starts = self._neighbour_lists(nodes, index_of)
        walk = np.arange(len(wnids))
        reached = np.zeros((len(nodes), (len(wnids) + 63) // 64), np.uint64)
        np.bitwise_or.at(reached, (own, walk // 64), np.uint64(1) << (walk % 64).astype(np.uint64))
        hops_between = np.full((len(wnids), len(wnids)), NO_PATH, np.int16)
        # Bit w of reached[v] says whether walk w has come to node v; a step ORs neighbours' bits.
        for hops in range(NO_PATH):
            bits = reached[own].astype("<u8").view(np.uint8)
            arrived = np.unpackbits(bits, axis=1, count=len(wnids), bitorder="little")
            hops_between[(arrived > 0) & (hops_between == NO_PATH)] = hops
            grown = np.bitwise_or.reduceat(reached[near], starts, axis=0)
            if hops_between.max(initial=0) < NO_PATH or np.array_equal(grown, reached):
                break
            reached = grown
        return hops_between

    def _neighbour_lists(
        self, nodes: Sequence[str], index_of: dict[str, int]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the indices of each node and its neighbours, concatenated, and the list starts."""
        lists = [
            [index_of[member] for member in (node, *self._neighbours.get(node, ()))]
            for node in nodes
        ]
        starts = np.cumsum([0, *map(len, lists)])[:-1]
        return np.array([index for each in lists for index in each], np.intp), starts

    def ancestors(self, wnid: str) -> dict[str, int]:
        """Return a class and all its ancestors, each with the least number of steps up to it.

        Args:
            wnid: The class; one outside of the graph has no ancestors.

        Returns:
            The number of steps by wnid; 0 for the class itself, which is always there.
        """
        steps_to, front, steps = {wnid: 0}, [wnid], 0
        while front:
            steps += 1
            above = {up for node in front for up in self._parents.get(node, ())}
            front = [node for node in above if node not in steps_to]
            steps_to |= dict.fromkeys(front, steps)
        return steps_to

    def vectors(
        self, wnids: Sequence[str], dim: int = 64, *, decay: float = 0.7
    ) -> NDArray[np.float32]:
        """Return vectors in which related classes lie near each other, without word vectors.

        Each node has a code, the signs of a hash of its name. A vector is the sum of the codes of
        the class and all its ancestors, where one n steps up has the weight decay ** n. A class
        outside the graph has its own code alone, as has one whose sum is zero. Vectors are the same
        on every machine.

        Args:
            wnids: The n classes, by wnid.
            dim: The number of dimensions, at least 1 (default: 64).
            decay: The weight of each step up, 0 to 1 (default: 0.7).

        Returns:
            (n, dim) float32, of length 1, in the order of *wnids*.
        """
        above = [self.ancestors(wnid) for wnid in wnids]
        codes = {node: _code_of_node(node, dim) for node in set().union(*above)}
        sums = np.zeros((len(wnids), dim))
        for row, steps in enumerate(above):
            for node in sorted(
                steps
            ):  # sets have another order in each process, and sums depend on it
                sums[row] += decay ** steps[node] * codes[node]
        for row in np.flatnonzero(~sums.any(axis=1)).tolist():
            sums[row] = codes[wnids[row]]
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return sums.astype(np.float32)


def _code_of_node(node: str, dim: int) -> NDArray[np.float64]:
    """Return (dim,) float64 of -1 and 1, by a hash: numpy's generators change with versions."""
    bits = hashlib.shake_256(node.encode("utf-8", "surrogateescape")).digest((dim + 7) // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8), count=dim).astype(np.float64)
    return signs * 2 - 1


def read_hierarchy(where: str | os.PathLike[str]) -> Hierarchy:
    """Read an is-a graph from a file of pairs or from WordNet.

    Args:
        where: A text file with the wnids of a parent and a child on each line, in UTF-8 or the
            encoding of its byte order mark. One separator serves for all lines, the first that fits
            all: spaces, a tab, a semicolon or a comma. Ids contain spaces only beside a tab or
            semicolon; space and `"` around an id are dropped. Empty lines and those that begin with
            `#` are skipped; a line of headings is not.
            Or a folder with WordNet's `data.noun`, or a file of that name, of which the is-a
            relations of nouns are read, without those of instances.

    Returns:
        The graph, whose nodes are named as in the file; those of WordNet by wnid, such as
        `n02121808`.

    Raises:
        SourceError: It is neither of them, cannot be read, or has no edge.
    """
    path = Path(where)
    noun = path / "data.noun" if path.is_dir() else path
    try:
        if noun.name == "data.noun":
            with noun.open(encoding="utf-8-sig") as lines:
                hierarchy = Hierarchy(_wordnet_edges(lines, noun))
        else:
            hierarchy = Hierarchy(_edges_in_lines(_read_table_lines(noun), noun))
    except UnicodeDecodeError as e:
        raise SourceError(f"{noun} is not a text file: expected `parent child` lines.") from e
    except OSError as e:
        raise SourceError(
            f"{noun} cannot be read ({e.strerror}): expected a file of `parent child` lines, or"
            " WordNet's folder (Debian: the package wordnet-base)."
        ) from e
    if not len(hierarchy):
        raise SourceError(f"{noun} has no edge: expected `parent child` lines.")
    return hierarchy


def _read_table_lines(path: Path) -> list[str]:
    from pipeline.sources.text_tables import decode_table, lines_of  # imported late: it loads Arrow

    try:
        return lines_of(decode_table(path.read_bytes(), str(path)))
    except SourceError as e:
        raise SourceError(f"{path} is not a text file: expected `parent child` lines ({e})") from e


def _edges_in_lines(lines: Sequence[str], path: Path) -> Iterator[tuple[str, str]]:
    """Read lines of two ids that are separated by a tab, a semicolon, a comma or a space.

    An id may have spaces if the separator is a tab or a semicolon; with a comma, the line would be
    a list of names. A space behind a semicolon or comma is no separator.
    """
    numbered = [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    separators = (None, "\t", ";", ",")
    fitting = (
        candidate
        for candidate in separators
        if all(_pair_in_line(line, candidate) for _, line in numbered)
    )
    separator = next(fitting, None)
    for number, line in numbered:
        pair = _pair_in_line(line, separator)
        if pair is None:
            raise SourceError(
                f"{path} line {number} is {line.strip()[:80]!r}: expected `parent child`."
            )
        yield pair


def _pair_in_line(line: str, separator: str | None) -> tuple[str, str] | None:
    parts = [part.strip().strip('"') for part in line.split(separator)]
    if len(parts) != 2 or not all(parts) or (separator == "," and " " in "".join(parts)):
        return None
    if separator is None and parts[0].endswith((",", ";")):
        return None
    return parts[0], parts[1]


def _wordnet_edges(lines: Iterable[str], path: Path) -> Iterator[tuple[str, str]]:
    """Yield the hypernym pairs of WordNet's noun file (wndb(5)), without instance relations."""
    for number, line in enumerate(lines, 1):
        if line.startswith(" "):  # the licence
            continue
        try:
            fields = line.partition("|")[0].split()
            first_pointer = 5 + 2 * int(fields[3], 16)  # after the words, two fields each
            pointer_fields = range(
                first_pointer, first_pointer + 4 * int(fields[first_pointer - 1]), 4
            )
            pointers = [
                (fields[index], fields[index + 1], fields[index + 2 : index + 4])
                for index in pointer_fields
            ]
            parent_offsets = [
                offset for kind, offset, (part, _) in pointers if kind == "@" and part == "n"
            ]
            wnid, parents = (
                _wnid_of_offset(fields[0]),
                [_wnid_of_offset(offset) for offset in parent_offsets],
            )
        except (ValueError, IndexError):
            raise SourceError(
                f"{path} line {number} is {line.strip()[:80]!r}: expected a line of WordNet's noun"
                " file. Install it again (Debian: the package wordnet-base)."
            ) from None
        yield from ((parent, wnid) for parent in parents)


def _wnid_of_offset(offset: str) -> str:
    return f"n{int(offset):08d}"
