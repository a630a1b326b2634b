"""The options of the studies of vectors: word vectors, or features of a store."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options.fields import option
from workflows.studies.options import RecordedStudyOptions


@dataclass(frozen=True, kw_only=True)
class VectorStudyOptions(RecordedStudyOptions):
    """The options that say which vectors a study measures."""

    word_vectors: str | None = option(
        None,
        "file of word vectors: word2vec, GloVe or fastText",
        implied="none",
        metavar="FILE",
    )
    store: str | None = option(
        None,
        "folder or URL of a store, whose features are measured",
        implied="none",
        metavar="STORE",
    )
    features: str | None = option(
        None, "name of the store's features", implied="the only ones", metavar="NAME"
    )
    split: str = option("train", "split of the store that is searched", metavar="SPLIT")
    query_split: str = option(
        "val", "split of the store whose images are the queries", metavar="SPLIT"
    )
    max_vectors: int = option(
        100_000,
        "number of vectors to read at most: of words the most frequent ones, of a store its first"
        " rows, which are in random order",
        minimum=1_000,
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: A value is not allowed, there are no vectors, or a query would be its own
                answer.
        """
        super().__post_init__()
        if self.word_vectors is None and self.store is None:
            raise ValueError(
                "there are no vectors to measure: expected --word-vectors FILE or --store STORE."
            )
        if self.features is not None and self.store is None:
            raise ValueError(
                f"--features is {self.features}, but there is no store: expected --store STORE."
            )
        if self.store is not None and self.split == self.query_split:
            raise ValueError(
                f"--split and --query-split are both {self.split}: expected two splits, so that no"
                " image is its own answer."
            )
