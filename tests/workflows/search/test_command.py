"""`tesserae search`: what a person types, and what the terminal says."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
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

Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def search(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Told:
    """Runs the command over the small store; gives its exit status and what it said."""
    monkeypatch.setattr(engine_room, "open_model", lambda _, **__: toy)
    monkeypatch.setitem(cli.COMMANDS, "search", "search a run")

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["search", str(tmp_path / "run"), *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_pictures_are_listed_with_what_they_are(search: Told) -> None:
    """Score, split and row, class, key: progress goes elsewhere."""
    status, said, beside = search("yellow", "--k", 3)
    lines = said.splitlines()
    assert status == 0
    assert lines[0].split() == ["score", "picture", "class", "key"]
    assert len(lines) == 4
    for line in lines[1:]:
        assert re.fullmatch(
            r"0\.\d{3}  #(train|val):\d+ +yellow  n00000003/n00000003_\d+\.png", line
        )
    assert "train: vectors, 39 images" in beside
    again = search("yellow", "--k", 3)
    assert again == (0, said, "")


def test_words_are_listed_with_those_that_are_just_as_near(search: Told, tmp_path: Path) -> None:
    """A homonym once."""
    paint(4, 3).save(tmp_path / "white.png")
    status, said, _ = search("--image", tmp_path / "white.png", "--to", "words", "--k", 2)
    lines = said.splitlines()
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
def test_everything_can_be_asked_for(search: Told, words: list[str], first: str) -> None:
    """In one line."""
    status, said, _ = search(*words)
    assert status == 0
    assert said.startswith(first)


def test_a_program_gets_everything(search: Told) -> None:
    """As JSON and nothing else."""
    status, said, _ = search("red + blue", "--to", "both", "--k", 2, "--json")
    found = json.loads(said)
    assert (status, found["query"]) == (0, "red + blue")
    assert len(found["images"]) == len(found["words"]) == 2
    assert {"split", "row", "score", "label", "wnid", "words", "key"} <= found["images"][0].keys()


def test_free_text_is_searched_with_what_is_known(search: Told) -> None:
    """What is passed over is said beside the answer."""
    status, said, beside = search("a photo of red", "--k", 3)
    assert status == 0
    assert said == search("red", "--k", 3)[1]
    assert beside.splitlines()[-1] == "notice: unknown words, ignored: a, photo, of"
    assert json.loads(search("dark blue, red", "--json")[1])["passed_over"] == []


def test_a_picture_is_combined_with_words(search: Told, tmp_path: Path) -> None:
    """@ says where it belongs; without, it comes first."""
    paint(3, 9).save(tmp_path / "yellow.png")
    image = ("--image", tmp_path / "yellow.png", "--json")
    assert json.loads(search(*image)[1])["query"] == "@"
    assert json.loads(search("- red", *image)[1])["query"] == "@ - red"
    assert search("- red", *image)[1] == search("@ - red", *image)[1]
    assert {hit["label"] for hit in json.loads(search("--k", 3, *image)[1])["images"]} == {3}


def test_another_decoder_than_the_store_was_made_with_is_told(
    search: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it makes of a picture is not quite what lies there."""
    paint(3, 9).save(tmp_path / "yellow.png")
    assert "notice" not in search("--image", tmp_path / "yellow.png")[2]
    monkeypatch.setattr(command, "probe", lambda _, **rules: Probe("other", "pixels"))
    status, said, beside = search("--image", tmp_path / "yellow.png", "--json")
    assert (status, json.loads(said)["query"]) == (0, "@")
    assert "notice: pixels decoded here differ slightly" in beside
    assert "notice" not in search("yellow")[2]


def test_the_pictures_found_are_put_in_one(search: Told, tmp_path: Path) -> None:
    """As the smallest array has them."""
    status, _, beside = search("blue", "--k", 4, "--grid", tmp_path / "grid.png")
    assert status == 0
    assert f"{tmp_path / 'grid.png'}: 4 images" in beside
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (18, 18, 3)
    assert grid[:8, :8].mean((0, 1)).argmax() == 2
    assert [path.name for path in tmp_path.glob("*grid*")] == ["grid.png"]


def test_names_cannot_write_on_the_terminal(
    search: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a class or a file is called."""
    nasty = ("\x1b[2Jred", "\u202egpj", "a\nb", "<b>", "e", "f", "g")
    classes = tuple((wnid, name) for (wnid, _), name in zip(CLASSES, nasty, strict=True))
    store = make_store(tmp_path / "nasty", train=14, val=7, bad=0)
    monkeypatch.setattr(engine_room, "open_model", lambda _, **__: Toy(store, classes))
    for words in (
        ["red", "--k", 50, "--to", "both"],
        ["\x1b[2J"],
        ["red", "--class", "\x1b]0;x\x07"],
    ):
        _, said, beside = search(*words)
        assert all(c.isprintable() or c == "\n" for c in said + beside), words
    assert "\\x1b[2Jred" in search("red", "--k", 50)[1]
    assert "\\u202egpj" in search("red", "--k", 50)[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "there is nothing to search for"),
        (["bleu"], "'bleu' is not known: did you mean blue"),
        (["@"], "give one"),
        (["king -man"], "-man needs a space"),
        (["red", "--k", 0], "k is 0: expected 1 to 1,000"),
        (["red", "--split", "test"], "no plan for split 'test'"),
        (["red", "--class", "gren"], "did you mean green"),
        (["red", "--grid", "x.jpg"], "expected a name that ends in .png"),
        (["red", "--grid", "x.png", "--to", "words"], "--grid shows images"),
        (["--image", "http://example.org/a.jpg"], "is a URL: expected a file"),
        (["--image", "/nowhere/a.jpg"], "there is no file /nowhere/a.jpg"),
        (["--image", "/"], "there is no file /"),
        (["--image", "/dev/zero"], "there is no file /dev/zero"),
        (["--image", __file__], "the file is no image (a text file): expected JPEG, PNG"),
        (["red", "--serve"], "leave out query"),
        (["--serve", "--json"], "leave out json"),
        (["--serve", "--port", "70000"], "--port is 70000"),
        (["--serve", "--allow-host", "*.example.org"], "expected one name or address without"),
        (["--serve", "--host", "192.0.2.1"], "Choose a --host of this machine"),
    ],
)
def test_a_mistake_is_one_sentence(search: Told, words: list[str], says: str) -> None:
    """And exit status 1, before anything was made of it."""
    status, said, beside = search(*words)
    assert (status, said) == (1, "")
    last = beside.splitlines()[-1]
    assert last.startswith("tesserae: ")
    assert says in last


def test_what_cannot_be_understood_is_told_before_hours_of_work(
    search: Told, tmp_path: Path
) -> None:
    """A mistyped query embeds no store."""
    for words in (["red +"], ["--serve", "--host", "192.0.2.1"], ["--image", "/nowhere"]):
        assert search(*words)[0] == 1
    assert not (tmp_path / "run").exists()


def test_a_picture_that_is_too_large_is_not_read(search: Told, tmp_path: Path) -> None:
    """However it begins."""
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


def test_a_page_is_served_until_ctrl_c(store: str, tmp_path: Path) -> None:
    """Says where; nobody is left behind; a second one at the same port is one sentence."""
    hook = HOOK.format(root=str(Path(__file__).parents[3]), store=store)
    words = ("search", tmp_path / "run", "--serve", "--port")
    with saboteur(tmp_path / "hook", hook) as path:
        options: dict[str, Any] = {"scratch": tmp_path, "extra_path": path}
        with start(*words, 0, **options) as command:
            assert wait_until(lambda: "search: " in command.out), command.err
            url = re.search(
                r"search: (http://127\.0\.0\.1:(\d+)/)  \(Ctrl-C ends it\)", command.out
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
def test_who_serves_to_others_is_told(store: str, tmp_path: Path) -> None:
    """That they see the pictures."""
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
