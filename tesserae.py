"""The public interface of Tesserae: every name that a program needs, loaded when it is first used.

    import tesserae

    tesserae.prepare(...)                        decode and resize a data set into a store
    tesserae.Loader("store", size=224)           shuffled batches for a training loop
    tesserae.view("store", size=72)              a whole split as a dask array
    tesserae.open_features("store", name, ...)   the outputs of a pretrained network
    tesserae.open_engine(Path("runs/devise"))    search by words and by images

`import tesserae` takes milliseconds and imports none of the libraries that these names need: torch
is imported by the first `tesserae.Loader` of tensors, Dask by the first use of `tesserae.prepare`.
`python -m tesserae COMMAND` is the same as `tesserae COMMAND`.

A program that starts worker processes, as `tesserae.prepare` does, must do so below
`if __name__ == "__main__":`, because each worker imports the program's main module.

Names that are not listed here belong to the implementation and may change between versions.
"""

import importlib
import sys

TYPE_CHECKING = False  # not that of `typing`, which takes longer to import than all of this module

if TYPE_CHECKING:  # what type checkers and editors read; a test compares it with `_LOCATIONS`
    from cluster.errors import ClusterError
    from pipeline.augment import Augment, normalise
    from pipeline.errors import (
        DecodeError,
        InvalidDocumentError,
        RankError,
        ReadError,
        SourceError,
        StoreBusyError,
        StoreDamagedError,
        StoreError,
        StoreMismatchError,
        TesseraeError,
    )
    from pipeline.features.loader import FeatureLoader
    from pipeline.features.reader import Features, open_features
    from pipeline.loader import Batch, Crop, Loader, Reading, Staging
    from pipeline.loader.dataset import SplitDataset
    from pipeline.neighbours import Index, SearchResults, recall
    from pipeline.neighbours import load as load_index
    from pipeline.neighbours.build import build as build_index
    from pipeline.view import SplitView, view
    from pipeline.wordvectors.files import read_word_vectors
    from pipeline.wordvectors.hierarchy import Hierarchy, read_hierarchy
    from pipeline.wordvectors.vectors import (
        ClassVectors,
        WordVectors,
        class_vectors,
        taxonomy_vectors,
    )
    from workflows.preparation.features import run_features as features
    from workflows.preparation.options import (
        FeaturesOptions,
        PrepareOptions,
        RepairOptions,
        VerifyOptions,
    )
    from workflows.preparation.prepare import prepare
    from workflows.preparation.repair import run_repair as repair
    from workflows.preparation.verify import run_verify as verify
    from workflows.search.engine import Answer, Engine, SearchOptions, open_engine
    from workflows.search.query import Query, QueryError
    from workflows.search.query import parse_query as parse_query

    __version__: str

_LOCATIONS = {
    # What the commands of these names do.
    "prepare": "workflows.preparation.prepare:prepare",
    "PrepareOptions": "workflows.preparation.options:PrepareOptions",
    "verify": "workflows.preparation.verify:run_verify",
    "VerifyOptions": "workflows.preparation.options:VerifyOptions",
    "repair": "workflows.preparation.repair:run_repair",
    "RepairOptions": "workflows.preparation.options:RepairOptions",
    "features": "workflows.preparation.features:run_features",
    "FeaturesOptions": "workflows.preparation.options:FeaturesOptions",
    # Reading.
    "Loader": "pipeline.loader:Loader",
    "Batch": "pipeline.loader:Batch",
    "Crop": "pipeline.loader:Crop",
    "Reading": "pipeline.loader:Reading",
    "Staging": "pipeline.loader:Staging",
    "SplitDataset": "pipeline.loader.dataset:SplitDataset",
    "FeatureLoader": "pipeline.features.loader:FeatureLoader",
    "Features": "pipeline.features.reader:Features",
    "open_features": "pipeline.features.reader:open_features",
    "Augment": "pipeline.augment:Augment",
    "normalise": "pipeline.augment:normalise",
    "view": "pipeline.view:view",
    "SplitView": "pipeline.view:SplitView",
    # Nearest neighbours and word vectors.
    "build_index": "pipeline.neighbours.build:build",
    "load_index": "pipeline.neighbours:load",
    "Index": "pipeline.neighbours:Index",
    "SearchResults": "pipeline.neighbours:SearchResults",
    "recall": "pipeline.neighbours:recall",
    "read_word_vectors": "pipeline.wordvectors.files:read_word_vectors",
    "WordVectors": "pipeline.wordvectors.vectors:WordVectors",
    "class_vectors": "pipeline.wordvectors.vectors:class_vectors",
    "taxonomy_vectors": "pipeline.wordvectors.vectors:taxonomy_vectors",
    "ClassVectors": "pipeline.wordvectors.vectors:ClassVectors",
    "read_hierarchy": "pipeline.wordvectors.hierarchy:read_hierarchy",
    "Hierarchy": "pipeline.wordvectors.hierarchy:Hierarchy",
    # Searching with a run of DeViSE.
    "open_engine": "workflows.search.engine:open_engine",
    "Engine": "workflows.search.engine:Engine",
    "SearchOptions": "workflows.search.engine:SearchOptions",
    "Answer": "workflows.search.engine:Answer",
    "parse_query": "workflows.search.query:parse_query",
    "Query": "workflows.search.query:Query",
    # Errors.
    "TesseraeError": "pipeline.errors:TesseraeError",
    "SourceError": "pipeline.errors:SourceError",
    "StoreError": "pipeline.errors:StoreError",
    "StoreMismatchError": "pipeline.errors:StoreMismatchError",
    "StoreBusyError": "pipeline.errors:StoreBusyError",
    "StoreDamagedError": "pipeline.errors:StoreDamagedError",
    "InvalidDocumentError": "pipeline.errors:InvalidDocumentError",
    "ReadError": "pipeline.errors:ReadError",
    "RankError": "pipeline.errors:RankError",
    "DecodeError": "pipeline.errors:DecodeError",
    "QueryError": "workflows.search.query:QueryError",
    "ClusterError": "cluster.errors:ClusterError",
}
"""The public names, each with the `module:attribute` that is imported when it is first used."""

__all__ = [
    "Answer",
    "Augment",
    "Batch",
    "ClassVectors",
    "ClusterError",
    "Crop",
    "DecodeError",
    "Engine",
    "FeatureLoader",
    "Features",
    "FeaturesOptions",
    "Hierarchy",
    "Index",
    "InvalidDocumentError",
    "Loader",
    "PrepareOptions",
    "Query",
    "QueryError",
    "RankError",
    "ReadError",
    "Reading",
    "RepairOptions",
    "SearchOptions",
    "SearchResults",
    "SourceError",
    "SplitDataset",
    "SplitView",
    "Staging",
    "StoreBusyError",
    "StoreDamagedError",
    "StoreError",
    "StoreMismatchError",
    "TesseraeError",
    "VerifyOptions",
    "WordVectors",
    "__version__",
    "build_index",
    "class_vectors",
    "features",
    "load_index",
    "normalise",
    "open_engine",
    "open_features",
    "parse_query",
    "prepare",
    "read_hierarchy",
    "read_word_vectors",
    "recall",
    "repair",
    "taxonomy_vectors",
    "verify",
    "view",
]

if not TYPE_CHECKING:  # type checkers would accept any name, also a misspelt one

    def __getattr__(name: str) -> object:
        """Import and return the object called *name*, and keep it as an attribute of this module.

        Raises:
            AttributeError: There is no such name.
            ImportError: Python finds another package in place of one of Tesserae's.
            ModuleNotFoundError: A library that it needs is not installed.
        """
        if name == "__version__":
            from pipeline.installation import installed_version

            value: object = installed_version("tesserae")
        elif name in _LOCATIONS:
            value = _load(name)
        else:
            raise AttributeError(f"module 'tesserae' has no attribute {name!r}")
        globals()[name] = value
        return value


_has_own_modules = False
"""True once Python is known to find Tesserae's packages, and not others of these names."""


def _load(name: str) -> object:
    global _has_own_modules
    if not _has_own_modules:  # what Python finds is examined once
        from tesserae_command import other_modules

        if problem := next(iter(other_modules().values()), ""):
            raise ImportError(problem)
        _has_own_modules = True
    module, _, attribute = _LOCATIONS[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        from pipeline.installation import EXTRAS, install_advice

        extra = EXTRAS.get(str(error.name))
        if extra is None:
            raise
        needs = f"tesserae.{name} needs {error.name}: {install_advice(extra)}."
        raise ModuleNotFoundError(needs, name=error.name) from error


def __dir__() -> list[str]:
    return sorted(__all__)


if __name__ == "__main__":
    from tesserae_command import main

    sys.exit(main())
