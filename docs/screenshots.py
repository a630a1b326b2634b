"""Make the screenshots of the documentation: reports and the search page in headless Chromium.

`make pictures` runs this. It prepares the embedded sample, whose photographs come with
scikit-image, trains on it, opens the reports and the search page, and writes `docs/pictures/`. This
takes some minutes, and needs Chromium with its driver (Debian: `chromium-driver`).
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.browser import DRIVER, emulated, open_chromium  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
MARGIN = 16
"""The space below the last element of a screenshot, in pixels."""
COLOURS = 64
"""The number of colours of a screenshot, which keeps the file small."""
TIMEOUT_SECONDS = 60
QUERY = "vehicle + person"

TESSERAE = (sys.executable, "-m", "workflows")
COMMANDS = """
sample photographs --images 400
prepare photographs store --sizes 32 72 224 288 --shard-rows 128 --max-bad 0.1 --no-dashboard
train wgan store --run wgan --image-size 32 --objective hinge --critic-steps 1 --flip
  --critic-norm spectral --generator-width 32 --critic-width 32 --ema 0.99 --ranks 1
  --threads-per-rank 1 --eval-every 100 --steps 800 --no-dashboard
report wgan --device cpu
train devise store --run devise --trunk new --learn all --hierarchy photographs/is-a.txt
  --batch-size 64 --trunk-learning-rate 1e-3 --feature-size 72 --width 16 --hidden-units 256
  --ranks 1 --threads-per-rank 1 --eval-every 50 --steps 200 --no-dashboard
search devise vehicle
"""
"""The commands whose results are shown. Steps end training, not minutes: a slow machine makes the
same screenshots."""

EDGE = """
return [...document.querySelectorAll(arguments[0])].at(arguments[1]).getBoundingClientRect().bottom;
"""
"""A script that returns the lower edge of one of the elements that a CSS selector matches."""
MARK = ".screenshots"
"""The file that tells a folder of these screenshots from others."""
LOADED = """
return document.body.getAttribute('aria-busy') !== 'true'
  && [...document.images].every(image => image.complete || image.loading === 'lazy');
"""


def main() -> None:
    """Run the commands, and make the screenshots."""
    parser = argparse.ArgumentParser(description="Make the screenshots of the documentation.")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("/tmp/tesserae"),
        help="working folder, whose path the screenshots show (default /tmp/tesserae)",
    )
    folder = parser.parse_args().folder
    if DRIVER is None:
        sys.exit("There is no chromedriver. Install it: Debian's package is chromium-driver.")
    if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty, and not of an earlier call. Remove it, or pass another.")
    # The report of a store that was finished before would have no figures of its last run.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for line in COMMANDS.strip().replace("\n  ", " ").splitlines():
        subprocess.run([*TESSERAE, *line.split()], cwd=folder, env=environment, check=True)
    with tempfile.TemporaryDirectory() as profile, open_chromium(Path(profile)) as driver:
        with emulated(driver, width=860):
            driver.get((folder / "store" / "report.html").as_uri())
            _take(driver, "store-report", _edge(driver, ".columns section", -1))
            driver.get((folder / "wgan" / "report.html").as_uri())
            _take(driver, "training-report", _edge(driver, ".charts", -1))
        command = [*TESSERAE, "search", str(folder / "devise"), "--serve", "--port", "0"]
        with emulated(driver, width=700), _server(command) as url:
            driver.get(f"{url}?q={quote_plus(QUERY)}")
            _wait(driver)
            _take(driver, "search-page", _edge(driver, "#images li", 7))


def _edge(driver: Any, selector: str, index: int) -> float:
    return float(driver.execute_script(EDGE, selector, index))


def _wait(driver: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, TIMEOUT_SECONDS).until(lambda page: page.execute_script(LOADED))


def _take(driver: Any, name: str, end: float) -> None:
    """Write a screenshot of the page down to a height in pixels."""
    _wait(driver)
    width = driver.execute_script("return window.innerWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": end + MARGIN, "scale": 1}
    taken = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
    )
    with Image.open(io.BytesIO(base64.b64decode(taken["data"]))) as image:
        reduced = image.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=0)
    PICTURES.mkdir(exist_ok=True)
    reduced.save(PICTURES / f"{name}.png", optimize=True)


@contextmanager
def _server(command: list[str]) -> Iterator[str]:
    """Start the search page, yield its URL, and end it."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if url := re.search(r"http://\S+", line):
                    yield url[0]
                    break
        finally:
            process.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
