"""The preparation of a DeViSE run: class vectors, features and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.choices import NEW
from pipeline.backbone.load import new_backbone
from pipeline.errors import StoreError, TesseraeError
from pipeline.features.loader import FeatureLoader
from pipeline.features.reader import open_features
from pipeline.loader import Loader
from pipeline.store import records
from pipeline.store.encoding import parse_encoding
from pipeline.store.features import load_feature_recipe
from pipeline.store.open import open_objects
from pipeline.store.options import DEFAULT_SIZES
from pipeline.store.records import FinishRecord
from pipeline.store.split import open_split
from pipeline.urls import is_url
from pipeline.wordvectors.files import read_word_vectors
from pipeline.wordvectors.hierarchy import read_hierarchy
from pipeline.wordvectors.mapped_word_vectors import file_digest
from pipeline.wordvectors.vectors import ClassVectors, class_vectors, taxonomy_vectors
from workflows.cluster_kinds import CommandCluster
from workflows.devise.class_splits import LEFT_OUT, SEEN, UNSEEN, VALIDATION, class_parts
from workflows.devise.options import SMALL_SIZE, DeviseOptions
from workflows.devise.stage import TRAINING_CROP, check_initial_run
from workflows.devise.word_space import FILE, WordSpace, load_word_space, make_word_space
from workflows.devise.words import COVERAGE_LABELS, names_of_classes
from workflows.preparation import features
from workflows.preparation.options import FeaturesOptions
from workflows.terminal.formatting import counted, printable
from workflows.training.run_folder import RunFolder
from workflows.training.run_options import RunOptions
from workflows.training.stage import Data

MIN_SIZE = 32
"""The smallest side, in pixels, of the images that a new trunk accepts."""
MAX_MEASURED_ROWS = 50_000
"""The number of rows, at most, from which the mean and spread of features are computed."""


@dataclass(frozen=True)
class TrunkInput:
    """The stored images that a trunk takes, and the features that it has computed from them."""

    size: int
    """The side in pixels of the stored squares, or that to which crops of encoded rows are
    resized."""
    features: str | None
    """The name of the stored features; None for a new trunk, which has none."""
    encoded: str | None = None
    """The name of the encoded rows that are read, such as `jpeg256@90`; None for squares."""

    @property
    def array_name(self) -> str:
        """The name of the array that the images are read from."""
        return self.encoded or str(self.size)

    @property
    def text(self) -> str:
        """The images as a phrase for messages."""
        if self.encoded is None:
            return f"images of {self.size} px"
        return f"encoded rows {parse_encoding(self.encoded).text}"

    @property
    def prepare_option(self) -> str:
        """The option of `tesserae prepare` that adds the images to a split."""
        if self.encoded is None:
            return f"--sizes {self.size}"
        return f"--encoded {parse_encoding(self.encoded).text}"


def prepare_data(
    run_options: RunOptions, options: DeviseOptions, cluster: CommandCluster, held_out: str | None
) -> tuple[Data, dict[str, bytes]]:
    """Extract missing features on the cluster, and open the data of a run.

    Features of the training split and of the held-out one are committed to the store, unless the
    trunk is a new one. Notices and the numbers of classes are printed. Nothing is written to the
    run folder.

    Args:
        run_options: The options of the run, such as `RunOptions(stage="devise", store="store",
            run=Path("runs/a"))`: its store, its training split and its folder, which may hold a run
            already.
        options: The options of the stage.
        cluster: The cluster that extracts features, inside its `with` block.
        held_out: The split to evaluate on; None for no evaluation.

    Returns:
        The data of the ranks: `train`, the loader of images of seen classes; `held_out`, the loader
        of held-out images of seen and validation classes, or None without such images; and
        `classes`, the names of all classes by label. Its `folder` is empty. And the further files
        of a new run folder, as name -> content, `space.npz`, or an empty dictionary if the run is
        continued.

    Raises:
        TesseraeError: No trunk or source of class vectors is named, a file or the trunk cannot be
            used, too few classes or rows are left, or features cannot be extracted.
        OSError: The file `class_names` cannot be read.
        ClusterError: The cluster or its workers cannot be used.
    """
    store = _absolute(run_options.store)
    listed = records.load_recipe(open_objects(store)).classes
    if options.word_vectors is not None or options.class_names is not None:
        listed = names_of_classes(listed, options.class_names)
    run = RunFolder(run_options.folder)
    # A folder without options.json is of a start that did not complete: it is prepared anew.
    resuming = run.holds_run()
    size, encoded = options.feature_size, options.encoded
    if resuming:
        size, encoded = _recorded_input(run, options, store)
    _check_required(options, resuming=resuming)
    if options.learn == "all" and options.encoded is None:
        _check_has_squares(store, run_options.split)
    config = features_options(options, store, size, encoded)
    targets = None if resuming else _class_targets(options, store, run_options.split, listed)
    trunk_input = _new_input(options, store, run_options.split, size)
    if trunk_input is None:
        extracted = features.compute_split_features(config, run_options.split, cluster)
        trunk_input = TrunkInput(extracted.stored_size, extracted.name, extracted.encoded)
        held_out = _evaluation_split(config, run_options, held_out, trunk_input, cluster)
    space, files = _word_space(options, store, run_options.split, trunk_input, targets, run.path)
    seen = space.labels(SEEN).tolist()
    evaluated = space.labels(SEEN, VALIDATION).tolist()
    train = _loader(options, store, run_options.split, trunk_input, seen)
    if not len(train):
        raise StoreError(
            f"split {run_options.split!r} has {train.num_rows} readable images of {len(seen)} seen"
            f" classes, fewer than --batch-size {options.batch_size}. Pass a smaller --batch-size."
        )
    evaluation = None
    if held_out is not None:
        evaluation = _loader(options, store, held_out, trunk_input, evaluated, training=False)
    classes = tuple(words or wnid for wnid, words in listed)
    return Data(train, evaluation if evaluation and evaluation.num_rows else None, classes), files


def _check_required(options: DeviseOptions, *, resuming: bool) -> None:
    """Check that a trunk and a source of class vectors are named.

    Raises:
        TesseraeError: One of them is missing; the message names both if both are.
    """
    problems = []
    if options.trunk is None:
        problems.append(
            "--trunk is required: a vision model of `transformers`, as a folder or a hub name"
        )
    if options.word_vectors is None and options.hierarchy is None and not resuming:
        problems.append(
            "--word-vectors or --hierarchy is required: a file of word2vec, GloVe or fastText"
            " vectors, or an is-a hierarchy to derive class vectors from"
        )
    if problems:
        raise TesseraeError("; ".join(problems) + ".")


def _check_has_squares(store: str, split: str) -> None:
    """Check that a split has stored squares, because encoded rows to train on must be named.

    Raises:
        StoreError: It is finished and has encoded rows alone.
    """
    done = records.load_finish_record(open_objects(store), split)
    if done is not None and not done.sizes:
        rows = " or ".join(parse_encoding(name).text for name in done.encoded)
        raise StoreError(f"split {split!r} has no stored squares: pass --encoded {rows}.")


def _absolute(store: str) -> str:
    return store if is_url(store) else str(Path(store).absolute())


def _evaluation_split(
    config: FeaturesOptions,
    run_options: RunOptions,
    held_out: str | None,
    trunk_input: TrunkInput,
    cluster: CommandCluster,
) -> str | None:
    """Return the split to evaluate on, after extracting its features.

    A default split without images of the right size gives a notice and None.
    """
    if held_out is None:
        return None
    done = records.load_finish_record(open_objects(config.store), held_out)
    if done is not None and trunk_input.array_name not in done.array_names:
        problem = f"split {held_out!r} has no {trunk_input.text}"
        added = f"--split {held_out} {trunk_input.prepare_option}"
        cure = f"Add it with `tesserae prepare ... {added}`."
        if run_options.held_out is not None:
            raise StoreError(f"{problem}, which split {run_options.split!r} has. {cure}")
        print(f"notice: {problem}: this run is not evaluated. {cure}", flush=True)
        return None
    images: dict[str, Any] = {"size": trunk_input.size, "encoded": None}
    if trunk_input.encoded is not None:
        images = {"size": None, "encoded": trunk_input.encoded}
    unmirrored = replace(config, **images, mirrored=False)
    features.compute_split_features(unmirrored, held_out, cluster)
    return held_out


def _recorded_input(
    run: RunFolder, options: DeviseOptions, store: str
) -> tuple[int | None, str | None]:
    """Return the stored size that a run has used so far, or the name of its encoded rows.

    The store may have got other sizes since then, which must not change the run.
    """
    recorded = run.read_options()["options"]
    encoded = options.encoded
    if encoded is None and recorded.get("features") is not None:
        with suppress(StoreError):  # features that were lost are extracted again
            encoded = load_feature_recipe(open_objects(store), recorded["features"]).encoded
    if encoded is None:
        return recorded["stored_size"], None
    return (recorded["stored_size"] if options.trunk == NEW else None), encoded


def features_options(
    options: DeviseOptions, store: str, size: int | None, encoded: str | None = None
) -> FeaturesOptions:
    """Return the options of the features to train on, as `tesserae features` takes them.

    Mirrored copies are included if the options say so and the head alone is trained.

    Args:
        options: The options of the stage, which select the trunk and its output.
        store: The path or URL of the store.
        size: The side of the stored images that the trunk takes, in pixels (None: the stored size
            that fits the trunk best). It is not used for a new trunk of encoded rows.
        encoded: The encoded rows that are read in place of squares (default: squares).

    Raises:
        TesseraeError: No trunk is named.
        ValueError: *size* is not from 1 to 4,096, or *encoded* is no encoding.
    """
    if options.trunk is None:
        raise TesseraeError(
            "--trunk is required: a vision model of `transformers`, as a folder or a hub name."
        )
    return FeaturesOptions(
        store=store,
        trunk=options.trunk,
        cut=options.cut,
        pooling=options.pooling,
        size=size if encoded is None else None,
        encoded=encoded,
        precision=options.feature_precision,
        dtype=options.feature_dtype,
        mirrored=options.mirrored and options.learn == "head",
    )


def _new_input(
    options: DeviseOptions, store: str, split: str, size: int | None
) -> TrunkInput | None:
    """Return the input of a new trunk; None for a pretrained one, whose features are extracted."""
    if options.trunk != NEW:
        return None
    if options.learn != "all":
        raise TesseraeError(
            f"--trunk {NEW} has random weights: pass --learn all, or a pretrained trunk."
        )
    done = records.load_finish_record(open_objects(store), split)
    if options.encoded is not None:
        return _new_encoded_input(options.encoded, split, size or SMALL_SIZE, done)
    sizes = () if done is None else done.sizes
    stored_size = size or min((s for s in sizes if s >= MIN_SIZE), default=max(sizes, default=0))
    if stored_size not in sizes or stored_size < MIN_SIZE:
        available = ", ".join(f"{stored} px" for stored in sizes) or "no finished square images"
        expected = f"{size} px" if size else f"{MIN_SIZE} px or more"
        raise StoreError(
            f"split {split!r} has {available}: --trunk {NEW} needs {expected}. Add that size with"
            f" `tesserae prepare ... --sizes {size or DEFAULT_SIZES[0]}`."
        )
    return TrunkInput(stored_size, None)


def _new_encoded_input(
    encoded: str, split: str, size: int, done: FinishRecord | None
) -> TrunkInput:
    """Return the input of a new trunk that takes crops of encoded rows, resized to *size*."""
    trunk_input = TrunkInput(size, None, parse_encoding(encoded).array_name)
    available = () if done is None else done.array_names
    if trunk_input.array_name not in available:
        raise StoreError(
            f"split {split!r} has no finished {trunk_input.text}: it has"
            f" {', '.join(available) or 'nothing'}. Add them with `tesserae prepare ..."
            f" {trunk_input.prepare_option}`."
        )
    if size < MIN_SIZE:
        raise StoreError(
            f"--feature-size is {size}: --trunk {NEW} needs images of {MIN_SIZE} px or more."
        )
    return trunk_input


def _class_targets(
    options: DeviseOptions, store: str, split: str, listed: Sequence[tuple[str, str]]
) -> tuple[ClassVectors, NDArray[np.int8], str]:
    """Return the class vectors, the part of each class and the digest of the word-vector file.

    It runs before the features are extracted, so that a mistake is reported before hours of work.
    """
    vectors = load_class_vectors(options, listed)
    digest = "" if options.word_vectors is None else file_digest(options.word_vectors)
    if options.word_vectors is not None and options.hierarchy is not None:
        read_hierarchy(options.hierarchy)  # reports need it: a broken file is refused now
    parts = class_parts(
        vectors.wnids,
        vectors.has_vector,
        has_image=_classes_with_images(store, split, len(listed)),
        seen=options.seen_classes,
        unseen=options.unseen_classes,
        validation=options.validation_classes,
        seed=options.class_split_seed,
    )
    if options.init_from is not None:
        held_out = np.flatnonzero(np.isin(parts, (UNSEEN, VALIDATION)))
        check_initial_run(options.init_from, [vectors.wnids[label] for label in held_out.tolist()])
    _print_classes(vectors, parts)
    return vectors, parts, digest


def _classes_with_images(store: str, split: str, classes: int) -> NDArray[np.bool_]:
    """Return True for each class that has a readable image in *split*, (C,) bool."""
    objects = open_objects(store)
    done = records.load_finish_record(objects, split)
    if done is None:
        raise StoreError(f"split {split!r} of {store} is not finished: run `tesserae prepare`.")
    opened = open_split(objects, split, ())  # the labels alone: the split may have no squares
    labels = opened.labels[opened.readable]
    return np.bincount(labels[labels >= 0], minlength=classes) > 0


def _word_space(
    options: DeviseOptions,
    store: str,
    split: str,
    trunk_input: TrunkInput,
    targets: tuple[ClassVectors, NDArray[np.int8], str] | None,
    run: Path,
) -> tuple[WordSpace, dict[str, bytes]]:
    """Return the word space, and the file that stores it in a new run folder."""
    if targets is None:  # the run continues
        return load_word_space(run), {}
    vectors, parts, digest = targets
    seen = np.flatnonzero(parts == SEEN)
    if trunk_input.features is None:
        # A trunk in training has no fixed features: standardising them must change nothing.
        blank = new_backbone(width=options.width, cut=options.cut, pooling=options.pooling)
        features_of_seen = np.array([[-1.0], [1.0]], np.float32).repeat(blank.dim, axis=1)
    else:
        features_of_seen = seen_features(store, split, trunk_input.features, seen)
    space = make_word_space(vectors, parts, features_of_seen, centre=options.centre, words=digest)
    return space, {FILE: space.encode()}


def load_class_vectors(options: DeviseOptions, listed: Sequence[tuple[str, str]]) -> ClassVectors:
    """Return the class vectors that *options* select.

    Args:
        options: The options of the stage, such as `DeviseOptions(word_vectors="glove.txt")`. Word
            vectors are preferred to a hierarchy if both are named.
        listed: The (wnid, names) of labels 0, 1, ..., with names separated by commas.

    Returns:
        `vectors`, (C, d) float32, of length 1 or zeros for a class without one; and by label the
        `wnids`, the `names` and the `sources` of vectors: `token` if a name is one token of the
        word vectors, `words` for the mean of its words, `taxonomy` for the hierarchy, or `none`.

    Raises:
        TesseraeError: Neither word vectors nor a hierarchy are named, or a file is unreadable.
    """
    if options.word_vectors is not None:
        return class_vectors(
            read_word_vectors(options.word_vectors), listed, synonyms=options.synonyms
        )
    if options.hierarchy is not None:
        return taxonomy_vectors(read_hierarchy(options.hierarchy), listed)
    raise TesseraeError(
        "--word-vectors or --hierarchy is required: a file of word2vec, GloVe or fastText vectors,"
        " or an is-a hierarchy to derive class vectors from."
    )


def seen_features(
    store: str, split: str, name: str, seen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the stored features of up to 50,000 images of seen classes.

    Args:
        store: The path or URL of the store.
        split: The training split.
        name: The name of the features, as `tesserae info` lists it.
        seen: The labels of the seen classes, (S,) int64.

    Returns:
        (n, D) float32, not standardised, of readable rows in ascending order, each not mirrored. If
        there are more, every second, third, ... row is taken.

    Raises:
        StoreError: The features are not finished, or no readable image is of a seen class.
    """
    stored = open_features(store, name, split)
    rows = stored.readable[np.isin(stored.split.labels[stored.readable], seen)]
    if not len(rows):
        raise StoreError(f"split {split!r} has no readable image of the {len(seen)} seen classes.")
    # Rows are stored in random order, so that every nth row is a random sample.
    step = -(-len(rows) // MAX_MEASURED_ROWS)
    return stored.rows(rows[::step])


def _print_classes(vectors: ClassVectors, parts: NDArray[np.int8]) -> None:
    counts = {name: count for name, count in vectors.coverage().items() if count}
    sources = (f"{count:,} {COVERAGE_LABELS[name]}" for name, count in counts.items())
    print("class vectors: " + ", ".join(sources), flush=True)
    left_out = parts == LEFT_OUT
    for missing, is_missing in (
        ("vector", left_out & ~vectors.has_vector),
        ("training image", left_out & vectors.has_vector),
    ):
        names = [vectors.names[label] for label in np.flatnonzero(is_missing)]
        if names:
            listed = "; ".join(names[:5]) + ("; ..." if len(names) > 5 else "")
            print(
                printable(
                    f"notice: {counted(len(names), 'class', 'es')} left out, without a {missing}:"
                    f" {listed}"
                )
            )
    seen, validation, unseen = (int((parts == part).sum()) for part in (SEEN, VALIDATION, UNSEEN))
    print(f"classes: {seen:,} seen, {validation:,} for validation, {unseen:,} unseen", flush=True)


def _loader(
    options: DeviseOptions,
    store: str,
    split: str,
    trunk_input: TrunkInput,
    include_labels: Sequence[int],
    *,
    training: bool = True,
) -> FeatureLoader | Loader:
    loader_arguments = options.loader_arguments(training=training)
    if options.learn == "head":
        assert trunk_input.features is not None
        return FeatureLoader(
            store,
            trunk_input.features,
            split,
            batch_size=options.batch_size,
            order=loader_arguments["order"],
            seed=options.seed,
            mirrored=options.mirrored and training,
            include_labels=include_labels,
            drop_last=training,
        )
    images: dict[str, Any] = {}
    if trunk_input.encoded is not None:
        images = {"encoded": trunk_input.encoded, "crop": TRAINING_CROP if training else "centre"}
    return Loader(
        store,
        split,
        **images,
        size=trunk_input.size,
        batch_size=options.batch_size,
        seed=options.seed,
        include_labels=include_labels,
        drop_last=training,
        **loader_arguments,
    )
