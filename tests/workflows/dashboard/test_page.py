"""The dashboard in a real browser during a run, and its JSON and its metrics."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.browser import emulated, page_width
from tests.commands import saboteur, start, wait_until
from tests.images import make_folder
from workflows.terminal.formatting import three_digits

NASTY = ("<script>document.title='no'<_script>", "x\x1b[31mred", "<img src=x onerror=alert(2)>")
DELAYED_FINISH = """
import time

def hold(module):
    end = module.finish_split

    def finish_split(*words, **options):
        while not __import__("os").path.exists("{gate}"):
            time.sleep(0.05)
        return end(*words, **options)

    module.finish_split = finish_split

after_import("pipeline.ingest.finish", hold)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images, some broken, and some with hostile names."""
    root = make_folder(tmp_path_factory.mktemp("source") / "train", 90, bad=6)
    folder = next(root.iterdir())
    for name in NASTY:
        (folder / f"{name}.JPEG").write_bytes(b"")
    return root


def get(url: str) -> str:
    """Return the body of the response to a GET of *url*."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


PAGE_TEXT_SCRIPT = """
const texts = [];
const visit = root => { for (const node of root.querySelectorAll('*')) if (node.shadowRoot) {
  texts.push(node.shadowRoot.textContent); visit(node.shadowRoot); } };
visit(document); return texts.join(' ');
"""
"""A script that returns the text of the page, which bokeh puts into shadow roots."""


@pytest.mark.slow
def test_page_json_and_metrics_show_the_figures_of_the_run(
    source: Path, tmp_path: Path, chromium: Any
) -> None:
    """The figures on the page, in JSON and for Prometheus equal those of the summary."""
    gate = tmp_path / "gate"
    words = ("--sizes", 16, 24, "--shard-rows", 16, "--chunk-rows", 8, "--max-bad", 1)
    store = tmp_path / "store"
    with (
        saboteur(tmp_path / "held", DELAYED_FINISH.format(gate=gate)) as patched_path,
        start(
            "prepare", source, store, *words, scratch=tmp_path, extra_path=patched_path
        ) as command,
    ):
        assert wait_until(lambda: "dashboard: " in command.out)
        url = re.search(r"dashboard: (http://127\.0\.0\.1:\d+)/", command.out)
        assert url, command.out
        chromium.get(f"{url[1]}/tesserae")
        assert wait_until(lambda: chromium.title == "Dask: Tesserae")
        chromium.get_log("browser")
        assert wait_until(lambda: ": finished" in _text(chromium)), _text(chromium)
        names = [name.replace("\x1b", "\\x1b") for name in NASTY]
        assert wait_until(lambda: all(name in _text(chromium) for name in names)), _text(chromium)
        page_text = _text(chromium)
        with emulated(chromium, width=400):
            assert page_width(chromium) <= 400
        assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
        facts = json.loads(get(f"{url[1]}/tesserae.json"))["runs"][0]
        metrics = get(f"{url[1]}/metrics")
        chromium.get(f"{url[1]}/status")
        assert (
            chromium.find_element("link text", "Tesserae")
            .get_attribute("href")
            .endswith("/tesserae")
        )
        gate.touch()
        assert command.wait() == 0, command.err
        output = command.out

    rows, rate = re.search(r"this run +(\d+) rows in .*?, ([\d,.]+) images/s", output).groups()
    assert facts["rows_done"] == int(rows) == 93
    assert f"{facts['rows_done']:,}" in page_text
    assert facts["counts"] == {"readable": 84, "truncated": 6, "empty": 3}
    shown = three_digits(facts["images_per_second"]["run"])  # the summary rounds slow rates more
    assert float(rate.replace(",", "")) == pytest.approx(float(shown.replace(",", "")), rel=0.01)
    assert re.search(r"Images/s\s*" + re.escape(shown), page_text), page_text
    assert re.search(r'tesserae_rows_done_total\{.*split="train".*\} 93\.0', metrics)
    assert re.search(r'tesserae_rows_by_status\{.*status="empty".*\} 3\.0', metrics)


def _text(chromium: Any) -> str:
    time.sleep(0.2)
    return str(chromium.execute_script(PAGE_TEXT_SCRIPT))
