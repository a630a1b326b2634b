"""Show which classes have a word vector, and their position in the WordNet hierarchy.

The classes come from a store, or from a text file with a class id and its names on each line
(LOC_synset_mapping.txt, words.txt). The vectors come from a word2vec, GloVe or fastText file.
Without a file they are derived from the hierarchy, so that nothing needs to be downloaded.
"""

from __future__ import annotations

import argparse

from pipeline.wordvectors.hierarchy import WORDNET
from pipeline.wordvectors.vectors import SYNONYMS

IMPLEMENTATION = "workflows.devise.class_names"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae words`."""
    parser.add_argument(
        "classes",
        metavar="STORE_OR_TABLE",
        help="folder or URL of a store, or a text file with a class id and its names on each line",
    )
    parser.add_argument(
        "--vectors",
        metavar="FILE",
        help="word vectors: word2vec (text or binary), GloVe or fastText .vec (default: derive"
        " vectors from --hierarchy)",
    )
    parser.add_argument(
        "--hierarchy",
        metavar="FILE_OR_FOLDER",
        help="is-a hierarchy: a file of `parent child` lines, or WordNet's database folder"
        f" (default: {WORDNET}, of Debian's package wordnet-base)",
    )
    parser.add_argument(
        "--synonyms",
        choices=SYNONYMS,
        default="mean",
        help="how a class with several names gets its vector: from the first name, or as the mean"
        " over all names that have one (default mean)",
    )
    parser.add_argument("--json", action="store_true", help="print all facts as one JSON document")
    parser.add_argument(
        "--all", action="store_true", help="list every class and name (default: a summary)"
    )
