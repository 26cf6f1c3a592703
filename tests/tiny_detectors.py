"""Three tiny detectors that know something, the faces they know it of, and `evaluate.py` as a user runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import evaluate
from discriminator.calibration import calibrate
from discriminator.detector import Detector
from discriminator.hybrid import HybridConfig, HybridDiscriminator
from faces.preprocess import Preprocess
from faces.procedural.portrait import render_face
from stylegan2_ada.config import DiscriminatorConfig
from tests.program import Program

NAMES = {"a": (32, 0, "center"), "b": (32, 1, "center"), "c": (16, 2, "pad")}


def detector_of(side, seed, crop, photos, labels, meta):
    """A random network whose last layer was fitted: it knows something, not everything."""
    torch.manual_seed(seed)
    cfg = HybridConfig(DiscriminatorConfig(side, channel_base=128, channel_max=8), artefact_channels=4, verdict_dim=8)
    net, kept = HybridDiscriminator(cfg).eval(), []
    hook = net.verdict_head.out.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    pre = Preprocess(side, crop)
    with torch.no_grad():
        net.verdict(torch.from_numpy(np.stack([pre(photo) for photo in photos])))
    hook.remove()
    known = torch.cat(kept).numpy()
    scaler = StandardScaler().fit(known)
    found = LogisticRegression(max_iter=1000).fit(scaler.transform(known), labels)
    with torch.no_grad():
        net.verdict_head.out.weight.copy_(torch.from_numpy(found.coef_ / scaler.scale_))
        net.verdict_head.out.bias.zero_()
    plain = Detector(net, pre, calibrate(np.arange(40.0), np.arange(40) % 2))
    logits = np.array([v.logit for v in plain.predict(photos)])
    return Detector(net, pre, calibrate(logits, labels, default_fpr=0.05), meta)


def make_place(root: Path) -> Path:
    """data/{valid,test}/{real,fake} and three detectors, one of which looks at photos in its own way."""
    rng, number = np.random.default_rng(0), 0
    for split in ("valid", "test"):
        for label in ("real", "fake"):
            (root / "data" / split / label).mkdir(parents=True)
            for i in range(40):
                face = Image.fromarray(render_face(number, 48)).crop((0, 0, 48 - i % 5, 48))
                if label == "fake":
                    face = face.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.2)))
                pixels = np.asarray(face) + rng.normal(0, 1, (48, 48 - i % 5, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
                    root / "data" / split / label / f"{i:02d}.png"
                )
                number += 1
    paths = sorted((root / "data" / "valid").rglob("*.png"))
    photos = [np.asarray(Image.open(path)) for path in paths]
    labels = np.array([int("fake" in str(path)) for path in paths])
    for name, (side, seed, crop) in NAMES.items():
        meta = {"trained_on": "nothing", "steps": 10, "recipe": {"batch": 8, "seed": 0}, "train_images": {"real": 20}}
        detector_of(side, seed, crop, photos, labels, meta).save(root / f"{name}.safetensors")
    (root / "run").mkdir()
    shutil.copy(root / "b.safetensors", root / "run" / "detector.safetensors")
    rows = [{"Timing/total_sec": 90.0, "Progress/epoch": 2.5}, {"Timing/total_sec": 180.0, "Progress/epoch": 5}]
    (root / "run" / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def run(*words, code=0):
    done = CliRunner().invoke(Program(evaluate.main), [str(word) for word in words])
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.output if code == 0 else done.stderr


def refused(*words):
    line = run(*words, code=2).strip()
    assert line.startswith("error: ") and "\n" not in line, line
    return line
