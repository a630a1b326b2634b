"""Say which classes have a word vector, and where they stand in WordNet.

Classes are those of a store, or of a text file with an id and names on each line
(LOC_synset_mapping.txt, words.txt). Vectors are read from a file of word2vec, GloVe or fastText;
without one they are derived from the taxonomy, so that nothing needs to be downloaded.
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
        help="folder or URL of a store, or a text file with an id and names on each line",
    )
    parser.add_argument(
        "--vectors", metavar="FILE", help="of word2vec (text or binary), GloVe, fastText (.vec)"
    )
    parser.add_argument(
        "--hierarchy",
        metavar="FILE_OR_FOLDER",
        help=f"a file of `parent child` lines, or WordNet's folder (Debian: {WORDNET})",
    )
    parser.add_argument(
        "--synonyms",
        choices=SYNONYMS,
        default="mean",
        help="which names of a class count: the first, or the mean of all found (mean)",
    )
    parser.add_argument("--json", action="store_true", help="everything, for a program")
    parser.add_argument("--all", action="store_true", help="list every class and name")
