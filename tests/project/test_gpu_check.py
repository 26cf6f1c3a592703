"""`make gpu-check` without a GPU: every stage at tiny sizes, limits, going on, the page and the document's table."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import gpu_check, gpu_page, gpu_stages
from benchmarks.gpu_stages import STAGES, Scale

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dry() -> dict:
    """Results of all stages on the CPU, in this process (but for the list of tests)."""
    stages = {}
    for name, stage in STAGES.items():
        rows = [] if name == "tests" else list(stage.run(Scale("cpu", True)))
        stages[name] = {"what": stage.what, "state": "done", "seconds": 1.0, "limit": stage.limit, "rows": rows}
    return {"format": 1, "settings": {"device": "cpu", "tiny": True}, "stages": stages}


def test_every_stage_runs_and_its_rows_fill_the_tables(dry):
    rows = gpu_page.rows_of(json.loads(json.dumps(dry)))
    assert rows["native"]["why"] and rows["machine"]["torch"]
    for key in ("train/auto/256/bf16", "train/auto/128/bf16", "train/paper256/256/bf16", "train/auto/128/reference"):
        assert rows[key]["sec_per_kimg"] > 0 and rows[key]["peak_gb"] > 0
    assert rows["sampling/256/bf16"]["images_per_second"] > 0 and rows["sampling/256/graphs"]["none"]
    assert rows["fid/features"]["images_per_second"] > 0 and rows["fid/mind"]["seconds"] > 0
    assert sum(key.startswith("ops/") and row["percent_of_copy"] > 0 for key, row in rows.items()) >= 4
    assert rows["sanitizer"]["none"]
    page, table = gpu_page.page(dry), gpu_page.markdown(dry)
    assert "A dry run at tiny sizes" in table and "<script" not in page
    (line,) = (line for line in table.splitlines() if line.startswith("| native, bf16 |") and line.count("|") == 5)
    assert all(float(cell) > 0 for cell in line.split("|")[2:5])
    assert "| CUDA graphs | n/a | n/a | n/a |" in table and "compute-sanitizer memcheck, errors | n/a |" in table
    assert f"<td>{float(line.split('|')[3]):.1f}</td>" in page


def test_every_cell_s_key_is_one_that_a_stage_gives():
    """Of a GPU's run: the keys are made of the names that stages loop over."""
    from benchmarks.ops import Maker, cases

    given = {"operations", "tests", "fid/features", "fid/distance", "fid/mind"}
    given |= {f"sanitizer/{tool}" for tool in gpu_stages.SANITIZER_TOOLS}
    for cfg in ("auto/128", "auto/256", "paper256/256"):
        given |= {f"train/{cfg}/{what}" for what in ("fp16", "bf16", "graphs")}
    given |= {f"train/auto/{size}/{way}" for size in (128, 256) for way in ("reference", "torch")}
    given |= {"train/auto/256/verdict"}
    ways = ("fp16", "bf16", "reference", "graphs", "memory")
    given |= {f"sampling/{size}/{way}" for size in (256, 1024) for way in ways}
    for case in cases("256", ["float16", "float32"], ("bias_act", "upfirdn2d", "modulated_conv2d"), Maker(1, None, "")):
        key = f"ops/{case.op}/{case.what}/{case.resolution}/{case.dtype}"
        given |= {f"{key}/{direction}" for direction in ("forward", "backward")}
    for _, body in gpu_page.TABLES:
        for name, places in body:
            for place in places:
                assert place is None or place[0] in given, name


def test_the_document_has_the_table_and_is_filled(dry, tmp_path):
    document = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    block = document.split(gpu_page.BEGIN)[1].split(gpu_page.END)[0]
    known = [line.split("|")[1] for line in gpu_page.markdown({}).splitlines() if line.startswith("| ")]
    assert [line.split("|")[1] for line in block.splitlines() if line.startswith("| ")] == known
    copy, results = tmp_path / "performance.md", tmp_path / "gpu-check.json"
    copy.write_text(document, encoding="utf-8")
    results.write_text(json.dumps(dry))
    command = [sys.executable, "benchmarks/gpu_check.py", "fill", str(results), "--document", str(copy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    filled = copy.read_text(encoding="utf-8")
    assert filled.replace(filled.split(gpu_page.BEGIN)[1].split(gpu_page.END)[0], block) == document
    assert gpu_page.UNMEASURED not in filled and gpu_page.filled(filled, {}).count(gpu_page.UNMEASURED) == 1
    with pytest.raises(ValueError, match="marks"):
        gpu_page.filled("nothing", dry)


WORK = {
    "doctor": "put({'key': 'a', 'x': 1}); put({'key': 'a', 'x': 2}); put({'key': 'b', 'x': 3})",
    "train-256": "put({'key': 'c', 'x': 4}); child(); time.sleep(60)",
    "train-128": "put({'key': 'd', 'x': 5}); raise SystemExit('no such thing')",
}


@dataclass(frozen=True)
class Staged(gpu_check.Check):
    """A check whose stages are lines of Python: `put(row)`, and `child()`, a process that outlives its parent."""

    work: tuple = tuple(WORK.items())

    def command(self, name: str) -> list[str]:
        rows, child = str(self.file(name, "jsonl")), str(self.out / "child")
        head = (
            "import json, subprocess, sys, time\n"
            f"def put(row): open({rows!r}, 'a').write(json.dumps(row) + '\\n')\n"
            "def child():\n"
            "    one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            f"    open({child!r}, 'w').write(str(one.pid))\n"
        )
        return [sys.executable, "-c", head + dict(self.work)[name]]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for a process in /proc")
def test_stages_are_ended_at_their_limit_kept_and_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "SHORTEST", 0.5)
    monkeypatch.setattr(gpu_check, "RESERVE", 0.0)
    limits = {**STAGES, "train-256": gpu_stages.Stage("slow", STAGES["train-256"].run, 4.0)}
    monkeypatch.setattr(gpu_check, "STAGES", limits)
    check = Staged(tmp_path / "out", Scale("cpu", True), 2, ("doctor", "train-256", "train-128"))
    began = time.monotonic()
    found = gpu_check.run(check, lambda line: None)["stages"]
    assert time.monotonic() - began < 40
    assert list(found) == ["doctor", "train-256", "train-128"]  # in order of worth
    assert found["doctor"]["rows"] == [{"key": "a", "x": 2}, {"key": "b", "x": 3}]
    assert found["train-256"]["state"] == "stopped at its limit" and found["train-256"]["rows"] == [
        {"key": "c", "x": 4}
    ]
    assert not alive(int((tmp_path / "out" / "child").read_text()))
    assert found["train-128"]["state"] == "failed (exit code 1)" and "no such thing" in found["train-128"]["log"]
    assert "stopped at its limit" in (tmp_path / "out" / "gpu-check.html").read_text()

    told = []
    mended = {**WORK, "doctor": "raise SystemExit(3)", "train-256": "put({'key': 'c', 'x': 6})"}
    again = Staged(check.out, check.scale, 2, check.only, tuple(mended.items()))
    found = gpu_check.run(again, told.append)["stages"]
    assert "doctor     done before" in told and found["doctor"]["rows"][0]["x"] == 2
    assert found["train-256"] | {"seconds": 0} == {
        "what": "slow", "state": "done", "seconds": 0, "limit": 4.0, "rows": [{"key": "c", "x": 6}], "log": ""
    }  # fmt: skip
    assert json.loads(check.target.read_text())["stages"] == found

    short = Staged(tmp_path / "short", check.scale, 0.0, ("doctor",))
    assert gpu_check.run(short, lambda line: None)["stages"]["doctor"]["state"] == "no time left"
    with pytest.raises(ValueError, match="give another --out"):
        gpu_check.run(Staged(check.out, Scale("cuda"), 1))


def test_an_optional_stage_runs_only_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "STAGES", {"seeds": STAGES["seeds"]})
    check = gpu_check.Check(tmp_path, Scale("cpu", True))
    assert gpu_check.run(check, lambda line: None)["stages"] == {}
    found = gpu_check.run(gpu_check.Check(tmp_path, Scale("cpu", True), only=("seeds",)), lambda line: None)
    assert found["stages"]["seeds"]["state"] == "done" and "flickr140k" in found["stages"]["seeds"]["rows"][0]["none"]


def test_without_a_gpu_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, gpu_check.__file__, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    assert "sees no CUDA GPU here" in line and "--device cpu --tiny" in line


def test_tests_are_counted_as_they_come(tmp_path):
    (tmp_path / "tests").mkdir()
    body = "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip\ndef test_c(): pass\n"
    (tmp_path / "tests" / "test_x.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir"]
    command += [str(tmp_path), str(tmp_path / "tests")]
    rows = list(gpu_stages.run_pytest(command, "tests"))
    assert len(rows) == 4 and rows[0]["passed"] == 1 and "failed" not in rows[0]
    last = rows[-1]
    assert (last["passed"], last["failed"], last["skipped"], last["exit_code"]) == (1, 1, 1, 1)
    assert last["which"][0].endswith("tests/test_x.py::test_b")
    assert any("assert 0" in line for line in last["last_lines"])


def test_the_job_runs_without_an_environment(tmp_path, monkeypatch):
    import bootstrap

    called = []
    monkeypatch.setattr(bootstrap, "is_complete", lambda kind: False)
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command, cwd=None: called.append((command, cwd)) or 0)
    assert bootstrap.main(["gpu-check", "--tiny"]) == 0
    script = os.path.join("benchmarks", "gpu_check.py")
    assert called == [([sys.executable, script, "--tiny"], bootstrap.ROOT)]
