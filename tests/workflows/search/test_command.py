"""Tests of `tesserae search`: its options and its output."""

from __future__ import annotations

import csv
import json
import re
import signal
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.images.probe import Probe
from tests.commands import saboteur, start, wait_until
from tests.workflows.search.toy import CLASSES, Toy, make_store, paint
from workflows import cli
from workflows.search import command
from workflows.search import engine as engine_room

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def search(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return a function that runs the command, and returns exit status, output and errors."""
    monkeypatch.setattr(engine_room, "open_model", lambda _, **__: toy)
    monkeypatch.setitem(cli.COMMANDS, "search", "search a run")

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["search", str(tmp_path / "run"), *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_images_are_listed_with_score_class_and_key(search: Command) -> None:
    """The table is the standard output; progress goes to standard error."""
    status, output, errors = search("yellow", "--k", 3)
    lines = output.splitlines()
    assert status == 0
    assert lines[0].split() == ["score", "image", "class", "key"]
    assert len(lines) == 4
    for line in lines[1:]:
        assert re.fullmatch(
            r"0\.\d{3}  #(train|val):\d+ +yellow  n00000003/n00000003_\d+\.png", line
        )
    assert "train: vectors, 39 images" in errors
    again = search("yellow", "--k", 3)
    assert again == (0, output, "")


def test_words_with_the_same_vector_are_listed_in_one_row(search: Command, tmp_path: Path) -> None:
    """Homonyms share a row."""
    paint(4, 3).save(tmp_path / "white.png")
    status, output, _ = search("--image", tmp_path / "white.png", "--to", "words", "--k", 2)
    lines = output.splitlines()
    assert (status, len(lines)) == (0, 3)
    assert lines[0].split()[:3] == ["score", "words", "class"]
    assert re.fullmatch(r"0\.\d{3}  crane +n00000004  white", lines[1])


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["red ~ blue", "--to", "both"], "score"),
        (["green", "--class", "n00000002", "yellow", "--split", "val"], "score"),
        (["#val:3 + red", "--index", "lsh", "--csls"], "score"),
        (["#3", "--split", "val", "train"], "score"),
    ],
)
def test_options_can_be_combined(search: Command, words: list[str], first: str) -> None:
    """Options can be combined in one command."""
    status, output, _ = search(*words)
    assert status == 0
    assert output.startswith(first)


def test_json_output_has_all_results(search: Command) -> None:
    """The standard output is JSON and nothing else."""
    status, output, _ = search("red + blue", "--to", "both", "--k", 2, "--json")
    answer = json.loads(output)
    assert (status, answer["query"]) == (0, "red + blue")
    assert len(answer["images"]) == len(answer["words"]) == 2
    assert {"split", "row", "score", "label", "wnid", "words", "key"} <= answer["images"][0].keys()


def test_free_text_is_searched_by_its_known_words(search: Command) -> None:
    """A notice lists the unknown words."""
    status, output, errors = search("a photo of red", "--k", 3)
    assert status == 0
    assert output == search("red", "--k", 3)[1]
    assert errors.splitlines()[-1] == "notice: unknown words, ignored: a, photo, of"
    assert json.loads(search("dark blue, red", "--json")[1])["passed_over"] == []


@pytest.mark.parametrize("suffix", ["csv", "json", "zip"])
def test_results_are_saved(search: Command, tmp_path: Path, suffix: str) -> None:
    """The file replaces an older one, and the table is printed as without it."""
    file = tmp_path / f"results.{suffix}"
    file.write_bytes(b"old")
    status, output, errors = search("yellow", "--k", 3, "--save", file)
    assert (status, f"{file}: written" in errors) == (0, True)
    assert output == search("yellow", "--k", 3)[1]
    data = file.read_bytes()
    if suffix == "csv":
        assert [line["wnid"] for line in csv.DictReader(data.decode().splitlines())] == [
            "n00000003"
        ] * 3
    elif suffix == "json":
        assert json.loads(data) == json.loads(search("yellow", "--k", 3, "--json")[1])
    else:
        with zipfile.ZipFile(file) as archive:
            assert len(archive.namelist()) == 5


def test_results_cannot_be_saved_in_another_format(search: Command, tmp_path: Path) -> None:
    """The mistake is reported before the run is opened; so is one with --serve."""
    status, _, errors = search("yellow", "--save", tmp_path / "results.xlsx")
    assert (status, "ends in .csv, .json or .zip" in errors) == (1, True)
    for name, file in (("save", "results.csv"), ("grid", "grid.png")):
        status, output, errors = search("yellow", f"--{name}", tmp_path / "no" / file)
        assert (status, output, "images" in errors) == (1, "", False)
        assert (
            f"--{name} is {tmp_path / 'no' / file}: there is no folder {tmp_path / 'no'}" in errors
        )
    status, _, errors = search("--serve", "--save", tmp_path / "results.csv")
    assert (status, "omit save" in errors) == (1, True)


def test_copies_are_results_of_their_own_with_no_fold(search: Command) -> None:
    """The toy's images are no copies, so that both tables are equal."""
    assert search("yellow", "--k", 3, "--no-fold")[1] == search("yellow", "--k", 3)[1]


def test_an_image_is_combined_with_words(search: Command, tmp_path: Path) -> None:
    """The image is the term @; without @ it comes first."""
    paint(3, 9).save(tmp_path / "yellow.png")
    image = ("--image", tmp_path / "yellow.png", "--json")
    assert json.loads(search(*image)[1])["query"] == "@"
    assert json.loads(search("- red", *image)[1])["query"] == "@ - red"
    assert search("- red", *image)[1] == search("@ - red", *image)[1]
    assert {hit["label"] for hit in json.loads(search("--k", 3, *image)[1])["images"]} == {3}


def test_a_decoder_other_than_the_stores_is_reported(
    search: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notice says that pixels differ from those of the store."""
    paint(3, 9).save(tmp_path / "yellow.png")
    assert "notice" not in search("--image", tmp_path / "yellow.png")[2]
    monkeypatch.setattr(command, "probe", lambda _, **rules: Probe("other", "pixels"))
    status, output, errors = search("--image", tmp_path / "yellow.png", "--json")
    assert (status, json.loads(output)["query"]) == (0, "@")
    assert "notice: pixels decoded here differ slightly" in errors
    assert "notice" not in search("yellow")[2]


def test_the_images_are_written_as_a_grid(search: Command, tmp_path: Path) -> None:
    """The grid has images of the smallest stored size."""
    status, _, errors = search("blue", "--k", 4, "--grid", tmp_path / "grid.png")
    assert status == 0
    assert f"{tmp_path / 'grid.png'}: 4 images" in errors
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (18, 18, 3)
    assert grid[:8, :8].mean((0, 1)).argmax() == 2
    assert [path.name for path in tmp_path.glob("*grid*")] == ["grid.png"]


def test_names_are_escaped_in_the_terminal(
    search: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control characters in names of classes and files are escaped."""
    nasty = ("\x1b[2Jred", "\u202egpj", "a\nb", "<b>", "e", "f", "g")
    classes = tuple((wnid, name) for (wnid, _), name in zip(CLASSES, nasty, strict=True))
    store = make_store(tmp_path / "nasty", train=14, val=7, bad=0)
    monkeypatch.setattr(engine_room, "open_model", lambda _, **__: Toy(store, classes))
    for words in (
        ["red", "--k", 50, "--to", "both"],
        ["\x1b[2J"],
        ["red", "--class", "\x1b]0;x\x07"],
    ):
        _, output, errors = search(*words)
        assert all(c.isprintable() or c == "\n" for c in output + errors), words
    assert "\\x1b[2Jred" in search("red", "--k", 50)[1]
    assert "\\u202egpj" in search("red", "--k", 50)[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "the query is empty"),
        (["bleu"], "'bleu' is unknown: did you mean blue"),
        (["@"], "the query has none"),
        (["king -man"], "-man needs a space"),
        (["red", "--k", 0], "k is 0: expected 1 to 1,000"),
        (["red", "--split", "test"], "no split 'test'"),
        (["red", "--class", "gren"], "did you mean green"),
        (["red", "--grid", "x.jpg"], "expected a name that ends in .png"),
        (["red", "--grid", "x.png", "--to", "words"], "--grid shows images"),
        (["--image", "http://example.org/a.jpg"], "is a URL: expected a file"),
        (["--image", "/nowhere/a.jpg"], "there is no file /nowhere/a.jpg"),
        (["--image", "~no-such-user/a.jpg"], "there is no file ~no-such-user/a.jpg"),
        (["--image", "/"], "there is no file /"),
        (["--image", "/dev/zero"], "there is no file /dev/zero"),
        (["--image", __file__], "the file is not an image (a text file): expected JPEG, PNG"),
        (["red", "--serve"], "omit query"),
        (["--serve", "--json"], "omit json"),
        (["--serve", "--port", "70000"], "--port is 70000"),
        (["--serve", "--allow-host", "*.example.org"], "expected one name or address without"),
        (["--serve", "--host", "192.0.2.1"], "Choose a --host of this machine"),
    ],
)
def test_mistakes_are_one_line_errors(search: Command, words: list[str], expected: str) -> None:
    """The exit status is 1, and no file is written."""
    status, output, errors = search(*words)
    assert (status, output) == (1, "")
    last = errors.splitlines()[-1]
    assert last.startswith("tesserae: ")
    assert expected in last


def test_an_invalid_query_is_reported_before_embedding(search: Command, tmp_path: Path) -> None:
    """A mistyped query embeds no store."""
    for words in (["red +"], ["--serve", "--host", "192.0.2.1"], ["--image", "/nowhere"]):
        assert search(*words)[0] == 1
    assert not (tmp_path / "run").exists()


def test_an_image_file_that_is_too_large_is_not_read(search: Command, tmp_path: Path) -> None:
    """The size is checked before the file is read."""
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(21 * 2**20)
    assert "has 22,020,096 bytes: expected at most" in search("--image", tmp_path / "large.png")[2]


HOOK = """
import sys
sys.path.insert(0, {root!r})


def no_model(module):
    from tests.workflows.search.toy import Toy
    module.open_model = lambda run, **_: Toy({store!r})


def known(module):
    module.COMMANDS["search"] = "search a run"


after_import("workflows.search.engine", no_model)
after_import("workflows.cli", known)
"""


@pytest.mark.slow
def test_a_page_is_served_until_ctrl_c(store: str, tmp_path: Path) -> None:
    """The command prints the URL and leaves no process; a taken port is one sentence."""
    hook = HOOK.format(root=str(Path(__file__).parents[3]), store=store)
    words = ("search", tmp_path / "run", "--serve", "--port")
    with saboteur(tmp_path / "hook", hook) as path:
        options: dict[str, Any] = {"scratch": tmp_path, "extra_path": path}
        with start(*words, 0, **options) as command:
            assert wait_until(lambda: "search: " in command.out), command.err
            url = re.search(
                r"search: (http://127\.0\.0\.1:(\d+)/)  \(stop with Ctrl-C\)", command.out
            )
            assert url, command.out
            assert "train: exact, 42 vectors of 16" in command.out
            assert "notice" not in command.out
            with urllib.request.urlopen(f"{url[1]}api/search?q=red", timeout=30) as reply:
                assert json.load(reply)["images"]
            data = next(Path(store).parent.glob("val/*/*.png")).read_bytes()
            with urllib.request.urlopen(f"{url[1]}api/search", data, timeout=30) as reply:
                assert json.load(reply)["images"]
            with start(*words, url[2], **options) as second:
                assert second.wait() == 1
                assert f"cannot listen on port {url[2]} of 127.0.0.1" in second.err
            command.signal_all(signal.SIGINT)
            assert command.wait(20) == 130
            assert command.gone(10)
            assert command.err.splitlines()[-1] == "tesserae: stopped."


@pytest.mark.slow
def test_serving_on_all_interfaces_gives_a_notice(store: str, tmp_path: Path) -> None:
    """The notice says that others can search and see the images."""
    hook = HOOK.format(root=str(Path(__file__).parents[3]), store=store)
    with (
        saboteur(tmp_path / "hook", hook) as path,
        start(
            "search", tmp_path / "run", "--serve", "--host", "0.0.0.0", "--port", 0, "--csls",
            scratch=tmp_path, extra_path=path,
        ) as command,
    ):  # fmt: skip
        assert wait_until(lambda: "search: " in command.out), command.err
        assert "notice: anyone who can reach 0.0.0.0 can search here and see" in command.out
        url = re.search(r"search: (\S+)", command.out)
        assert url
        with urllib.request.urlopen(f"{url[1]}api/search?q=red&csls=1", timeout=30) as reply:
            assert json.load(reply)["images"]
        command.signal_all(signal.SIGTERM)
        assert command.wait(20) == 130
        assert command.gone(10)
