"""What DeViSE learns from, before the training: classes' vectors, features, loaders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.choices import NEW
from pipeline.backbone.load import new_backbone
from pipeline.errors import StoreError, TesseraeError
from pipeline.features.extract import FeatureChoices
from pipeline.features.loader import FeatureLoader
from pipeline.features.reader import open_features
from pipeline.loader import Loader
from pipeline.store import records
from pipeline.store.objects import open_objects
from pipeline.store.split import open_split
from pipeline.urls import is_url
from pipeline.wordvectors.files import read_words
from pipeline.wordvectors.hierarchy import read_hierarchy
from pipeline.wordvectors.index import file_digest
from pipeline.wordvectors.vectors import ClassVectors, class_vectors, taxonomy_vectors
from workflows.devise.class_names import named
from workflows.devise.class_space import FILE, Space, load_space, make_space
from workflows.devise.class_splits import LEFT_OUT, SEEN, UNSEEN, VALIDATION, class_parts
from workflows.devise.options import Options
from workflows.devise.stage import check_start
from workflows.preparation import features
from workflows.session import Cluster
from workflows.terminal.formatting import counted, printable
from workflows.training.loop import Data
from workflows.training.run_folder import RunFolder

LEAST = 32
"""Side of pictures, in pixels, that a new trunk can be given."""
MEASURED_ROWS = 50_000
"""Whose features say where they lie and how far they spread."""


@dataclass(frozen=True)
class Input:
    """What a trunk is given, or has been."""

    size: int
    """Of stored pictures, in pixels."""
    features: str | None
    """Name of what it made of them; None = it has learned nothing yet."""


def gather(
    args: argparse.Namespace, options: Options, cluster: Cluster, held_out: str | None
) -> tuple[Data, dict[str, bytes]]:
    """Make what is missing on the cluster, and open what there is.

    Args:
        args: `store`, `split` and `run` of the command line.
        options: Of the stage.
        cluster: Where features are made.
        held_out: The split to judge by.

    Returns:
        What ranks are handed, and what the run's folder holds from the beginning.

    Raises:
        TesseraeError: Words, classes, network or rows are missing.
    """
    store = _absolute(args.store)
    listed = records.load_recipe(open_objects(store)).classes
    if options.words is not None or options.names is not None:
        listed = named(listed, options.names)
    before = RunFolder(Path(args.run) if args.run else Path("runs/devise"))
    goes_on = (before.path / "options.json").exists()  # else what is there is of a beginning
    size = before.asked()["options"]["stored_size"] if goes_on else options.feature_size
    _check_named(options, goes_on=goes_on)
    wish = feature_wish(options, store, size)
    words = None if goes_on else _words(options, store, args.split, listed)
    taken = _new_input(options, store, args.split, size)
    if taken is None:
        found = features.make(wish, args.split, cluster)
        taken = Input(found.stored_size, found.name)
        held_out = _judged_by(wish, args, held_out, taken, cluster)
    space, files = _space(options, store, args.split, taken, words, before.path)
    seen = space.labels(SEEN).tolist()
    judged = space.labels(SEEN, VALIDATION).tolist()
    train = _loader(options, store, args.split, taken, seen)
    if not len(train):
        raise StoreError(
            f"split {args.split!r} has {train.num_rows} pictures of {len(seen)} seen classes:"
            f" expected at least one batch of {options.batch_size}."
        )
    other = None
    if held_out is not None:
        other = _loader(options, store, held_out, taken, judged, plain=True)
    classes = tuple(words or wnid for wnid, words in listed)
    return Data(train, other if other and other.num_rows else None, classes), files


def _check_named(options: Options, *, goes_on: bool) -> None:
    """Refuse a run that lacks a network or words, naming all that it lacks.

    Raises:
        TesseraeError: One of them is missing.
    """
    lacking = []
    if options.trunk is None:
        lacking.append(
            "--trunk is missing: name a vision model of transformers, a folder or of the model hub"
        )
    if options.words is None and options.hierarchy is None and not goes_on:
        lacking.append(
            "--words is missing: name a file of word vectors (word2vec, GloVe, fastText), or"
            " --hierarchy, to have vectors made from what classes are kinds of"
        )
    if lacking:
        raise TesseraeError("; ".join(lacking) + ".")


def _absolute(store: str) -> str:
    return store if is_url(store) else str(Path(store).absolute())


def _judged_by(
    wish: features.Wish,
    args: argparse.Namespace,
    held_out: str | None,
    taken: Input,
    cluster: Cluster,
) -> str | None:
    """The split to judge by, with its features; None, and a notice, for one of other sizes."""
    if held_out is None:
        return None
    done = records.load_done(open_objects(wish.store), held_out)
    if done is not None and taken.size not in done.sizes:
        told = f"split {held_out!r} has no pictures of {taken.size} px"
        if args.held_out is not None:
            raise StoreError(f"{told}, as {args.split!r} has: prepare that size of it too.")
        print(f"notice: {told}: nothing judges this run.", flush=True)
        return None
    choices = replace(wish.choices, stored_size=taken.size)
    features.make(replace(wish, choices=choices, mirrored=False), held_out, cluster)
    return held_out


def feature_wish(options: Options, store: str, size: int | None) -> features.Wish:
    """The features that *options* learn from, of pictures of a stored size (what fits best)."""
    if options.trunk is None:
        raise TesseraeError(
            "--trunk is missing: name a vision model of transformers, a folder or of the model hub."
        )
    choices = FeatureChoices(
        stored_size=size,
        precision=options.feature_precision,
        dtype=options.feature_dtype,
    )
    return features.Wish(
        store=store,
        trunk=options.trunk,
        cut=options.cut,
        pooling=options.pooling,
        choices=choices,
        mirrored=options.mirrored and options.learn == "head",
    )


def _new_input(options: Options, store: str, split: str, size: int | None) -> Input | None:
    """What a trunk takes that has learned nothing; None of another."""
    if options.trunk != NEW:
        return None
    if options.learn != "all":
        raise TesseraeError(
            f"--trunk {NEW} has learned nothing yet: expected --learn all, or another trunk."
        )
    done = records.load_done(open_objects(store), split)
    sizes = () if done is None else done.sizes
    wanted = size or min((s for s in sizes if s >= LEAST), default=max(sizes, default=0))
    if wanted not in sizes or wanted < LEAST:
        held = ", ".join(map(str, sizes)) or "no finished size"
        asked = f"{size} px" if size else f"{LEAST} px or more"
        raise StoreError(f"split {split!r} has {held}: --trunk {NEW} wants {asked}.")
    return Input(wanted, None)


def _words(
    options: Options, store: str, split: str, listed: Sequence[tuple[str, str]]
) -> tuple[ClassVectors, NDArray[np.int8], str]:
    """Vectors of classes, what each is, the digest of the words: before hours of features."""
    digest = "" if options.words is None else file_digest(options.words)
    vectors = vectors_of(options, listed)
    if options.words is not None and options.hierarchy is not None:
        read_hierarchy(options.hierarchy)  # which reports will need
    parts = class_parts(
        vectors.wnids,
        vectors.known,
        pictured=_pictured(store, split, len(listed)),
        seen=options.seen,
        unseen=options.unseen,
        validation=options.validation,
        seed=options.class_seed,
    )
    if options.start is not None:
        kept_back = np.flatnonzero(np.isin(parts, (UNSEEN, VALIDATION)))
        check_start(options.start, [vectors.wnids[label] for label in kept_back.tolist()])
    _say(vectors, parts)
    return vectors, parts, digest


def _pictured(store: str, split: str, classes: int) -> NDArray[np.bool_]:
    """(C,) bool: which classes have a picture of *split* that can be read."""
    objects = open_objects(store)
    done = records.load_done(objects, split)
    if done is None:
        raise StoreError(f"split {split!r} of {store} is not finished: run `tesserae prepare`.")
    opened = open_split(objects, split, [min(done.sizes)])
    labels = np.delete(opened.labels, opened.absent)
    return np.bincount(labels[labels >= 0], minlength=classes) > 0


def _space(
    options: Options,
    store: str,
    split: str,
    taken: Input,
    words: tuple[ClassVectors, NDArray[np.int8], str] | None,
    run: Path,
) -> tuple[Space, dict[str, bytes]]:
    if words is None:  # it goes on
        return load_space(run), {}
    vectors, parts, digest = words
    seen = np.flatnonzero(parts == SEEN)
    if taken.features is None:
        blank = new_backbone(width=options.width, cut=options.cut, pooling=options.pooling)
        measured = np.array([[-1.0], [1.0]], np.float32).repeat(blank.dim, axis=1)
    else:
        measured = seen_features(store, split, taken.features, seen)
    space = make_space(vectors, parts, measured, centre=options.centre, words=digest)
    return space, {FILE: space.encode()}


def vectors_of(options: Options, listed: Sequence[tuple[str, str]]) -> ClassVectors:
    """The vectors of classes that *options* ask for.

    Raises:
        TesseraeError: Neither words nor a hierarchy are named, or they cannot be read.
    """
    if options.words is not None:
        return class_vectors(read_words(options.words), listed, synonyms=options.synonyms)
    if options.hierarchy is not None:
        return taxonomy_vectors(read_hierarchy(options.hierarchy), listed)
    raise TesseraeError(
        "--words is missing: name a file of word vectors (word2vec, GloVe, fastText), or"
        " --hierarchy, to have vectors made from what classes are kinds of."
    )


def seen_features(
    store: str, split: str, name: str, seen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(n, D) float32: features of pictures of seen classes, of `MEASURED_ROWS` at most."""
    found = open_features(store, name, split)
    rows = found.readable[np.isin(found.split.labels[found.readable], seen)]
    if not len(rows):
        raise StoreError(f"split {split!r} has no readable picture of {len(seen)} seen classes.")
    step = -(-len(rows) // MEASURED_ROWS)  # rows are in random order: any of them are a sample
    return found.rows(rows[::step])


def _say(vectors: ClassVectors, parts: NDArray[np.int8]) -> None:
    counts = {name: count for name, count in vectors.coverage().items() if count}
    print("words: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()), flush=True)
    left_out = parts == LEFT_OUT
    for what, those in (
        ("vector", left_out & ~vectors.known),
        ("picture to learn from", left_out & vectors.known),
    ):
        names = [vectors.names[label] for label in np.flatnonzero(those)]
        if names:
            shown = "; ".join(names[:5]) + ("; ..." if len(names) > 5 else "")
            print(printable(f"notice: {counted(len(names), 'class')} without a {what}: {shown}"))
    seen, kept, unseen = (int((parts == part).sum()) for part in (SEEN, VALIDATION, UNSEEN))
    print(f"classes: {seen:,} seen, {kept:,} for validation, {unseen:,} unseen", flush=True)


def _loader(
    options: Options,
    store: str,
    split: str,
    taken: Input,
    only: Sequence[int],
    *,
    plain: bool = False,
) -> FeatureLoader | Loader:
    loading = options.loading(learns=not plain)
    if options.learn == "head":
        assert taken.features is not None
        return FeatureLoader(
            store,
            taken.features,
            split,
            batch_size=options.batch_size,
            order=loading["order"],
            seed=options.seed,
            mirrored=options.mirrored and not plain,
            only=only,
            drop_last=not plain,
        )
    return Loader(
        store,
        split,
        size=taken.size,
        batch_size=options.batch_size,
        seed=options.seed,
        only=only,
        drop_last=not plain,
        **loading,
    )
