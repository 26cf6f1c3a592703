"""Every script and the notebook of examples/ run, on drawn faces."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from faces.procedural.portrait import render_face

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = pytest.mark.bundled


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with a photo, and faces of two kinds that differ in their grain."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    for i in range(24):
        face = Image.fromarray(render_face(i, 96))
        folder = tmp_path / ("my_reals", "my_fakes")[i % 2]
        folder.mkdir(exist_ok=True)
        (face if i % 2 == 0 else face.resize((48, 48)).resize((96, 96))).save(folder / f"{i}.png")
    Image.fromarray(render_face(30, 256)).save(tmp_path / "photo.jpg", quality=95)
    return tmp_path


def run(name: str, *words: str) -> None:
    """As `python -m examples.NAME`."""
    before, sys.argv = sys.argv, [name, *words]
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv = before


def test_all_examples_are_tested():
    here = Path(__file__).read_text(encoding="utf-8")
    names = {file.stem for file in EXAMPLES.iterdir() if file.suffix in (".py", ".ipynb")}
    assert len(names) == 4 and all(f'"{name}' in here for name in names)


def test_judge_a_photo(capsys):
    run("judge_a_photo", "photo.jpg")
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("photo.jpg: ") and "P(generated) = " in first and last.startswith("the photo: ")


def test_batch_to_csv(place, capsys):
    (place / "my_reals" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    run("batch_to_csv", "my_reals", "verdicts.csv")
    with open("verdicts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["verdict"] for row in rows} <= {"REAL", "FAKE", "UNSURE", "no face"}
    assert "left out: my_reals/broken.jpg: " in capsys.readouterr().err


def test_train_on_two_folders():
    main = runpy.run_path(str(EXAMPLES / "train_on_two_folders.py"), run_name="of a test")["main"]
    file = main("my_reals", "my_fakes", "mine", resolution=32, epochs=1, batch=8, warmup=2)
    from reports.library import judge

    (answer, *_) = judge("photo.jpg", model=file, offline=True).results
    assert answer.verdict in ("REAL", "FAKE", "UNSURE") and "weak detector" in answer.note


def test_the_notebook(place, capsys):
    """Its cells, one after the other, with smaller numbers."""
    notebook = json.loads((EXAMPLES / "own_photos.ipynb").read_text(encoding="utf-8"))
    own = {"__name__": "notebook"}
    small = {"RESOLUTION, EPOCHS, BATCH = 128, 30, 32": "RESOLUTION, EPOCHS, BATCH = 32, 1, 8"}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "the notebook is kept without outputs"
            for old in list(small):
                if old in source:
                    source = source.replace(old, small.pop(old))
            exec(compile(source, "own_photos", "exec"), own)
    out = capsys.readouterr().out
    assert not small and "one image, both labels" in out and "\nmine " in out and "\nshipped " in out
    assert (place / "my_detector" / "explained.png").is_file()
