"""`train_detector.py --folds` as a user runs it, on procedural faces of 32 px, half of them made blurred."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

import evaluate
import train_detector
from common.cli import run
from discriminator.detector import Detector
from faces.source import open_source

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "--model hybrid --branches artefact --resolution 32 --epochs 1 --batch 8 --warmup 2 --threads 1 --workers 1"
    " --degradation none --consistency 0 --device cpu --precision fp32 --allow-leaks --no-report"
).split()


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """18 real and 18 fake faces; two of the reals are nearly the same."""
    folder, source = tmp_path_factory.mktemp("data") / "faces", open_source("demo").rendered_at(64)
    for i in range(36):
        label = ("real", "fake")[i % 2]
        image = Image.fromarray(source.image(i if i != 4 else 2))
        if label == "fake":
            image = image.resize((32, 32)).resize((64, 64))
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.save(folder / label / f"{i:02d}.png", compress_level=1 + (i == 4))
    return folder


def call(command, capsys, *arguments) -> SimpleNamespace:
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        run(command, [str(a) for a in arguments])
    captured = capsys.readouterr()
    return SimpleNamespace(code=leaving.value.code or 0, out=captured.out, err=captured.err)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACES_CACHE", str(tmp_path / "cache"))
    for name in ("FACES_DATA_ROOT", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def table(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(faces, tmp_path_factory) -> Path:
    """A finished run of three folds."""
    folder = tmp_path_factory.mktemp("whole")
    env = os.environ | {"FACES_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, ROOT / "train_detector.py", "--data", faces, "--folds", "3", *TINY, "--out", folder / "run"],
        env=env, cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return folder / "run"


def test_every_image_is_judged_by_the_detector_that_never_saw_it(whole, faces):
    plan, rows = json.loads((whole / "folds.json").read_text()), table(whole / "oof.csv")
    assert plan["seed"] == 42 and plan["data"]["images"] == {"real": 18, "fake": 18} and plan["data"]["groups"] == 35
    assert [row["path"] for row in rows] == plan["images"]["path"]
    assert [int(row["fold"]) for row in rows] == plan["images"]["fold"][0]
    fold = {row["path"]: row["fold"] for row in rows}
    assert fold["real/02.png"] == fold["real/04.png"]
    for k in range(3):
        folder = whole / f"fold-{k}"
        config, detector = (
            json.loads((folder / "config.json").read_text()),
            Detector.load(folder / "detector.safetensors"),
        )
        mine = [row for row in rows if row["fold"] == str(k)]
        assert config["data"]["fold"] == {"fold": k, "repeat": 0, "held_out": len(mine)} == detector.meta["fold"]
        seen = sum(config["data"]["train"].values()) + sum(config["data"]["valid"].values())
        assert seen == 36 - len(mine) and config["recipe"]["seed"] == 42
        said = detector.predict(np.asarray(Image.open(faces / row["path"]).convert("RGB")) for row in mine)
        for row, verdict in zip(mine, said, strict=True):
            assert float(row["logit"]) == pytest.approx(verdict.logit, abs=1e-4)
            assert row["verdict"] == verdict.label and float(row["threshold"]) == verdict.threshold
        assert not list(folder.glob("checkpoint*")) and (folder / "log.txt").is_file()


def test_a_fold_of_few_images_is_told_with_intervals(whole):
    told = re.findall(
        r"held-out AUC \d\.\d{4} \(\d\.\d\d to \d\.\d\d\), balanced accuracy [\d.]+ % \(\d+ to \d+\)"
        r" \(of only 6 real and 6 fake images",
        (whole / "log.txt").read_text(),
    )
    assert len(told) == 3


def test_figures_are_scikit_learns(whole, capsys):
    found, rows = json.loads((whole / "metrics.json").read_text()), table(whole / "oof.csv")

    def of(rows) -> tuple:
        label = np.array([int(row["label"]) for row in rows])
        score, own = (np.array([float(row[name]) for row in rows]) for name in ("score", "threshold"))
        return label, score, score >= own

    for one in [*found["each"], None]:
        mine = of([row for row in rows if one is None or row["fold"] == str(one["fold"])])
        label, score, called = mine
        told = {k: v["value"] for k, v in found["pooled"]["metrics"].items()} if one is None else one
        for name in ("precision", "recall", "f1"):
            for kind, how in (("fake", {"pos_label": 1}), ("real", {"pos_label": 0}), ("macro", {"average": "macro"})):
                wanted = getattr(reference, f"{name}_score")(label, called, zero_division=np.nan, **how)
                if told[f"{name}_{kind}"] is not None:
                    assert told[f"{name}_{kind}"] == pytest.approx(wanted), (name, kind)
        assert told["accuracy"] == pytest.approx(reference.accuracy_score(label, called))
        assert told["roc_auc"] == pytest.approx(reference.roc_auc_score(label, score))
    aucs = [one["roc_auc"] for one in found["each"]]
    assert found["spread"]["roc_auc"]["mean"] == pytest.approx(np.mean(aucs))
    assert found["spread"]["roc_auc"]["sd"] == pytest.approx(np.std(aucs, ddof=1))
    page = (whole / "report.html").read_text()
    assert "ROC" in page and page.count("data:image/png") >= 10 and "independent" in page
    # the same counts by evaluate.py, which reads each row's own threshold
    judged = call(evaluate.main, capsys, "detector", whole / "oof.csv", "--json", "e.json", "--resamples", 20)
    assert judged.code == 0, judged.err
    said = json.loads(Path("e.json").read_text())
    assert "each row's own" in judged.out
    assert said["overall"]["confusion"] == found["pooled"]["confusion"]


@pytest.mark.slow  # that of a single training is in the default suite
def test_a_killed_run_goes_on_where_it_was(whole, faces, tmp_path, capsys):
    env = os.environ | {"FACES_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, ROOT / "train_detector.py", "--data", faces, "--folds", "3", *TINY, "--out", "run",
            "--checkpoint-minutes", "0.0000001"]  # fmt: skip
    child = subprocess.Popen(argv, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL)
    folder = tmp_path / "run"
    until = time.monotonic() + 120
    while not list(folder.glob("fold-1/checkpoint-*.pt")):
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    first = (folder / "fold-0" / "detector.safetensors").read_bytes()
    refused = call(train_detector.main, capsys, "--resume", folder / "fold-1")
    assert refused.code == 2 and "one fold of several" in refused.err
    (folder / "fold-2").mkdir()  # ended before its first checkpoint
    (folder / "fold-2" / "log.txt").write_text("begun\n")
    result = call(train_detector.main, capsys, "--resume", "latest", "--outdir", tmp_path, "--threads", 1,
                  "--workers", 1, "--no-report", "--device", "cpu")  # fmt: skip
    assert result.code == 0, result.err
    assert "begins again" in result.out and "fold 0 of 3" not in result.out
    assert (folder / "fold-0" / "detector.safetensors").read_bytes() == first
    # stopped or not, the same bits
    assert (folder / "oof.csv").read_bytes() == (whole / "oof.csv").read_bytes()
    # nothing left to do: only the page is made again
    again = call(train_detector.main, capsys, "--resume", folder, "--no-report", "--device", "cpu")
    assert again.code == 0 and "learns from" not in again.out
    shutil.copytree(faces, tmp_path / "fewer")
    plan = json.loads((folder / "folds.json").read_text())
    plan["options"]["data"] = str(tmp_path / "fewer")
    (folder / "folds.json").write_text(json.dumps(plan))
    os.remove(tmp_path / "fewer" / "real" / "00.png")
    changed = call(train_detector.main, capsys, "--resume", folder, "--device", "cpu")
    assert changed.code == 2 and "not what it was" in changed.err and changed.err.count("\n") == 1


def test_a_test_split_stays_out_and_repeats_are_dealt_anew(faces, tmp_path, capsys):
    with open(tmp_path / "set.csv", "w", encoding="utf-8") as file:
        file.write("path,label,split\n")
        for i, path in enumerate(sorted(faces.glob("*/*.png"))):
            file.write(f"{path},{path.parent.name},{('train', 'train', 'test', 'valid')[i % 4]}\n")
    (tmp_path / "extra").mkdir()
    shutil.copy(faces / "fake" / "01.png", tmp_path / "extra")
    upside_down = Image.open(faces / "real" / "06.png").transpose(Image.Transpose.ROTATE_180)
    upside_down.resize((48, 48)).resize((64, 64)).save(tmp_path / "extra" / "new.png")
    result = call(
        train_detector.main, capsys, "--data", "set.csv", "--folds", 2, "--repeats", 2, *TINY, "--out", "run",
        "--seed", 7, "--balance", "weights", "--extra-fakes", "extra",
    )  # fmt: skip
    assert result.code == 0, result.out + result.err
    assert "test split stays out" in result.out and "class weights" in result.out
    assert "extra fakes extra: 1 image is (nearly) in set.csv already: left out" in result.out
    rows, plan = table(tmp_path / "run" / "oof.csv"), json.loads((tmp_path / "run" / "folds.json").read_text())
    assert len(rows) == 2 * 27 and len({(row["source"], row["path"]) for row in rows}) == len(rows)
    assert plan["seed"] == 7 and plan["images"]["fold"][0] != plan["images"]["fold"][1]
    tested = table(tmp_path / "run" / "repeat-2" / "fold-1" / "test.csv")
    assert len(tested) == 9 and {row["path"] for row in tested}.isdisjoint(row["path"] for row in rows)
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(found["test"]["each"]) == 4 and len(found["by_repeat"]) == 2 and found["spread"]["roc_auc"]["n"] == 4
    seeds = {json.loads(p.read_text())["recipe"]["seed"] for p in (tmp_path / "run").glob("*/*/config.json")}
    assert seeds == {7, 8}
    assert call(evaluate.main, capsys, "detector", "run/oof.csv", "--resamples", 20).code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--folds", "19"], ["--folds 19", "fewer folds"]),
        (["--repeats", "3"], ["--repeats", "--folds"]),
        (["--folds", "3", "--degradation", "no.json"], ["no.json"]),
        (["--folds", "3", "--replay", "runs/x"], ["--replay"]),
        (["--folds", "3", "--out", "."], ["--out", "already holds something"]),
    ],
)
def test_what_does_not_work_is_said_in_one_line(faces, capsys, options, words, tmp_path):
    (tmp_path / "something").touch()
    result = call(train_detector.main, capsys, "--data", faces, *TINY, *options)
    assert result.code == 2 and result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err
