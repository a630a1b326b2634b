"""The options of `tesserae words`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from pipeline.wordvectors.hierarchy import WORDNET
from workflows.options.fields import Options, argument, option
from workflows.options.shared import synonyms_option


@dataclass(frozen=True, kw_only=True)
class WordsOptions(Options):
    """The options of `tesserae words`."""

    FORMER_NAMES = MappingProxyType({"vectors": "word_vectors"})

    classes: str = argument(
        "folder or URL of a store, or a text file with a class id and its names on each line",
        metavar="STORE_OR_TABLE",
    )
    word_vectors: str | None = option(
        None,
        "word vectors: word2vec (text or binary), GloVe or fastText .vec",
        implied="derive vectors from --hierarchy",
        metavar="FILE",
    )
    hierarchy: str | None = option(
        None,
        "is-a hierarchy: a file of `parent child` lines, or WordNet's database folder",
        implied=f"{WORDNET}, of Debian's package wordnet-base",
        metavar="FILE_OR_FOLDER",
    )
    synonyms: str = synonyms_option()
    json: bool = option(False, "print all facts as one JSON document")
    all: bool = option(False, "list every class and name", implied="a summary")
