"""The tables, answers and figures of the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from workflows.reports.figures import Figure, Point, point_figure
from workflows.reports.table import Table
from workflows.studies.arm_tables import StudyMetric, difference_of, interval_of, verdict
from workflows.studies.cut import EARLY, END, MAP, PIXELS, POOLED
from workflows.studies.cut.experiment import CutArm, CutStudy
from workflows.studies.cut.heads import PENALTIES
from workflows.studies.cut.networks import Cut, Network
from workflows.studies.report import StudyReport
from workflows.studies.runs import StudyRun
from workflows.terminal.formatting import counted

TOP1 = StudyMetric(name="top1", heading="probe top-1", percent=True, higher_is_better=True)
HIT1 = StudyMetric(name="hit1", heading="unseen hit@1", percent=True, higher_is_better=True)
HIT5 = StudyMetric(name="hit5", heading="unseen hit@5", percent=True, higher_is_better=True)
RANDOM_HIT5 = StudyMetric(name="random_hit5", heading="random vectors hit@5", percent=True)
ROW_BYTES = StudyMetric(name="row_bytes", heading="bytes a row")
FORWARD_MS = StudyMetric(name="forward_ms", heading="CPU ms a row")
HEAD_SECONDS = StudyMetric(name="head_seconds", heading="CPU s of heads")
JUDGED = {
    "top1": (TOP1, StudyMetric(name="validation_top1", heading="validation top-1")),
    "hit5": (HIT5, StudyMetric(name="validation_hit5", heading="validation hit@5")),
}
"""The metrics that cuts are judged by, each with the one that a cut is chosen by."""
CHOSEN = "chosen by validation"
"""The name of the arm that each seed chooses by its validation images or classes."""


def run_line(run: StudyRun) -> str:
    """Return the line of a finished run.

    Args:
        run: The run.
    """
    values = [
        f"{metric.heading} {run.metrics[metric.name]:.1%}"
        for metric in (TOP1, HIT1, HIT5)
        if metric.name in run.metrics
    ]
    return (
        f"seed {run.seed}  {run.arm:<60}  {'  '.join(values)}"
        f"  {run.metrics['row_bytes']:,.0f} bytes"
    )


def report_of(study: CutStudy, runs: Sequence[StudyRun]) -> StudyReport:
    """Return the report of the study.

    Args:
        study: The study.
        runs: Its runs, of all arms and seeds.
    """
    tables: list[Table] = []
    answers: list[str] = []
    notes: list[str] = []
    figures: dict[str, Figure] = {}
    for number, network in enumerate(study.networks):
        arms = [arm for arm in study.arms.values() if arm.network is network]
        own = runs_of_network(runs, arms)
        tables += [_table(study, network, arms, own), _belief_table(network, arms, own)]
        answers += [f"{network.name}: {answer}" for answer in answers_of(network, arms, own)]
        notes += [f"{network.name}: {note}" for note in _network_notes(study, network, own)]
        figures |= _figures(network, arms, own, f"-{number + 1}" if len(study.networks) > 1 else "")
    return StudyReport(
        title="Where to cut a network",
        question=(
            "After which block, pooled or not, are the features of a network worth storing: for a"
            " linear probe, and for DeViSE on unseen classes?"
        ),
        answers=study.options.answers(answers),
        tables=tables,
        figures=figures,
        notes=[*notes, *_notes(study)],
        settings=study.settings(),
    )


def runs_of_network(runs: Sequence[StudyRun], arms: Sequence[CutArm]) -> list[StudyRun]:
    """Return the runs of a network's arms, named by the arms' labels, and those that are chosen.

    For each judged metric and seed, `chosen by validation (METRIC)` is a copy of the run that is
    best by its validation metric: the first one of those that tie, which is the earliest cut.

    Args:
        runs: The runs of all networks.
        arms: The arms of the network, in the order of the tables.
    """
    labels = {arm.name: arm.label for arm in arms}
    own = [replace(run, arm=labels[run.arm]) for run in runs if run.arm in labels]
    chosen = []
    for metric, (_, validation) in JUDGED.items():
        for seed in sorted({run.seed for run in own}):
            candidates = [r for r in own if r.seed == seed and validation.name in r.metrics]
            if candidates:
                best = max(candidates, key=lambda run: run.metrics[validation.name])
                chosen.append(replace(best, arm=f"{CHOSEN} ({metric})"))
    return [*own, *chosen]


def pareto_front(
    arms: Sequence[CutArm], runs: Sequence[StudyRun], metric: StudyMetric
) -> list[str]:
    """Return the labels of arms of which no other one has fewer bytes and is as good.

    Args:
        arms: The arms of a network.
        runs: Its runs.
        metric: The metric by which arms are compared, by its mean over seeds. It is a validation
            metric where the test metrics of the front are shown.

    Returns:
        Labels by ascending bytes of a row.
    """
    points = []
    for arm in arms:
        mean, size = (interval_of(runs, arm.label, m) for m in (metric, ROW_BYTES))
        if mean is not None and size is not None:
            points.append((size.mean, -mean.mean, arm.label))
    front: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return [label for _, _, label in front]


def answers_of(network: Network, arms: Sequence[CutArm], runs: Sequence[StudyRun]) -> Iterator[str]:
    """Yield the answers about a network, each with its interval.

    Args:
        network: The network.
        arms: Its arms.
        runs: Its runs, as `runs_of_network` returns them.
    """
    for name, (metric, validation) in JUDGED.items():
        yield from _chosen_answer(arms, runs, name, metric, validation)
    for belief, cut in network.lesson_cuts.items():
        for form in cut.forms:
            label = f"{cut.block}, {form}"
            compared = [
                f"{metric.heading}, {_compared(runs, label, END, metric)}"
                for metric in _measured(runs, label)
            ]
            yield f"the lesson's cut {belief}, {label}: {'; '.join(compared)}; " + _bytes_ratio(
                runs, label
            )
    yield from _early_answers(network, runs)
    for metric, validation in JUDGED.values():
        yield from _front_answer(arms, runs, metric, validation)


def _measured(runs: Sequence[StudyRun], label: str) -> list[StudyMetric]:
    """Return the judged metrics that an arm has."""
    metrics = [metric for metric, _ in JUDGED.values()]
    return [m for m in metrics if interval_of(runs, label, m) is not None]


def _chosen_answer(
    arms: Sequence[CutArm],
    runs: Sequence[StudyRun],
    name: str,
    metric: StudyMetric,
    validation: StudyMetric,
) -> Iterator[str]:
    chosen = f"{CHOSEN} ({name})"
    interval = interval_of(runs, chosen, metric)
    if interval is None:
        return
    labels = dict.fromkeys(_chosen_labels(arms, runs, validation))
    yield (
        f"validation chooses {' or '.join(labels)} for {metric.heading}:"
        f" {metric.text(interval)} % on the test; {_compared(runs, chosen, END, metric)}"
    )


def _early_answers(network: Network, runs: Sequence[StudyRun]) -> Iterator[str]:
    for belief, cut in network.lesson_cuts.items():
        early, pooled = f"{cut.block}, {EARLY}", f"{cut.block}, {POOLED}"
        for metric in _measured(runs, early):
            yield (
                f"the notebook's early pooling {belief}, with frozen blocks after it:"
                f" {metric.heading}, {_compared(runs, early, END, metric)};"
                f" {_compared(runs, early, pooled, metric)}"
            )


def _front_answer(
    arms: Sequence[CutArm], runs: Sequence[StudyRun], metric: StudyMetric, validation: StudyMetric
) -> Iterator[str]:
    points = []
    for label in pareto_front(arms, runs, validation):
        mean, size = interval_of(runs, label, metric), _bytes(runs, label)
        if mean is not None:
            points.append(f"{label}: {size:,.0f} bytes, {metric.text(mean)} %")
    if points:
        yield (
            f"the Pareto front of bytes and {metric.heading}, by the means on validation, with"
            f" test means: {'; '.join(points)}"
        )


def _chosen_labels(
    arms: Sequence[CutArm], runs: Sequence[StudyRun], validation: StudyMetric
) -> Iterator[str]:
    labels = {arm.label for arm in arms}
    for seed in sorted({run.seed for run in runs}):
        own = [
            r for r in runs if r.seed == seed and r.arm in labels and validation.name in r.metrics
        ]
        if own:
            yield max(own, key=lambda run: run.metrics[validation.name]).arm


def _compared(runs: Sequence[StudyRun], arm: str, base: str, metric: StudyMetric) -> str:
    difference = difference_of(runs, arm, base, metric.name)
    if difference is None:
        return f"not compared with {base}"
    return f"{metric.difference_text(difference)} points to {base}, {verdict(difference, metric)}"


def _bytes(runs: Sequence[StudyRun], label: str) -> float:
    size = interval_of(runs, label, ROW_BYTES)
    return 0.0 if size is None else size.mean


def _bytes_ratio(runs: Sequence[StudyRun], label: str) -> str:
    of_arm, of_end = _bytes(runs, label), _bytes(runs, END)
    return f"{of_arm:,.0f} bytes a row, {of_arm / of_end:.3g} times those of {END}"


def _table(
    study: CutStudy, network: Network, arms: Sequence[CutArm], runs: Sequence[StudyRun]
) -> Table:
    metrics = [m for m in (TOP1, HIT1, HIT5) if any(m.name in r.metrics for r in runs)]
    columns = ["features", "shape", *(c.heading for c in (ROW_BYTES, FORWARD_MS, HEAD_SECONDS))]
    for metric in metrics:
        columns.append(metric.column)
        if metric.name in JUDGED:
            columns.append(f"{metric.heading} minus {END}, points")
    shapes = {arm.label: _shape(arm) for arm in arms}
    rows = []
    for label in (*shapes, *(f"{CHOSEN} ({name})" for name in JUDGED)):
        costs = [interval_of(runs, label, c) for c in (ROW_BYTES, FORWARD_MS, HEAD_SECONDS)]
        if None in costs:
            continue
        size, milliseconds, seconds = (c.mean for c in costs if c is not None)
        cells = [label, shapes.get(label, ""), f"{size:,.0f}", f"{milliseconds:.2f}",
                 f"{seconds:.1f}"]  # fmt: skip
        rows.append([*cells, *_metric_cells(runs, label, metrics)])
    random = interval_of(runs, END, RANDOM_HIT5)
    if random is not None:
        cells = _constant_cells(metrics, {"hit5": RANDOM_HIT5.text(random)})
        rows.append([f"{END}, random class vectors", "", "", "", "", *cells])
    chances = {name: f"{100 * value:.1f}" for name, value in study.chances(network).items()}
    rows.append(["chance", "", "", "", "", *_constant_cells(metrics, chances)])
    seeds = counted(study.options.seeds, "seed")
    title = f"{network.name}: {seeds}, means with 95 % intervals"
    return Table(title, columns, rows, text_columns=("features", "shape"))


def _metric_cells(
    runs: Sequence[StudyRun], label: str, metrics: Sequence[StudyMetric]
) -> list[str]:
    cells = []
    for metric in metrics:
        interval = interval_of(runs, label, metric)
        cells.append("-" if interval is None else metric.text(interval))
        if metric.name in JUDGED:
            difference = difference_of(runs, label, END, metric.name) if label != END else None
            cells.append("" if difference is None else metric.difference_text(difference))
    return cells


def _constant_cells(metrics: Sequence[StudyMetric], values: Mapping[str, str]) -> list[str]:
    cells = []
    for metric in metrics:
        cells.append(values.get(metric.name, ""))
        if metric.name in JUDGED:
            cells.append("")
    return cells


def _shape(arm: CutArm) -> str:
    if arm.cut is None:
        return ""
    channels = arm.cut.shape[-1] if len(arm.cut.shape) == 2 else arm.cut.shape[0]
    if arm.form == POOLED:
        return f"{channels}"
    if arm.form == EARLY:
        return f"{channels}x{arm.cut.early_side}x{arm.cut.early_side}"
    return "x".join(map(str, arm.cut.shape))


def _belief_table(network: Network, arms: Sequence[CutArm], runs: Sequence[StudyRun]) -> Table:
    columns = ["the lesson's cut", "features", "bytes, of end's"]
    columns += [f"{metric.heading} minus {END}, points" for metric, _ in JUDGED.values()]
    rows = []
    for belief, cut in network.lesson_cuts.items():
        for form in cut.forms:
            label = f"{cut.block}, {form}"
            if not any(arm.label == label for arm in arms):
                continue
            cells = []
            for metric, _ in JUDGED.values():
                difference = difference_of(runs, label, END, metric.name)
                cells.append(
                    "-"
                    if difference is None
                    else f"{metric.difference_text(difference)}: {verdict(difference, metric)}"
                )
            ratio = _bytes(runs, label) / _bytes(runs, END)
            rows.append([belief, label, f"{ratio:.3g}", *cells])
    title = f"{network.name}: the lesson's cuts against the end"
    return Table(title, columns, rows, text_columns=columns[:2])


def _figures(
    network: Network, arms: Sequence[CutArm], runs: Sequence[StudyRun], suffix: str
) -> dict[str, Figure]:
    figures = {}
    named = {network.cuts[0], *network.lesson_cuts.values()}
    for metric, _ in JUDGED.values():
        series: dict[str, list[Point]] = {}
        for arm in arms:
            interval = interval_of(runs, arm.label, metric)
            if interval is None:
                continue
            name = POOLED if arm.form == END else arm.form
            point = Point(
                x=_bytes(runs, arm.label),
                y=100 * interval.mean,
                low=100 * interval.low if interval.has_interval else None,
                high=100 * interval.high if interval.has_interval else None,
                label=END if arm.form == END else short_name(arm.cut) if arm.cut in named else "",
            )
            series.setdefault(name, []).append(point)
        ordered = {form: series[form] for form in (POOLED, MAP, EARLY, PIXELS) if form in series}
        if ordered:
            figures[f"{metric.name}{suffix}"] = point_figure(
                f"{network.name}: {metric.heading}",
                ordered,
                across="bytes a row",
                upwards=f"{metric.heading}, %, with 95 % intervals",
                log_x=True,
            )
    return figures


def short_name(cut: Cut) -> str:
    """Return the numbers in the name of a cut's block, such as `2.3`; `stem` without numbers.

    Args:
        cut: The cut.
    """
    return ".".join(part for part in cut.block.split(".") if part.isdecimal()) or "stem"


def _network_notes(study: CutStudy, network: Network, runs: Sequence[StudyRun]) -> Iterator[str]:
    data = study.data[network.name]
    num_trained, total = int(data.trained_classes.sum()), len(data.trained_classes)
    named = f"its labels name {num_trained:,} of the {total:,} classes of {study.options.store}"
    if not num_trained:
        yield f"{named}: it was trained on none of them, unless under other names"
    elif data.unseen_are_new:
        yield (
            f"{named}; unseen and validation classes are drawn from the others, so that neither the"
            " network nor the head has learned from them"
        )
    else:
        yield (
            f"{named}: the head has not learned from the unseen classes, but the network has, so"
            " that hit@k compares cuts and is no zero-shot figure"
        )
    if data.probe_is_new and data.probe_trained_classes.any():
        num_new = int((~data.probe_trained_classes).sum())
        yield f"the probe tells apart the {num_new:,} classes that its labels do not name"
    images, stored = data.images, data.images.images.shape[-1]
    size = network.backbone.size
    resized = "" if stored == size else f", which are resized to {size} px"
    yield (
        f"heads learn from {images.num_train:,} images of the split train of {images.store} and are"
        f" tested on {len(images.test_labels):,} of val, of {stored} px{resized}"
    )
    cuts = [f"{short_name(cut)} {belief}" for belief, cut in network.lesson_cuts.items()]
    yield (
        f"labels of figures: {short_name(network.cuts[0])}, the first block; {', '.join(cuts)};"
        f" {END}. Where there is no room, a label is left out."
    )
    # Without the copies of runs that validation chooses.
    labels = {arm.label for arm in study.arms.values() if arm.network is network}
    penalties = [
        run.metrics[name]
        for run in runs
        for name in ("probe_penalty", "devise_penalty")
        if run.arm in labels
    ]
    at_bound = sum(penalty in (PENALTIES[0], PENALTIES[-1]) for penalty in penalties)
    if at_bound:
        yield (
            f"{at_bound} of {len(penalties)} chosen penalties are the smallest or the largest of"
            f" {PENALTIES[0]:g} to {PENALTIES[-1]:g}"
        )


def _notes(study: CutStudy) -> Iterator[str]:
    options = study.options
    yield (
        "Both heads are ridge regressions in the dual form, exact for any number of features: the"
        " probe to one-hot targets, DeViSE to class vectors, which are centred by the mean of the"
        " seen classes. Features are centred and not scaled."
    )
    yield (
        "The probe's penalty is chosen by a fifth of the images of the split train, DeViSE's by"
        f" hit@k on {options.validation_classes} validation classes; neither is trained on or"
        " tested on in the same seed. The heads that are chosen are not trained again."
    )
    yield (
        f"Each of the {options.seeds} seeds draws other validation images, unseen and validation"
        " classes, and tests the probe on another part of the held-out images. Differences are"
        " paired by seed. Of twenty intervals of cuts that do not differ, one excludes 0 by chance."
    )
    yield (
        "Bytes are those of float16 features, of pixels those of uint8. The time a row is the CPU"
        " time of the network up to the cut, the median over batches; that of heads includes inner"
        " products and the choice of the penalty."
    )
    yield (
        f"{EARLY}: the map is averaged over windows of the side of the network's last map, 7 x 7"
        " for 224 px as in the notebook, and the remaining blocks, which were trained on whole"
        " maps, run on it without further training. On the whole map they compute the features of"
        f" {END} exactly: the difference to {END} is what pooling early costs."
    )
