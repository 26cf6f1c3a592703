"""`python train_gan.py --grow-from`: a trained run of 8 pixels goes on at 16."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from stylegan2_ada.files import load_generator
from tests.cli.test_train_gan_resume import assert_equal, refused
from training.checkpoint import checkpoint_path, checkpoints, load

SMALL, LARGE = "00000-photos-8-tiny", "00001-photos-16-tiny"


@pytest.fixture(scope="module")
def made() -> dict:
    """Where the small run of this module lies; made by the first test that needs it."""
    return {}


@pytest.fixture
def small(made, train, photos, tmp_path_factory, tmp_path) -> Path:
    """runs/ with a finished run at 8 pixels."""
    if "run" not in made:
        folder = tmp_path_factory.mktemp("small")
        done = train("--data", photos, "--mirror", cwd=folder)
        assert done.code == 0, done.err
        made["run"] = folder / "runs" / SMALL
    (tmp_path / "runs").mkdir()
    return Path(shutil.copytree(made["run"], tmp_path / "runs" / SMALL))


def test_a_run_grows_and_goes_on_as_if_it_had_not_been_stopped(start, train, small, tmp_path):
    """`latest` gives data, preset and mirroring; the end of the small game is what goes on, and config.json says so."""
    asked = ("--grow-from", "latest", "--resolution", 16)
    done = train(*asked)
    assert done.code == 0, done.err
    end = checkpoint_path(small, 6)
    relative = end.relative_to(tmp_path)
    assert f"grown       from {relative} (8 x 8, 0.02 kimg)" in done.out
    run = tmp_path / "runs" / LARGE
    config = json.loads((run / "config.json").read_text())
    assert config["grown_from"] == {"checkpoint": str(relative), "resolution": 8, "kimg": 0.024}
    assert config["options"]["grow_from"] == str(relative) and config["options"]["mirror"] is True
    assert config["ema_rampup"] is None and config["ada_kimg"] == 500
    assert load_generator(next(run.glob("generator-*.safetensors")))[0].cfg.resolution == 16
    # in two halves, without the run it grew from
    (tmp_path / "halves").mkdir()
    shutil.copytree(small, tmp_path / "halves" / "runs" / SMALL)
    done = train(*asked, "--kimg", 0.012, "--verdict-kimg", 0, cwd=tmp_path / "halves")
    assert done.code == 0, done.err
    halves = tmp_path / "halves" / "runs" / LARGE
    shutil.rmtree(tmp_path / "halves" / "runs" / SMALL)
    done = train("--resume", halves, "--kimg", 0.024, "--verdict-kimg", 0.024, small=False)
    assert done.code == 0, done.err
    ends = [load(checkpoints(folder)[-1], "gan") for folder in (run, halves)]
    assert ends[0]["phase"] == ends[1]["phase"] == "done" and ends[0]["game"]["step_index"] == 6
    assert_equal(ends[0]["game"], ends[1]["game"])
    assert json.loads((halves / "config.json").read_text())["grown_from"] == config["grown_from"]


def test_a_step_that_changes_nothing_shows_what_was_copied(train, small, tmp_path):
    still = ("--lr", 1e-30, "--kimg", 0.004, "--verdict-kimg", 0)
    done = train("--grow-from", small, "--resolution", 16, *still)
    assert done.code == 0, done.err
    old = load(checkpoint_path(small, 6), "gan")["game"]
    new = load(checkpoint_path(tmp_path / "runs" / LARGE, 1), "gan")["game"]
    for name, value in old["G"].items():
        assert name == "mapping.w_avg" or torch.allclose(new["G"][name], value, rtol=1e-6), name
    assert not new["G"]["synthesis.blocks.2.torgb.weight"].abs().max() > 1e-20
    for name in ("conv.weight", "fc.weight", "out.weight"):
        torch.testing.assert_close(new["D"][f"trunk.{name}"], old["D"][f"trunk.{name}"], rtol=1e-6, atol=0)
    torch.testing.assert_close(new["D"]["trunk.blocks.1.skip.weight"], old["D"]["trunk.blocks.0.skip.weight"])


def test_a_preset_that_widens_with_the_resolution_grows_with_the_widths_it_began_with(train, photos, tmp_path):
    """Of 12 channels at 8x8 and 6 at 16x16, where a new run has 16 and 12: also when it is resumed, and grown again."""
    widening = {"FACES_TEST_WIDENING": "1"}
    short = ("--kimg", 0.004, "--verdict-batch", 0)
    first = train("--data", photos, *short, **widening)
    assert first.code == 0, first.err
    grown = train("--grow-from", tmp_path / "runs" / SMALL, "--resolution", 16, *short, **widening)
    assert grown.code == 0, grown.err
    assert "the old run's widths go on: 6 channels at 16x16, a new --cfg tiny has 12" in grown.out
    again = train("--resume", tmp_path / "runs" / LARGE, "--kimg", 0.008, small=False, **widening)
    assert again.code == 0, again.err
    G, _ = load_generator(tmp_path / "runs" / LARGE / "generator-000000.008.safetensors")
    assert [G.cfg.channels(res) for res in (4, 8, 16)] == [16, 12, 6]
    refused(train("--grow-from", "latest", "--resolution", 32, *short, **widening), "3 channels at 32x32 can't hand")
    refused(
        train("--grow-from", tmp_path / "runs" / SMALL, "--resolution", 16, *short, "--cfg", "auto", **widening),
        "12 generator channels at 8x8, this run 16 with --cfg auto",
    )


def test_what_cannot_grow_is_refused_before_anything_is_written(train, small, photos, tmp_path):
    refused(train("--grow-from", small, "--resume", small, "--resolution", 16), "--grow-from", "--resume")
    refused(train("--grow-from", small, "--resolution", 8), "--grow-from", "8x8 already", "--resolution 16")
    refused(train("--grow-from", small, small=False), "--grow-from", "add --resolution 16")
    refused(train("--grow-from", small, "--resolution", 16, "--channels", 1), "--channels 3")
    refused(train("--grow-from", "absent", "--resolution", 16), "--grow-from absent", "no such run")
    refused(train("--grow-from", "latest", "--resolution", 16, "--outdir", "other"), "other", "--grow-from")
    (small / "config.json").unlink()
    refused(train("--grow-from", small, "--resolution", 16), "no config.json")
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [SMALL]


def test_a_dry_run_says_where_it_would_grow_from(train, small):
    done = train("--grow-from", small, "--resolution", 16, "--dry-run")
    assert done.code == 0, done.err
    resolved = json.loads(done.out)
    assert resolved["grown_from"]["resolution"] == 8 and resolved["resume"] is None
