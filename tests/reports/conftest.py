"""A small invented run folder with every file a finished training run leaves."""

import json

import numpy as np
import pytest
from PIL import Image

from faces.procedural.portrait import render_face


def sheet(first: int, blur: int) -> Image.Image:
    faces = [np.asarray(Image.fromarray(render_face(first + i, 32)).reduce(blur).resize((32, 32))) for i in range(16)]
    rows = [np.concatenate(faces[4 * r : 4 * r + 4], axis=1) for r in range(4)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def stat(mean, num=100):
    return {"num": num, "mean": float(mean), "std": 0.1}


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "00003-demo"
    run.mkdir()
    rng = np.random.default_rng(0)
    config = {
        "options": {"data": "demo", "cfg": "tiny", "aug": "ada", "augpipe": "bgc", "target": 0.6, "mirror": False,
                    "degradation": "train", "device": "cpu", "seed": 0},
        "resolution": 64, "world_size": 1, "kimg": 12.0, "batch": 16, "lr": 0.0025, "gamma": 0.0512,
        "precision": "fp32",
        "verdict_batch": 32, "generator": {"channel_base": 2048, "channel_max": 256},
        "data_facts": {"fingerprint": "5d41402a", "summary": "2000 training faces, 400 validation, 400 test"},
    }  # fmt: skip
    (run / "config.json").write_text(json.dumps(config))
    with open(run / "stats.jsonl", "w") as f:
        for i in range(60):
            k = i / 5
            row = {
                "nimg": int(1000 * k), "kimg": k, "tick": i, "Progress/augment": min(0.002 * i, 0.85),
                "Timing/sec_per_kimg": 9 + rng.random(), "Timing/total_sec": 9.5 * k,
                "Loss/G/loss": stat(1 + 0.4 * np.sin(i / 9) + 0.1 * rng.normal()),
                "Loss/D/loss": stat(1.2 - 0.01 * i + 0.1 * rng.normal()),
                "Loss/scores/fake": stat(-1 + 0.3 * rng.normal()), "Loss/scores/real": stat(1 + 0.3 * rng.normal()),
                "Loss/signs/real": stat(0.4 + 0.1 * rng.normal()), "Loss/verdict": stat(0.7 * np.exp(-i / 30)),
                "Verdict/accuracy": stat(1 - 0.5 * np.exp(-i / 25)), "Gradients/G": stat(0.5 + rng.random()),
                "Gradients/D": stat(0.9 + rng.random()), "Gradients/nonfinite_G": stat(0.0),
            }  # fmt: skip
            f.write(json.dumps(row) + "\n")
        for step in range(10, 200, 10):
            row = {"nimg": 12000, "kimg": 12.0, "verdict_step": step, "Loss/verdict": stat(0.3 / (1 + step / 50)),
                   "Verdict/accuracy": stat(0.85 + step / 2000)}  # fmt: skip
            f.write(json.dumps(row) + "\n")
        f.write('{"nimg": 1')  # cut off by a crash
    with open(run / "metrics.jsonl", "w") as f:
        for k in (2, 4, 6, 8, 10, 12):
            row = {"nimg": 1000 * k, "kimg": float(k), "metric": "fid768_1k", "fid": 0.9 * 2 ** (-k / 3), "dims": 768}
            f.write(json.dumps(row) + "\n")
        f.write(json.dumps({"nimg": 12000, "kimg": 12.0, "metric": "verdict", "valid_auc": 0.99}) + "\n")
    for kimg, blur in ((0, 32), (3, 8), (6, 4), (9, 2), (12, 1)):
        sheet(0, blur).save(run / f"fakes-{kimg:06d}.000.png")
    sheet(100, 1).save(run / "reals.png")
    label = np.repeat([0, 1], 300)
    score = np.clip(1 / (1 + np.exp(-(rng.normal(size=600) + np.where(label, 2.2, -2.2)))), 0, 1)
    np.savez(run / "scores.npz", score=score, label=label, origin=np.where(label, "own generator", "real"))
    figures = {"auc": 0.985, "balanced_accuracy_at_half": 0.96, "tpr": 0.9, "tpr_own_generator": 0.9,
               "false_alarm_rate": 0.013, "threshold": 0.62, "n_real": 300}  # fmt: skip
    verdict = {"kimg": 12.0, "measured_on": "test", "adversarial_logit_auc": 0.61, "validation": {"valid_auc": 0.99}}
    verdict |= {"held_out_clean": figures, "held_out_web": figures | {"auc": 0.95}, "held_out_hard": figures}
    (run / "verdict.json").write_text(json.dumps(verdict))
    return run
