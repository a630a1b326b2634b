"""The card of an exported network: what it was trained on and with, and how well it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import yaml

from workflows.runs.dataset_card import markdown_cell
from workflows.runs.option_text import option_text
from workflows.training.run_folder import RunFolder


def model_card(run: RunFolder, *, title: str, task: str, step: int, licence: str | None) -> str:
    """Return the README.md of an exported network: facts in YAML, and a page in Markdown.

    Args:
        run: The folder of the run.
        title: Heading that names the network, such as `span, which enlarges by 4`.
        task: The task by which the hub is searched, such as `image-classification`.
        step: The number of complete steps at the exported checkpoint.
        licence: The licence of the weights, as an identifier of the hub; None is unknown.

    Raises:
        TesseraeError: The options or the metrics of the run are invalid.
    """
    facts = {
        "license": licence or "unknown",
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["tesserae"],
    }
    header = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{header}---\n\n{model_description(run, title=title, step=step)}"


def model_description(run: RunFolder, *, title: str, step: int) -> str:
    """Return the page of the card alone, in Markdown; of paths and URLs it has the last part.

    Args:
        run: The folder of the run.
        title: Heading that names the network, such as `span, which enlarges by 4`.
        step: The number of complete steps at the exported checkpoint.

    Raises:
        TesseraeError: The options or the metrics of the run are invalid.
    """
    record = run.read_options()
    looks = [line for line in run.metrics() if line.get("what") == "look" and line["step"] <= step]
    command = f"tesserae train {record['options'].get('stage', '')}"
    lines = [
        f"# {title}",
        "",
        f"Trained by `{command}`; the weights are those of step {step:,}.",
        "",
        *_evaluation(looks),
        *_table("Option", _public(record["options"])),
        *_table("Data", _public(record.get("data") or {})),
        *_table("Version at the start of the run", record.get("versions") or {}),
    ]
    return "\n".join(lines)


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values without the places of files on this machine, which no reader can use.

    Of paths and URLs, which may hold names of users and credentials, the last part is left.
    """
    return {name: _last_part(value) for name, value in values.items() if name != "store_from_run"}


def _last_part(value: Any) -> Any:
    if isinstance(value, list):
        return [_last_part(item) for item in value]
    if not isinstance(value, str) or not ("://" in value or value.startswith(("/", ".", "~"))):
        return value
    path = urlsplit(value).path if "://" in value else value
    return path.rstrip("/").rpartition("/")[2] or "-"


def _evaluation(looks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the last evaluation before the checkpoint as a table; nothing without one."""
    if not looks:
        return []
    last = looks[-1]
    values = {n: v for n, v in last.items() if n not in ("step", "generation", "what")}
    return _table(f"Evaluation during training, at step {last['step']:,}", values)


def _table(title: str, values: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {markdown_cell(name)} | {markdown_cell(option_text(value))} |"
        for name, value in values.items()
        if value is not None
    ]
    return [f"| {title} | |", "|---|---|", *rows, ""] if rows else []
