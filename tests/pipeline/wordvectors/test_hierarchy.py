"""Positions of classes in WordNet: hops, hop sets and correct sets, against plain walks."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources.text_tables import parse_words
from pipeline.wordvectors.hierarchy import NO_PATH, WORDNET, Hierarchy, read_hierarchy

Edge = tuple[str, str]

GOLDEN = [
    [-0.697705, 0.20082042, 0.06873719, 0.38951075, 0.5090146, 0.23945701],
    [0.55471486, 0.1342488, 0.04595093, -0.7607432, 0.16007742, -0.2603886],
]

NODES = [f"n{number:08d}" for number in range(9)]
DAGS = st.sets(
    st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda pair: pair[0] < pair[1])
).map(lambda pairs: {(NODES[up], NODES[down]) for up, down in pairs})

#            entity
#       animal      vehicle
#   cat    bird      car
#  tabby  owl hen
KINDS = [
    ("entity", "animal"),
    ("entity", "vehicle"),
    ("animal", "cat"),
    ("animal", "bird"),
    ("vehicle", "car"),
    ("cat", "tabby"),
    ("bird", "owl"),
    ("bird", "hen"),
]

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by\n"
NOUNS = LICENCE + (
    "00001740 03 n 01 entity 0 002 ~ 00002137 n 0000 ~ 00015388 n 0000 | that which is\n"
    "00002137 03 n 02 abstraction 0 abstract_entity 0 001 @ 00001740 n 0000 | a concept | or two\n"
    "00015388 05 n 0b a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 k 0 003 @ 00001740 n 0000"
    " + 02700104 a 0101 @ 00002137 n 0000 | eleven names, two parents, a pointer to an adjective\n"
    "02084071 05 n 01 Rex 0 001 @i 00015388 n 0000 | one dog is no kind of dog\n"
)


def walk(edges: Iterable[Edge], start: str) -> dict[str, int]:
    """Return the hops to every reachable node, by a breadth-first walk over a list of edges."""
    hops_to, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for up, down in edges:
            for node_of_edge, neighbour in ((up, down), (down, up)):
                if node_of_edge == node and neighbour not in hops_to:
                    hops_to[neighbour] = hops_to[node] + 1
                    queue.append(neighbour)
    return hops_to


def nearest_kept(edges: set[Edge], node: str, keep: set[str]) -> set[str]:
    """Return the parents of *node* when only *keep* is left, by walking every path up."""
    nearest: set[str] = set()
    for up in (up for up, down in edges if down == node):
        nearest |= {up} if up in keep else nearest_kept(edges, up, keep)
    return nearest


def test_rings_grow_by_one_hop() -> None:
    """Parents and children count alike, and every node comes once."""
    rings = list(Hierarchy(KINDS).nodes_by_hops(["cat"]))
    assert rings == [
        {"cat"},
        {"animal", "tabby"},
        {"entity", "bird"},
        {"vehicle", "owl", "hen"},
        {"car"},
    ]
    assert list(Hierarchy(KINDS).nodes_by_hops(["unknown"])) == [{"unknown"}]
    assert list(Hierarchy(KINDS).nodes_by_hops([])) == []


def test_nodes_within_hops_exclude_the_start() -> None:
    """The sets of unseen classes are counted in this way."""
    kinds = Hierarchy(KINDS)
    assert kinds.neighbours_within(["cat", "car"], 0) == set()
    assert kinds.neighbours_within(["cat", "car"], 1) == {"animal", "tabby", "vehicle"}
    assert kinds.neighbours_within(["cat", "car"], 2) == {
        "animal",
        "tabby",
        "vehicle",
        "entity",
        "bird",
    }
    assert kinds.neighbours_within(["cat", "animal"], 1) == {"tabby", "bird", "entity"}


@given(edges=DAGS, start=st.sets(st.sampled_from(NODES), min_size=1), hops=st.integers(0, 9))
def test_rings_and_hop_sets_match_a_plain_walk(
    edges: set[Edge], start: set[str], hops: int
) -> None:
    """Hops count from the nearest of several starts."""
    kinds = Hierarchy(edges)
    walks = [walk(edges, node_of_start) for node_of_start in start]
    nearest = {node: min(each.get(node, NO_PATH) for each in walks) for node in set().union(*walks)}
    rings = list(kinds.nodes_by_hops(start))
    assert {node: hop for hop, ring in enumerate(rings) for node in ring} == nearest
    assert sum(map(len, rings)) == len(nearest)
    assert kinds.neighbours_within(start, hops) == {
        node for node, hop in nearest.items() if 0 < hop <= hops
    }


@given(edges=DAGS, wnids=st.lists(st.sampled_from([*NODES, "unknown"]), max_size=9))
def test_distances_match_a_plain_walk(edges: set[Edge], wnids: list[str]) -> None:
    """Nodes may be missing in the graph, or requested twice."""
    expected = [[walk(edges, origin).get(target, NO_PATH) for target in wnids] for origin in wnids]
    distances = Hierarchy(edges).distances(wnids)
    assert distances.dtype == np.int16
    assert distances.tolist() == expected


def test_distances_of_more_than_64_classes_are_right() -> None:
    """The walks are stored as bits of machine words, of which 200 classes need several."""
    names = [f"n{number}" for number in range(200)]
    distances = Hierarchy(pairwise(names)).distances(names)
    positions = np.arange(200)
    assert np.array_equal(distances, np.abs(positions[:, None] - positions))


@given(
    edges=DAGS,
    valid=st.sets(st.sampled_from(NODES), min_size=1),
    label=st.sampled_from(NODES),
    k=st.integers(1, 12),
)
def test_the_correct_set_is_the_smallest_radius_with_k_nodes(
    edges: set[Edge], valid: set[str], label: str, k: int
) -> None:
    """The oracle sorts all hops, as the paper describes the set."""
    kinds = Hierarchy(edges)
    valid = valid | {label}
    if label not in kinds:
        with pytest.raises(ValueError, match="is in the hierarchy"):
            kinds.correct_set(label, k, valid)
        return
    hops = {node: walk(edges, label).get(node, math.inf) for node in valid}
    radius = sorted([*hops.values(), *[math.inf] * k])[k - 1]
    expected = {node for node, hop in hops.items() if hop <= radius}
    assert kinds.correct_set(label, k, valid) == expected
    assert kinds.correct_set(label, k, sorted(valid)) == expected
    assert kinds.correct_set(label, 1, valid) == {label}


def test_hierarchical_precision_matches_a_count_by_hand() -> None:
    """A cousin is right among five answers and wrong among two; alone, only the label is."""
    kinds = Hierarchy(KINDS)
    valid = ["cat", "tabby", "owl", "hen", "car"]
    assert kinds.correct_set("owl", 2, valid) == {"owl", "hen"}
    assert kinds.correct_set("owl", 3, valid) == {"owl", "hen", "cat"}
    assert kinds.correct_set("owl", 4, valid) == {"owl", "hen", "cat", "tabby"}
    assert kinds.correct_set("cat", 3, valid) == {"cat", "tabby", "owl", "hen"}
    assert kinds.precision("owl", ["owl"], valid) == 1
    assert kinds.precision("owl", ["hen"], valid) == 0
    assert kinds.precision("owl", ["hen", "cat"], valid) == 0.5
    assert kinds.precision("owl", ["car", "hen", "cat"], valid) == pytest.approx(2 / 3)
    assert kinds.precision("owl", ["car", "hen", "cat", "tabby", "owl"], valid) == 1


def test_returned_sets_are_copies() -> None:
    """Changing one changes neither the graph nor the valid classes."""
    kinds, valid = Hierarchy(KINDS), {"cat", "owl"}
    kinds.correct_set("cat", 5, valid).add("more")
    next(kinds.nodes_by_hops(["cat"])).add("more")
    assert valid == {"cat", "owl"}
    assert kinds.neighbours_within(["cat"], 1) == {"animal", "tabby"}
    assert "more" not in kinds


@pytest.mark.parametrize(
    ("label", "k", "valid"), [("dog", 1, ["dog"]), ("cat", 1, ["owl"]), ("cat", 0, ["cat"])]
)
def test_an_impossible_correct_set_is_refused(label: str, k: int, valid: list[str]) -> None:
    """A label outside the graph would make every answer right."""
    with pytest.raises(ValueError, match=f"no correct set of {k} classes for '{label}'"):
        Hierarchy(KINDS).correct_set(label, k, valid)


def test_a_narrowed_graph_has_the_nearest_remaining_parents() -> None:
    """A node without remaining ancestors is a child of the given root."""
    left = Hierarchy(KINDS).restricted_to(["animal", "tabby", "owl", "car", "ghost"], "root")
    assert left.edges == {
        ("root", "animal"),
        ("animal", "tabby"),
        ("animal", "owl"),
        ("root", "car"),
        ("root", "ghost"),
    }


def test_the_root_of_a_narrowed_graph_has_no_parent() -> None:
    """A root that is listed among the nodes is not a child of itself."""
    edges = [("top", "root"), ("root", "cat")]
    assert Hierarchy(edges).restricted_to(["root", "cat"], "root").edges == {("root", "cat")}


@given(edges=DAGS, keep=st.sets(st.sampled_from(NODES)))
def test_a_narrowed_graph_matches_every_path_up(edges: set[Edge], keep: set[str]) -> None:
    """The oracle walks up every path from a node to its remaining ancestors."""
    expected = {(up, node) for node in keep for up in nearest_kept(edges, node, keep) or {"root"}}
    assert Hierarchy(edges).restricted_to(keep, "root").edges == expected


def test_ancestors_have_their_smallest_number_of_steps() -> None:
    """The search ends even if a faulty file has cycles."""
    kinds = Hierarchy([*KINDS, ("entity", "cat")])
    assert kinds.ancestors("tabby") == {"tabby": 0, "cat": 1, "animal": 2, "entity": 2}
    assert kinds.ancestors("entity") == {"entity": 0}
    circle = Hierarchy([("a", "b"), ("b", "a"), ("a", "a")])
    assert circle.ancestors("a") == {"a": 0, "b": 1}
    assert circle.neighbours_within(["a"], 5) == {"b"}


@given(depths=st.tuples(st.integers(1, 6), st.integers(1, 6)), name=st.text(max_size=5))
def test_vectors_of_siblings_are_nearer_than_those_of_unrelated_nodes(
    depths: tuple[int, int], name: str
) -> None:
    """Neither the depth nor the names of nodes matter."""
    tree = []
    for side, depth in zip("lr", depths, strict=True):
        chain = ["root", *(f"{side}{name}{step}" for step in range(depth))]
        tree += [*pairwise(chain), (chain[-1], f"{side} one"), (chain[-1], f"{side} other")]
    vector, sibling, stranger = Hierarchy(tree).vectors(["l one", "l other", "r one"], 1024)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert vector @ sibling > vector @ stranger + 0.1


def test_vectors_are_the_documented_sum() -> None:
    """A vector is the sum of the codes of all ancestors, weighted by 0.7 for each step."""
    kinds = Hierarchy(KINDS)
    above = ("owl", "bird", "animal", "entity")
    codes = {node: Hierarchy([]).vectors([node], 32)[0] for node in above}
    expected = sum(0.7**n * codes[node].astype(np.float64) for n, node in enumerate(codes))
    assert np.allclose(
        kinds.vectors(["owl"], 32)[0], expected / np.linalg.norm(expected), atol=1e-6
    )
    assert kinds.vectors([], 8).shape == (0, 8)


def test_a_class_whose_codes_cancel_out_has_its_own_code() -> None:
    """In one dimension each code is 1 or -1, so the sum over ancestors may be zero."""
    nodes = [f"n{number:08d}" for number in range(40)]
    chain = Hierarchy(pairwise(nodes))
    vectors = chain.vectors(nodes, 1, decay=1.0)
    sums = np.cumsum(Hierarchy([]).vectors(nodes, 1), axis=0)
    assert (sums == 0).any()
    assert np.array_equal(vectors[sums == 0], Hierarchy([]).vectors(nodes, 1)[sums == 0])
    assert np.array_equal(np.abs(vectors), np.ones((40, 1)))


def test_vectors_are_the_same_on_every_machine() -> None:
    """Trained models need the same vectors again, so they are compared with golden numbers."""
    vectors = Hierarchy(KINDS).vectors(["owl", "tabby"], 6)
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, GOLDEN, atol=1e-6)


@pytest.fixture(scope="module")
def imagenet_hierarchy(real_data: Path) -> Hierarchy:
    """Return the graph of all classes of ImageNet, which no test changes."""
    return read_hierarchy(real_data / "meta" / "wordnet.parent-child.txt")


def test_real_related_classes_are_nearer_than_unrelated_ones(
    real_data: Path, imagenet_hierarchy: Hierarchy
) -> None:
    """For four in five, the most similar vector is at most one hop farther than the nearest."""
    wnids = list(parse_words((real_data / "meta" / "LOC_synset_mapping.txt").read_text()))
    kinds = imagenet_hierarchy
    vectors = kinds.vectors(wnids[::4], 256)
    alike = vectors @ vectors.T - 2 * np.eye(len(vectors), dtype=np.float32)
    hops = kinds.distances(wnids[::4])
    nearest = hops + NO_PATH * np.eye(len(hops), dtype=np.int32)
    hops_of_most_similar = hops[np.arange(len(hops)), alike.argmax(1)]
    assert np.mean(hops_of_most_similar <= nearest.min(1) + 1) > 0.8


# --- files ----------------------------------------------------------------------------------------


def test_edges_are_read_from_lines_of_parent_and_child(tmp_path: Path) -> None:
    """Separators, a byte order mark, comments and empty lines are handled."""
    file = tmp_path / "edges.txt"
    file.write_bytes(b"\xef\xbb\xbfanimal cat\r\n\n# kinds of birds\nanimal\tbird\nanimal cat\n")
    assert read_hierarchy(file).edges == {("animal", "cat"), ("animal", "bird")}
    assert len(read_hierarchy(file)) == 3


def test_edges_are_read_from_wordnet(tmp_path: Path) -> None:
    """Only hypernyms count; the word count is hexadecimal; a folder or a file may be given."""
    (tmp_path / "data.noun").write_text(NOUNS)
    expected = {
        ("n00001740", "n00002137"),
        ("n00001740", "n00015388"),
        ("n00002137", "n00015388"),
    }
    assert read_hierarchy(tmp_path).edges == expected
    assert read_hierarchy(tmp_path / "data.noun").edges == expected


def test_a_truncated_line_of_wordnet_is_refused(tmp_path: Path) -> None:
    """The line may be cut anywhere before its last pointer."""
    line = "00015388 05 n 01 animal 0 002 @ 00001740 n 0000 @ 00002137 n 0000 | a living thing"
    for keep in range(5, line.rindex("0000")):
        (tmp_path / "data.noun").write_text(LICENCE + line[:keep])
        with pytest.raises(SourceError, match=r"data\.noun (line 2 is '00015|has no edge)"):
            read_hierarchy(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no edge"),
        (b"# nothing\n", "has no edge"),
        (b"n01440764 tench, Tinca tinca\n", "line 1 is 'n01440764 tench, Tinca tinca': expected"),
        (b"a b\nn01440764\n", "line 2 is 'n01440764': expected `parent child`"),
        (b"\xff\xfea\0 \0b", "is not a text file"),
    ],
)
def test_a_file_without_edges_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    """The error quotes the line."""
    file = tmp_path / "edges.txt"
    file.write_bytes(data)
    with pytest.raises(SourceError, match=message):
        read_hierarchy(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The error says where to get WordNet."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SourceError, match=r"No such file.*wordnet-base"):
            read_hierarchy(path)


@pytest.mark.skipif(not WORDNET.is_dir(), reason="WordNet is not installed")
@pytest.mark.slow
def test_the_installed_wordnet_equals_imagenets(real_data: Path) -> None:
    """All edges are equal."""
    listed = read_hierarchy(real_data / "meta" / "wordnet.parent-child.txt")
    assert read_hierarchy(WORDNET).edges == listed.edges


def test_hop_sets_of_ilsvrc_have_nearly_the_papers_sizes(
    real_data: Path, imagenet_hierarchy: Hierarchy
) -> None:
    """The sizes are those in WordNet, and in WordNet without the nouns that had no images in 2011.

    The paper's 2-hop and 3-hop sets are 1,589 and 7,860: one and two edges of the latter graph.
    """
    split = json.loads((real_data / "meta" / "imagenet-zsl-split.json").read_text())
    seen, unseen = split["train"], set(split["test"])
    kinds = imagenet_hierarchy
    near = [kinds.neighbours_within(seen, hops) for hops in (1, 2, 3)]
    assert [len(each) for each in near] == [1648, 6571, 11183]
    assert [len(each & unseen) for each in near] == [1548, 5989, 9705]
    pictured = kinds.restricted_to([*seen, *unseen], "root")
    near = [pictured.neighbours_within(seen, hops) & unseen for hops in (1, 2, 3)]
    assert [len(each) for each in near] == [1572, 7918, 13022]
    for hop_set, paper in zip(near, (1589, 7860), strict=False):
        assert len(hop_set) == pytest.approx(paper, rel=0.02)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(
            "wordnet.parent-child.txt",
            {2: 4.541, 5: 9.478, 10: 17.986, 20: 33.816},
            marks=pytest.mark.slow,
        ),
        ("imagenet_isa.txt", {2: 4.803, 5: 9.789, 10: 17.630, 20: 33.583}),
    ],
)
def test_correct_sets_of_ilsvrc_have_known_sizes(
    real_data: Path, file: str, expected: dict[int, float]
) -> None:
    """The means are a fifth to a third below the paper's 6.5, 12.5, 22.5 and 41.7."""
    seen = list(parse_words((real_data / "meta" / "LOC_synset_mapping.txt").read_text()))
    kinds, valid = read_hierarchy(real_data / "meta" / file), frozenset(seen)
    for (k, mean), paper in zip(expected.items(), (6.5, 12.5, 22.5, 41.7), strict=True):
        sizes = [len(kinds.correct_set(wnid, k, valid)) for wnid in seen]
        assert min(sizes) >= k
        assert np.mean(sizes) == pytest.approx(mean, abs=1e-9)
        assert 0.65 < np.mean(sizes) / paper < 1


@pytest.mark.parametrize(
    "data",
    [
        b"a b\nb c\n",
        b"\xef\xbb\xbfa b\r\nb c\r\n",
        b"a\tb\nb\tc",
        b"a,b\r\nb,c\r\n",
        b'"a";"b"\n"b";"c"\n',
        "a b\nb c\n".encode("utf-16"),
        b"# a note\n\n  a   b  \rb c\r",
    ],
)
def test_edges_are_read_in_every_notation(data: bytes, tmp_path: Path) -> None:
    """Separators, line ends and marked encodings vary."""
    (tmp_path / "edges").write_bytes(data)
    assert read_hierarchy(tmp_path / "edges").edges == {("a", "b"), ("b", "c")}


def test_an_id_may_have_spaces_between_tabs(tmp_path: Path) -> None:
    """Folders of images may have such names."""
    (tmp_path / "edges").write_text("animal\tbig cat\nbig cat\ttiger\n")
    assert read_hierarchy(tmp_path / "edges").edges == {
        ("animal", "big cat"),
        ("big cat", "tiger"),
    }


@pytest.mark.parametrize("text", ["a, b\nc, d\n", "a; b\nc; d\n", '"a", "b"\n"c", "d"\n'])
def test_a_space_beside_a_separator_is_no_separator(tmp_path: Path, text: str) -> None:
    """Each of these lines has two words, too, but its ids do not end in the separator."""
    file = tmp_path / "pairs.txt"
    file.write_text(text)
    assert read_hierarchy(file).edges == {("a", "b"), ("c", "d")}
