"""`detect.py --evidence`, `--stability` and their pictures, by the shipped detector without PyTorch."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

import detect
from evidence import credentials
from faces.decode import decode_image
from tests.evidence import made
from tests.program import Program


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(made.png(("parameters", made.PARAMETERS)))
    (tmp_path / "b.jpg").write_bytes(made.saved(made.picture(1, side=96), exif=made.exif({0x010F: "Canon"})))
    (tmp_path / "c.jpg").write_bytes(made.saved(made.picture(2))[:700])
    return tmp_path


def run(*words: str):
    result = CliRunner().invoke(Program(detect.main), [*words, "--runtime", "onnx", "--face", "whole"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_no_score_knows_of_the_files_story(place):
    plain = json.loads(run("a.png", "b.jpg", "c.jpg", "--json").stdout)
    both = json.loads(run("a.png", "b.jpg", "c.jpg", "--json", "--evidence").stdout)
    stories = [row.pop("evidence") for row in both["results"]]
    for one, other in zip(plain["results"], both["results"], strict=True):
        for row in (one, other):
            row.pop("seconds")
        assert one == other
    found = [{line["kind"]: line["found"] for line in story} for story in stories]
    assert found[0]["generator tag"] == "present" and found[1]["generator tag"] == "unknown"
    assert found[1]["camera tags"] == "present" and found[1]["JPEG tables"] == "present"
    assert found[2]["SHA-256"] == "present", "what is unreadable has a story, too"
    assert set(stories[0][0]) >= {"kind", "found", "says", "proves", "cannot_prove"}


@pytest.mark.parametrize("words", [["--ela", "e.png"], ["--stability", "--curve", "e.svg"], ["--explain", "e.png"]])
def test_the_next_step_names_pictures_that_are_there(words, place):
    """Of several photos there are e-0001.png and e-0002.png, and it said e.png."""
    two, kind = ("b.jpg", "d.jpg"), words[-1].removeprefix("e")
    (place / "d.jpg").write_bytes((place / "b.jpg").read_bytes())
    told = run(*two, *words).stderr.splitlines()[-1]
    assert told == f"Next: look at e-0001{kind} to e-0002{kind}"
    assert (place / f"e-0001{kind}").is_file() and (place / f"e-0002{kind}").is_file()
    assert run("b.jpg", *words).stderr.splitlines()[-1] == f"Next: look at e{kind}"
    again = [*words[:-1], f"g{kind}"]
    (place / f"g{kind}").write_bytes(b"older")
    assert run(*two, *again).stderr.splitlines()[-1] == f"Next: look at g-0001{kind} to g-0002{kind}"
    assert run(*two, *words[:-1], "folder").stderr.splitlines()[-1] == "Next: look at folder"


def test_the_terminal_and_the_pictures(place):
    result = run("b.jpg", "--evidence", "--stability", "--ela", "ela.png", "--curve", "curve.svg")
    assert "camera tags: present: Canon" in result.stdout and "cannot prove" in result.stdout
    assert "would it survive: " in result.stdout and "JPEG 95" in result.stdout
    assert (place / "curve.svg").read_text().startswith("<svg")
    assert result.stderr.endswith("Next: look at ela.png and curve.svg\n"), result.stderr
    with Image.open(place / "ela.png") as image:
        assert image.size == (192, 96)
    taken = run("b.jpg", "--ela", "b.jpg")
    assert taken.exit_code == 2
    alone = run("b.jpg", "--curve", "x.png")
    assert alone.exit_code == 2 and "--stability" in alone.stderr


def test_each_picture_has_the_name_of_its_own_photo_and_may_be_as_large_as_was_asked(place, monkeypatch):
    """Also behind what holds no photos, and of a name that leaves no room for a number before it."""
    long = f"{'ä' * 120}.jpg"  # 244 bytes
    for seed, (name, side) in enumerate({"d.jpg": 64, long: 80}.items()):
        (place / name).write_bytes(made.saved(made.picture(seed, side=side)))
    (place / "empty").mkdir()
    allowed = []
    decode = lambda *args, **how: allowed.append(how) or decode_image(*args, **how)  # noqa: E731
    monkeypatch.setattr("reports.file_story.decode_image", decode)
    more = ("--ela", "levels", "--max-pixels", "200", "--explain", "patches", "--explain-to", "maps")
    result = run("empty", "b.jpg", "absent.jpg", "d.jpg", long, *more)
    assert result.exit_code == 2 and "empty: no image files" in result.stderr
    names = {"0001-b.png": 96, "0003-d.png": 64, f"0004-{'ä' * 115}.png": 80}
    assert {path.name for path in (place / "maps").iterdir()} == set(names)
    assert {path.name: Image.open(path).height for path in (place / "levels").iterdir()} == names
    assert allowed == 3 * [{"max_pixels": 200_000_000}]
    alone = run("empty", "b.jpg", "--explain", "patches", "--explain-to", "b.png")
    assert (place / "b.png").is_file() and alone.exit_code == 2


def test_each_line_below_a_verdict_says_what_it_is_of(place):
    """An unreadable file's story stood below the file before it; and scores were told that verdicts don't tell."""
    said = run("b.jpg", "c.jpg", "--evidence", "--stability").stdout.splitlines()
    whose = [i for i, line in enumerate(said) if "  b.jpg" in line or "  c.jpg" in line]
    assert len(whose) == 2 and said[whose[1]].startswith("could not be read")
    sums = [i for i, line in enumerate(said) if "SHA-256" in line]
    assert whose[0] < sums[0] < whose[1] < sums[1]
    versions = next(line for line in said if "JPEG 95" in line)
    assert versions.count(";") == 10 and "REAL" not in versions and "FAKE" not in versions and "1.00" not in versions


def test_nothing_is_fetched():
    assert credentials.OFFLINE["verify"] == {"remote_manifest_fetch": False, "ocsp_fetch": False}
    assert credentials.OFFLINE["core"]["allowed_network_hosts"] == []
