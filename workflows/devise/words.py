"""The implementation of `tesserae words`: word vectors and WordNet nouns of a set of classes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError, TesseraeError
from pipeline.sources.classes.name_tables import parse_names
from pipeline.sources.text_tables import decode_table
from pipeline.store import records
from pipeline.store.open import open_objects
from pipeline.wordvectors.files import read_word_vectors
from pipeline.wordvectors.hierarchy import WORDNET, Hierarchy, read_hierarchy
from pipeline.wordvectors.vectors import (
    ClassVectors,
    class_vectors,
    names_of_id,
    taxonomy_vectors,
)
from workflows.devise.words_options import WordsOptions
from workflows.terminal.formatting import counted, printable, share_text

MAX_LISTED = 20
"""The number of entries of each list that are printed without --all."""

HOPS = (1, 2, 3)
"""The numbers of hops within which nouns around the classes are counted."""
ANSWERS = (2, 5, 10, 20)
"""The numbers k of answers for which hierarchical precision is usually reported."""
MAX_CLASSES_WITH_SETS = 5_000
"""The number of classes up to which correct sets are computed: 1,000 classes take two seconds."""

COVERAGE_LABELS = {
    "token": "from a token that equals a name",
    "words": "from the mean over the words of a name",
    "taxonomy": "from the hierarchy",
    "none": "without a vector",
}
"""The names in the output of where the vectors of classes come from."""
PAPER_CLASSES, WORDNET_NOUNS = 1_000, 70_000
"""The classes of ILSVRC, and the fewest nouns of a complete WordNet. `NOTE` applies to both."""
NOTE = (
    "These counts include nouns without images. Frome et al. (2013) have 1,589 nouns in the 2-hop",
    "and 7,860 in the 3-hop set of the 1,000 classes, all with images in the ImageNet of 2011. Of",
    "those, 1,572 lie within 1 hop and 7,918 within 2: they seem to count the class as one hop.",
)


def run_words(options: WordsOptions) -> int:
    """Print the coverage of classes by word vectors.

    Args:
        options: `classes`, `word_vectors`, `hierarchy` and `synonyms`, which are the arguments of
            `word_coverage`, such as `WordsOptions(classes="store", word_vectors="glove.txt")`;
            `json`, True to print its result as JSON rather than as lines; and `all`, True for lists
            in full, otherwise 20 entries of each.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: A file is missing or has another format than expected, there is no store, or
            there are neither vectors nor a hierarchy.
    """
    facts = word_coverage(
        options.classes, options.word_vectors, options.hierarchy, synonyms=options.synonyms
    )
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=True))
        return 0
    for line in coverage_lines(facts, limit=None if options.all else MAX_LISTED):
        print(line)
    return 0


def word_coverage(
    where: str, vectors: str | None, hierarchy: str | None, *, synonyms: str = "mean"
) -> dict[str, Any]:
    """Return the coverage of classes by word vectors as plain JSON values.

    Args:
        where: The path or URL of a store, or the path of a file as `read_classes` takes it, with an
            id (such as a wnid) and names on each line.
        vectors: The path of a file of word vectors, as word2vec, GloVe or fastText write it, plain
            or in gzip; None: vectors are derived from the hierarchy.
        hierarchy: The path of a file with the wnids of a parent and a child on each line, separated
            by a space, tab, semicolon or comma, or of WordNet's folder. None is Debian's WordNet if
            *vectors* is None too, and no hierarchy otherwise.
        synonyms: The names of a class that form its vector: "first", its first name alone, or
            "mean", the mean of all names that are one token, otherwise of all that are made of
            words. It has no effect without *vectors*.

    Returns:
        A dictionary with `source`, which is *where*; `classes`, their number; `vectors`, a
        dictionary with `file`, which is *vectors*, and `dim`, the dimension, and with a file also
        `tokens`, their number, and `synonyms`; `coverage`, the number of classes by the origin of
        their vectors, `token` (a name is one token), `words` (the mean of its words), `taxonomy`
        (the hierarchy) or `none`; `missing`, a dictionary with `wnid` and `words` for each class
        without a vector; `homonyms`, a dictionary for each name that gave several classes their
        vector, with the `name` in lower case, the `wnids` of these classes, and `alike`, True if
        all their vectors are equal; `alike`, lists of the wnids of classes with equal vectors; and
        `hierarchy`, None without one. It has `where`, its path; `nouns`, its number of nodes;
        `classes`, how many of the classes it has; `missing`, the wnids of the others;
        `within_hops`, the number of other nodes within "1", "2" and "3" hops of a class; and
        `correct_sets`, the mean number of classes that hierarchical precision at k counts as right,
        by k ("2", "5", "10", "20", as far as there are so many classes), or None above 5,000
        classes.

    Raises:
        SourceError: A file is missing, or has another format than expected.
        StoreError: There is no store.
        TesseraeError: There are neither vectors nor a hierarchy.
        ValueError: *synonyms* has another value, with *vectors*.
    """
    classes = read_classes(where)
    graph: Hierarchy | None = None
    if vectors is None:
        hierarchy = hierarchy or _installed_wordnet()
        graph = read_hierarchy(hierarchy)
        vectors_of_classes = taxonomy_vectors(graph, classes)
        source = {"file": None, "dim": vectors_of_classes.vectors.shape[1]}
    else:
        graph = None if hierarchy is None else read_hierarchy(hierarchy)
        words = read_word_vectors(vectors)
        vectors_of_classes = class_vectors(words, classes, synonyms=synonyms)
        source = {"file": vectors, "tokens": len(words), "dim": words.dim, "synonyms": synonyms}
    return {
        "source": where,
        "classes": len(classes),
        "vectors": source,
        **_coverage(vectors_of_classes),
        "hierarchy": None
        if graph is None
        else _hierarchy_facts(graph, str(hierarchy), vectors_of_classes.wnids),
    }


def names_of_classes(
    classes: Sequence[tuple[str, str]], file: str | None
) -> tuple[tuple[str, str], ...]:
    """Return the (id, names) of classes, from a file, else the store, else the ids themselves.

    Args:
        classes: The (id, names) of the store's classes by label; an id is a wnid or the name of a
            folder, and names may be empty.
        file: The path of a table, whose lines have an id, then a tab, semicolon, comma or space,
            and names, such as `n01440764 tench, Tinca tinca`; the separator is the one by which the
            most of the ids are found. None: the store's names. A class that the file lacks has the
            store's names.

    Returns:
        The pairs in the order of *classes*, with names separated by commas. The names of a class
        that has none are its id with spaces between its words, or empty for a wnid.

    Raises:
        TesseraeError: The file does not exist or names none of the classes; no class has a name; or
            there are no classes.
    """
    if not classes:
        raise TesseraeError(
            "the store has no classes, so that there is nothing to name: prepare it from class"
            " folders or with a table of labels."
        )
    table = {} if file is None else _table_of(file, [key for key, _ in classes])
    named_classes = tuple(
        (key, table.get(key) or words or names_of_id(key)) for key, words in classes
    )
    if not any(words for _, words in named_classes):
        raise TesseraeError(
            f"the store has no names of its {len(classes)} classes, only wnids such as"
            f" {classes[0][0]}: pass --class-names, a file with an id and names on each line, such"
            " as ImageNet's LOC_synset_mapping.txt."
        )
    return named_classes


def _table_of(file: str, ids: Sequence[str]) -> dict[str, str]:
    path = Path(file)
    if not path.is_file():
        raise TesseraeError(
            f"--class-names is {file}, which is not a file: expected an id and names on each line."
        )
    table = parse_names(decode_table(path.read_bytes(), file, lenient=True), ids)
    if table.keys().isdisjoint(ids):
        raise TesseraeError(
            f"{file} names none of the store's {len(ids)} classes, such as {ids[0]!r}: expected"
            " lines of such an id, then a tab, comma or space, and names."
        )
    return table


def read_classes(where: str) -> list[tuple[str, str]]:
    """Return the classes of a store, or those that a file lists.

    Args:
        where: The path or URL of a store, or the path of a file with an id and names on each line,
            such as `n01440764 tench, Tinca tinca`. If any line begins with a wnid, only such lines
            are read. Otherwise the separator behind the id is the first of tab, semicolon, comma
            and space that all lines have, else a space. Lines that begin with # are skipped.

    Returns:
        The (id, names) of each class, by label or in the order of lines; names are separated by
        commas, and empty if the store has none.

    Raises:
        SourceError: The file has no line of an id and names, as one of word vectors has none.
        StoreError: There is no store.
    """
    path = Path(where)
    if not path.is_file():
        return list(records.load_recipe(open_objects(where)).classes)
    try:
        classes = parse_names(decode_table(path.read_bytes(), where, lenient=True))
    except SourceError:  # no text at all
        classes = {}
    # The first line of word2vec's text format holds two counts.
    lines = list(classes.values())
    if not classes or all(map(_is_vector, lines[1:] or lines)):
        raise SourceError(
            f"{where} has no line of an id and names (n01440764 tench, Tinca tinca): expected a"
            " store, or a table such as LOC_synset_mapping.txt."
        )
    return list(classes.items())


def _is_vector(names: str) -> bool:
    """Return True if a line holds the numbers of a vector: the file is one of word vectors."""
    numbers = names.split()
    try:
        return len(numbers) > 1 and [float(number) for number in numbers] != []
    except ValueError:
        return False


def _installed_wordnet() -> str:
    if not (WORDNET / "data.noun").is_file():
        raise TesseraeError(
            "no word vectors and no hierarchy: pass --word-vectors FILE or --hierarchy FILE, or"
            " install WordNet (Debian package wordnet-base)."
        )
    return str(WORDNET)


def _coverage(vectors: ClassVectors) -> dict[str, Any]:
    names = dict(zip(vectors.wnids, vectors.names, strict=True))
    groups = [set(wnids) for wnids in vectors.identical_groups]
    return {
        "coverage": vectors.coverage(),
        "missing": [{"wnid": wnid, "words": names[wnid]} for wnid in vectors.missing],
        "homonyms": [
            {"name": name, "wnids": wnids, "alike": any(set(wnids) <= group for group in groups)}
            for name, wnids in vectors.homonyms.items()
        ],
        "alike": vectors.identical_groups,
    }


def _hierarchy_facts(graph: Hierarchy, where: str, wnids: Sequence[str]) -> dict[str, Any]:
    inside = [wnid for wnid in wnids if wnid in graph]
    near = {hops: len(graph.neighbours_within(inside, hops)) for hops in HOPS}
    return {
        "where": where,
        "nouns": len(graph),
        "classes": len(inside),
        "missing": [wnid for wnid in wnids if wnid not in graph],
        "within_hops": {str(hops): count for hops, count in near.items()},
        "correct_sets": _correct_sets(graph, inside)
        if len(inside) <= MAX_CLASSES_WITH_SETS
        else None,
    }


def _correct_sets(graph: Hierarchy, wnids: Sequence[str]) -> dict[str, float]:
    """Return the mean size of the correct sets of hierarchical precision, by number of answers."""
    valid = frozenset(wnids)
    return {
        str(k): sum(len(graph.correct_set(wnid, k, valid)) for wnid in wnids) / len(wnids)
        for k in ANSWERS
        if k <= len(wnids)
    }


def coverage_lines(facts: dict[str, Any], limit: int | None) -> list[str]:
    """Return the facts of `word_coverage` as lines of text for the terminal, without newlines.

    Args:
        facts: The result of `word_coverage`, which is only read.
        limit: The number of entries of each list that are shown; None: all.
    """
    text = [f"{facts['source']}  {_classes(facts['classes'])}", _vectors_line(facts)]
    text += [
        f"    {count:>7,}  {share_text(count, facts['classes']):>7}  {COVERAGE_LABELS[source]}"
        for source, count in facts["coverage"].items()
        if count or source == "none"
    ]
    missing = [f"{entry['wnid']}  {entry['words']}" for entry in facts["missing"]]
    text += _listed_entries("without a vector", missing, limit)
    homonyms = [
        f"{entry['name']}  {' '.join(entry['wnids'])}{'  (same vector)' * entry['alike']}"
        for entry in facts["homonyms"]
    ]
    text += _listed_entries("names shared by several classes", homonyms, limit)
    shared = [" ".join(wnids) for wnids in facts["alike"]]
    heading = "classes with identical vectors, which no method can distinguish"
    text += _listed_entries(heading, shared, limit)
    if facts["hierarchy"] is not None:
        text += _hierarchy_lines(facts["hierarchy"], limit)
    return [printable(line) for line in text]


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count:,} classes"


def _vectors_line(facts: dict[str, Any]) -> str:
    source = facts["vectors"]
    if source["file"] is None:
        return (
            f"  vectors  derived from the hierarchy, {source['dim']:,} dimensions; pass"
            " --word-vectors FILE to use word vectors"
        )
    return (
        f"  vectors  {source['file']}: {counted(source['tokens'], 'token')}, {source['dim']:,}"
        f" dimensions; synonyms: {source['synonyms']}"
    )


def _listed_entries(title: str, entries: Sequence[str], limit: int | None) -> Iterable[str]:
    if not entries:
        return []
    listed = [f"      {entry}" for entry in entries[:limit]]
    if len(entries) > len(listed):
        listed.append(f"      ... and {len(entries) - len(listed):,} more (--all)")
    return [f"    {title}: {len(entries):,}", *listed]


def _hierarchy_lines(facts: dict[str, Any], limit: int | None) -> list[str]:
    out = [
        f"  hierarchy  {facts['where']}: {counted(facts['nouns'], 'node')}, including"
        f" {_classes(facts['classes'])}"
    ]
    out += _listed_entries("classes that are not in the hierarchy", facts["missing"], limit)
    out += [
        f"    {count:>7,}  other nodes within {counted(int(hops), 'hop')} of a class"
        for hops, count in facts["within_hops"].items()
    ]
    if facts["nouns"] >= WORDNET_NOUNS and facts["classes"] == PAPER_CLASSES:
        out += [f"      {line}" for line in NOTE]
    if facts["correct_sets"]:
        means = ", ".join(f"{mean:.2f} at k = {k}" for k, mean in facts["correct_sets"].items())
        out.append(f"    mean size of the correct set of hp@k: {means}")
    return out
