"""The work of `tesserae words`: which classes have word vectors, and where in WordNet they are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError, TesseraeError
from pipeline.sources.classes.name_tables import parse_names
from pipeline.sources.text_tables import decode_table
from pipeline.store import records
from pipeline.store.objects import open_objects
from pipeline.wordvectors.files import read_words
from pipeline.wordvectors.hierarchy import WORDNET, Hierarchy, read_hierarchy
from pipeline.wordvectors.vectors import (
    ClassVectors,
    class_vectors,
    names_of_id,
    taxonomy_vectors,
)
from workflows.terminal.formatting import counted, printable, share_text

SHOWN = 20
"""Classes and names that are listed of each kind, unless --all."""

HOPS = (1, 2, 3)
ANSWERS = (2, 5, 10, 20)
"""Numbers of answers for which hierarchical precision is usually told."""
SETS_OF = 5_000
"""Classes up to which the sets of what counts as right are made: 1,000 take two seconds."""

SAID = {
    "token": "a name of theirs is a token",
    "words": "made of the words of a name",
    "taxonomy": "from what they are kinds of",
    "none": "none",
}
PAPER_CLASSES, WORDNET_NOUNS = 1_000, 70_000
"""Classes of ILSVRC and, at least, nouns of the whole of WordNet: what `NOTE` is about."""
NOTE = (
    "pictures or not. Frome et al. (2013) have 1,589 nouns in the 2-hop and 7,860 in the 3-hop set",
    "of the 1,000 classes. Their ImageNet of 2011 has only nouns with pictures; of WordNet without",
    "the others, 1,572 lie within 1 hop and 7,918 within 2: they seem to count the class as one.",
)


def run(args: argparse.Namespace) -> int:
    """Print how far the words go."""
    facts = describe(args.classes, args.vectors, args.hierarchy, synonyms=args.synonyms)
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=True))
        return 0
    for line in lines(facts, limit=None if args.all else SHOWN):
        print(line)
    return 0


def describe(
    where: str, vectors: str | None, hierarchy: str | None, *, synonyms: str = "mean"
) -> dict[str, Any]:
    """How far the words go, as plain JSON values.

    Args:
        where: A store, or a file of `wnid words` lines.
        vectors: A file of word vectors; without one they are derived from the hierarchy.
        hierarchy: A file of `parent child` lines or WordNet's folder; without one and without
            *vectors* it is Debian's.
        synonyms: As for `class_vectors`.

    Raises:
        SourceError: A file is not what was said.
        StoreError: There is no store.
        TesseraeError: There are neither vectors nor a hierarchy.
    """
    classes = read_classes(where)
    graph: Hierarchy | None = None
    if vectors is None:
        hierarchy = hierarchy or _installed()
        graph = read_hierarchy(hierarchy)
        found = taxonomy_vectors(graph, classes)
        source = {"file": None, "dim": found.vectors.shape[1]}
    else:
        graph = None if hierarchy is None else read_hierarchy(hierarchy)
        words = read_words(vectors)
        found = class_vectors(words, classes, synonyms=synonyms)
        source = {"file": vectors, "tokens": len(words), "dim": words.dim, "synonyms": synonyms}
    return {
        "source": where,
        "classes": len(classes),
        "vectors": source,
        **_coverage(found),
        "hierarchy": None if graph is None else _place(graph, str(hierarchy), found.wnids),
    }


def named(classes: Sequence[tuple[str, str]], file: str | None) -> tuple[tuple[str, str], ...]:
    """Return (id, names) of classes: of a file, else of the store, else what the id itself says.

    Args:
        classes: (id, names) as the store has them; an id may be a wnid or the name of a folder.
        file: A table of ids and names (`pipeline.sources.classes.name_tables`); None: the store's
            names.

    Raises:
        TesseraeError: The file is none, or names none of the classes; or, without one, they are
            wnids without names.
    """
    table = {} if file is None else _table_of(file, [key for key, _ in classes])
    found = tuple((key, table.get(key) or words or names_of_id(key)) for key, words in classes)
    if not any(words for _, words in found):
        raise TesseraeError(
            f"the store has no names of its {len(classes)} classes, only wnids such as"
            f" {classes[0][0]}: pass --names, a file with an id and names on each line, such as"
            " ImageNet's LOC_synset_mapping.txt."
        )
    return found


def _table_of(file: str, ids: Sequence[str]) -> dict[str, str]:
    path = Path(file)
    if not path.is_file():
        raise TesseraeError(
            f"--names is {file}, which is no file: expected an id and names on each line."
        )
    table = parse_names(decode_table(path.read_bytes(), file, lenient=True), ids)
    if table.keys().isdisjoint(ids):
        raise TesseraeError(
            f"{file} names none of the store's {len(ids)} classes, such as {ids[0]!r}: expected"
            " lines of such an id, then a tab, comma or space, and names."
        )
    return table


def read_classes(where: str) -> list[tuple[str, str]]:
    """Return (id, names) of a store's classes, or of the lines of a file.

    Raises:
        SourceError: The file has no such line.
        StoreError: There is no store.
    """
    path = Path(where)
    if not path.is_file():
        return list(records.load_recipe(open_objects(where)).classes)
    try:
        classes = parse_names(decode_table(path.read_bytes(), where, lenient=True))
    except SourceError:  # no text at all
        classes = {}
    if not classes or all(map(_is_vector, classes.values())):
        raise SourceError(
            f"{where} has no line of an id and names (n01440764 tench, Tinca tinca): expected a"
            " store, or a table such as LOC_synset_mapping.txt."
        )
    return list(classes.items())


def _is_vector(names: str) -> bool:
    """Return True for the numbers of a vector: the file is one of word vectors."""
    numbers = names.split()
    try:
        return len(numbers) > 1 and [float(number) for number in numbers] != []
    except ValueError:
        return False


def _installed() -> str:
    if not (WORDNET / "data.noun").is_file():
        raise TesseraeError(
            "there are neither word vectors nor a taxonomy to derive some from: name --vectors FILE"
            " or --hierarchy FILE, or install WordNet (Debian: the package wordnet-base)."
        )
    return str(WORDNET)


def _coverage(found: ClassVectors) -> dict[str, Any]:
    names = dict(zip(found.wnids, found.names, strict=True))
    alike = [set(wnids) for wnids in found.alike]
    return {
        "coverage": found.coverage(),
        "missing": [{"wnid": wnid, "words": names[wnid]} for wnid in found.missing],
        "homonyms": [
            {"name": name, "wnids": wnids, "alike": any(set(wnids) <= same for same in alike)}
            for name, wnids in found.homonyms.items()
        ],
        "alike": found.alike,
    }


def _place(graph: Hierarchy, where: str, wnids: Sequence[str]) -> dict[str, Any]:
    inside = [wnid for wnid in wnids if wnid in graph]
    near = {hops: len(graph.within(inside, hops)) for hops in HOPS}
    return {
        "where": where,
        "nouns": len(graph),
        "classes": len(inside),
        "missing": [wnid for wnid in wnids if wnid not in graph],
        "within_hops": {str(hops): count for hops, count in near.items()},
        "correct_sets": _correct_sets(graph, inside) if len(inside) <= SETS_OF else None,
    }


def _correct_sets(graph: Hierarchy, wnids: Sequence[str]) -> dict[str, float]:
    """Answers looked at -> mean size of the sets that hierarchical precision counts as right."""
    valid = frozenset(wnids)
    return {
        str(k): sum(len(graph.correct_set(wnid, k, valid)) for wnid in wnids) / len(wnids)
        for k in ANSWERS
        if k <= len(wnids)
    }


def lines(facts: dict[str, Any], limit: int | None) -> list[str]:
    """The same for a person."""
    out = [f"{facts['source']}  {_classes(facts['classes'])}", _vectors_line(facts)]
    out += [
        f"    {count:>7,}  {share_text(count, facts['classes']):>7}  {SAID[how]}"
        for how, count in facts["coverage"].items()
        if count or how == "none"
    ]
    missing = [f"{one['wnid']}  {one['words']}" for one in facts["missing"]]
    out += _listed("without a vector", missing, limit)
    homonyms = [
        f"{one['name']}  {' '.join(one['wnids'])}{'  (one vector)' * one['alike']}"
        for one in facts["homonyms"]
    ]
    out += _listed("names of several classes", homonyms, limit)
    shared = [" ".join(wnids) for wnids in facts["alike"]]
    out += _listed("classes that share one vector, and cannot be told apart", shared, limit)
    if facts["hierarchy"] is not None:
        out += _hierarchy_lines(facts["hierarchy"], limit)
    return [printable(line) for line in out]


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count:,} classes"


def _vectors_line(facts: dict[str, Any]) -> str:
    source = facts["vectors"]
    if source["file"] is None:
        return (
            f"  vectors  derived from the taxonomy, no word is known: {source['dim']:,} numbers"
            " (--vectors FILE reads some)"
        )
    return (
        f"  vectors  {source['file']}: {counted(source['tokens'], 'token')},"
        f" {source['dim']:,} numbers; synonyms: {source['synonyms']}"
    )


def _listed(what: str, entries: Sequence[str], limit: int | None) -> Iterable[str]:
    if not entries:
        return []
    shown = [f"      {entry}" for entry in entries[:limit]]
    if len(entries) > len(shown):
        shown.append(f"      ... and {len(entries) - len(shown):,} more (--all)")
    return [f"    {what}: {len(entries):,}", *shown]


def _hierarchy_lines(place: dict[str, Any], limit: int | None) -> list[str]:
    out = [
        f"  hierarchy  {place['where']}: {counted(place['nouns'], 'noun')}, among them"
        f" {_classes(place['classes'])}"
    ]
    out += _listed("not in it", place["missing"], limit)
    out += [
        f"    {count:>7,}  others within {counted(int(hops), 'hop')}"
        for hops, count in place["within_hops"].items()
    ]
    if place["nouns"] >= WORDNET_NOUNS and place["classes"] == PAPER_CLASSES:
        out += [f"      {line}" for line in NOTE]
    if place["correct_sets"]:
        means = ", ".join(f"{mean:.2f} for {k}" for k, mean in place["correct_sets"].items())
        out.append(f"    classes that count as right in hp@k, on average: {means} answers")
    return out
