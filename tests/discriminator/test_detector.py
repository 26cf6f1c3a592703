"""The detector file and its one way to a verdict."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import stat
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from common.errors import UserError
from discriminator.detector import HEADER_KEY, Detector, merge_norms, round_to_half
from discriminator.locate import find_detector
from discriminator.models import NetworkOptions, new_network
from discriminator.verdict import decide
from faces.preprocess import Preprocess


def header_of(path) -> tuple[dict, dict]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][HEADER_KEY])
    return header, safetensors.torch.load(data)


def rewrite(path, header: dict, tensors: dict) -> None:
    path.write_bytes(safetensors.torch.save(tensors, {HEADER_KEY: json.dumps(header)}))


def test_a_detector_survives_its_file_bit_for_bit(detector, photos, tmp_path):
    path = tmp_path / "detector.safetensors"
    digest = detector.save(path)
    again = Detector.load(path)
    for (name, a), (other, b) in zip(detector.net.state_dict().items(), again.net.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    assert again.calibration == detector.calibration
    assert again.preprocess == detector.preprocess
    assert again.meta == {"trained_on": "nothing"}
    assert again.sha256 == digest == detector.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for a, b in zip(detector.predict(photos), again.predict(photos), strict=True):
        assert a == b
        assert np.array_equal(a.patch_map, b.patch_map)


def test_weights_rounded_to_half_lie_so_in_the_file_and_lose_nothing_more(detector, photos, tmp_path):
    whole = detector.save(tmp_path / "whole.safetensors")
    net = copy.deepcopy(detector.net)
    round_to_half(net)
    rounded = Detector(net, detector.preprocess, detector.calibration, detector.meta)
    assert rounded.save(tmp_path / "half.safetensors") != whole
    tensors = safetensors.torch.load_file(tmp_path / "half.safetensors")
    for name, tensor in detector.net.state_dict().items():
        large = tensor.ndim > 1 and tensor.numel() >= 1024
        assert tensors[name].dtype == (torch.float16 if large else torch.float32)
        assert np.array_equal(tensors[name].numpy(), tensor.numpy().astype(tensors[name].numpy().dtype))
    again = Detector.load(tmp_path / "half.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in again.net.state_dict().values())
    for a, b in zip(rounded.predict(photos), again.predict(photos), strict=True):
        assert a == b
    assert again.save(tmp_path / "again.safetensors") == rounded.sha256


@torch.no_grad()
def test_merging_keeps_what_batch_norms_need_to_learn_on():
    """Batch norm in training mode does not see the scale of what it is given (Ioffe and Szegedy 2015, section 3.3),
    so that a network whose scales went over into its convolutions answers as before in both modes."""
    pytest.importorskip("timm")
    net = new_network("timm:tf_efficientnet_lite0", 32, options=NetworkOptions(), seed=0)
    draw = torch.Generator().manual_seed(0)
    for norm in (part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        norm.eps = 1e-14  # what it adds to a variance is not scaled
        norm.weight.copy_(torch.rand(len(norm.weight), generator=draw) + 0.5)
        norm.bias.copy_(torch.randn(len(norm.bias), generator=draw) / 4)
    x = torch.randn(16, 3, 64, 64, generator=draw) / 2
    net.train().verdict(x)
    merged = copy.deepcopy(net)
    names = merge_norms(merged)
    assert len(names) == 49
    convolution = merged.body.net.conv_stem.weight
    assert not torch.allclose(convolution, net.body.net.conv_stem.weight, rtol=0.1)
    for mode in (False, True):
        answers = []
        for part in (net, merged):
            torch.manual_seed(0)  # dropout
            answers.append(part.train(mode).verdict(x).logit)
        a, b = answers
        assert a.std() > 1e-3 and (a - b).abs().max() < 0.02 * a.std(), mode


@torch.no_grad()
def test_merged_norms_add_only_and_merge_no_further():
    pytest.importorskip("timm")
    net = new_network("timm:tf_efficientnet_lite0", 32, options=NetworkOptions(), seed=1)
    net.train().verdict(torch.randn(4, 3, 32, 32))
    round_to_half(net)
    for norm in (part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        assert torch.equal(norm.weight / (norm.running_var + norm.eps).sqrt(), torch.ones_like(norm.weight))
    again = copy.deepcopy(net)
    round_to_half(again)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), net.state_dict().values(), strict=True))


def test_equal_detectors_are_equal_files(detector, tmp_path):
    """Header entries in hash order would change from one saving to the next."""
    assert len({detector.save(tmp_path / f"{i}.safetensors") for i in range(5)}) == 1
    again = Detector.load(tmp_path / "0.safetensors")
    assert again.save(tmp_path / "again.safetensors") == detector.sha256


def test_verdicts_of_mixed_sizes_keep_their_order_and_do_not_depend_on_the_batch(detector, photos):
    alone = [detector.predict([photo])[0] for photo in photos]
    for batch in (1, 3, 64):
        together = detector.predict(photos, batch=batch)
        assert [v.label for v in together] == [v.label for v in alone]
        np.testing.assert_allclose([v.logit for v in together], [v.logit for v in alone], atol=1e-5)
    assert np.ptp([v.logit for v in alone]) > 1e-3
    assert detector.predict([]) == []


def test_images_are_taken_one_at_a_time(detector, photos):
    taken = []

    def source():
        for i, photo in enumerate(photos):
            taken.append(i)
            yield photo

    assert len(detector.predict(source(), batch=2)) == len(photos) == len(taken)


def test_a_verdict_is_the_network_then_the_calibration(detector, photos):
    verdict = detector.predict(photos)[3]
    pixels = torch.from_numpy(Preprocess(32)(photos[3]))[None]
    with torch.no_grad():
        out = detector.net.verdict(pixels)
    point = detector.calibration.at()
    assert verdict.logit == pytest.approx(float(out.logit), abs=1e-5)
    assert verdict.probability == pytest.approx(float(detector.calibration.probability(out.logit.numpy())[0]), abs=1e-6)
    assert (verdict.threshold, verdict.fpr, verdict.n_real) == (point.threshold, point.fpr, 400)
    np.testing.assert_allclose(verdict.patch_map, out.patch_logits.sigmoid()[0].numpy(), atol=1e-5)
    assert verdict.patch_map.shape == (8, 8)
    assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["verdict"] == verdict.label


def test_labels_at_the_edges(detector):
    point = replace(detector.calibration.at(), threshold=0.8, unsure_low=0.3)
    assert [decide(p, point) for p in (0.0, 0.29, 0.3, 0.79, 0.8, 1.0)] == [
        "REAL",
        "REAL",
        "UNSURE",
        "UNSURE",
        "FAKE",
        "FAKE",
    ]


def test_the_asked_rate_sets_the_threshold(detector, photos):
    strict, loose = (detector.predict(photos, fpr=fpr)[0] for fpr in (0.005, 0.05))
    assert strict.threshold > loose.threshold and strict.fpr <= 0.005
    with pytest.raises(UserError, match=r"0\.2"):
        detector.predict(photos, fpr=0.2)


def test_small_images_are_remarked_on(detector, photos):
    notes = [v.note for v in detector.predict(photos)]
    assert notes[0] == detector.caution and "90x17" in notes[2] and "5x5" in notes[5]


def test_a_network_that_gives_no_numbers_is_not_believed(detector, photos):
    with torch.no_grad():
        detector.net.verdict_head.out.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        detector.predict(photos)


def test_network_and_preprocessing_must_fit(hybrid, detector):
    with pytest.raises(ValueError, match="64 px"):
        Detector(hybrid(), Preprocess(64), detector.calibration)
    with pytest.raises(ValueError, match="1 channels"):
        Detector(hybrid(), Preprocess(32, channels=1), detector.calibration)


def test_detectors_without_an_artefact_branch_have_no_map(hybrid, detector, photos, tmp_path):
    spatial = Detector(hybrid(branches=("spatial",)), Preprocess(32), detector.calibration)
    spatial.save(tmp_path / "d.safetensors")
    assert Detector.load(tmp_path / "d.safetensors").predict(photos)[0].patch_map is None


def test_a_network_trained_in_bfloat16_judges_as_in_its_file(hybrid, detector, photos, tmp_path):
    mixed = Detector(hybrid(trunk={"num_lowp_res": 2}).train(), Preprocess(32), detector.calibration)
    before = mixed.predict(photos)
    mixed.save(tmp_path / "d.safetensors")
    assert Detector.load(tmp_path / "d.safetensors").predict(photos) == before


class Runs:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_files_that_are_no_detectors_are_refused_in_one_line(detector, tmp_path):
    good = tmp_path / "good.safetensors"
    detector.save(good)
    data = good.read_bytes()
    header, tensors = header_of(good)
    cases = {}

    def case(name: str, content: bytes, word: str) -> None:
        (tmp_path / name).write_bytes(content)
        cases[name] = word

    case("empty", b"", "cut short")
    case("text", b"these are not weights at all", "not a detector file")
    case("half", data[: len(data) // 2], "cut short")
    case("nearly", data[:-1], "cut short")
    case("header", data[:50], "cut short")
    case("plain.safetensors", safetensors.torch.save({"a": torch.zeros(2)}), "without a detector's header")
    case("pickle.pt", pickle.dumps(Runs(tmp_path / "ran")), "could run code")
    torch.save({"a": torch.zeros(2)}, tmp_path / "zip.pt")
    case("zip.pt", (tmp_path / "zip.pt").read_bytes(), "could run code")
    case("generator", safetensors.torch.save({}, {"format": "some-generator"}), "some-generator")
    for name, word in cases.items():
        with pytest.raises(UserError, match=word) as caught:
            Detector.load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="no such detector"):
        Detector.load(tmp_path / "absent")
    with pytest.raises(UserError, match="is a folder"):
        Detector.load(tmp_path)


def test_headers_and_tensors_that_do_not_fit_are_refused(detector, tmp_path):
    path = tmp_path / "d.safetensors"
    detector.save(path)
    header, tensors = header_of(path)
    name = "verdict_head.out.weight"

    def refused(word: str, header=header, tensors=tensors) -> None:
        rewrite(path, header, tensors)
        with pytest.raises(UserError, match=word):
            Detector.load(path)

    refused("version 2", {**header, "version": 2})
    refused("calibration", {k: v for k, v in header.items() if k != "calibration"})
    refused("temperature", {**header, "calibration": {"bias": 1}})
    refused("verdict_dim", {**header, "architecture": {**header["architecture"], "verdict_dim": 10**9}})
    huge = {**header["architecture"]["trunk"], "channel_base": 2**40, "channel_max": 2**40}
    refused("channel_base", {**header, "architecture": {**header["architecture"], "trunk": huge}})
    refused("resolution", {**header, "preprocess": {"crop": "none"}})
    refused("missing", tensors={k: v for k, v in tensors.items() if k != name})
    refused("does not belong", tensors={**tensors, "extra": torch.zeros(1)})
    refused("not float32", tensors={**tensors, name: torch.zeros(1, 9)})
    refused("not float32", tensors={**tensors, name: tensors[name].half()})
    refused("not numbers", tensors={**tensors, name: torch.full_like(tensors[name], float("inf"))})


def test_saving_is_all_or_nothing(detector, tmp_path, monkeypatch):
    path = tmp_path / "d.safetensors"
    detector.save(path)
    before = path.read_bytes()
    detector.meta["trained_on"] = "something else"

    def full_disk(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError):
        detector.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def test_the_file_can_be_read_by_others(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "d.safetensors").stat().st_mode) == 0o666 & ~umask


def test_where_a_detector_is_found(detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make demo"):
        find_detector(None)
    shipped = tmp_path / "models" / "detector.safetensors"
    shipped.parent.mkdir()
    shipped.touch()
    assert find_detector(None, shipped=[shipped]) == shipped
    with pytest.raises(UserError, match="make demo"):
        find_detector("latest")
    grouped = tmp_path / "runs" / "demo" / "00000-demo" / "detector.safetensors"
    grouped.parent.mkdir(parents=True)
    grouped.touch()
    assert find_detector(None, shipped=[shipped]) == shipped, "no run judges unasked"
    assert find_detector("latest", shipped=[shipped]).samefile(grouped)
    for i in range(3):
        run = tmp_path / "runs" / f"0000{i}-x"
        run.mkdir(parents=True)
        (run / "detector.safetensors").touch()
    (tmp_path / "runs" / "00009-unfinished").mkdir()
    assert find_detector("latest").parent.name == "00002-x"
    assert find_detector("runs/00002-x").parent.name == "00002-x"
    assert str(find_detector("some/file")) == os.path.join("some", "file")
    with pytest.raises(UserError, match="00009-unfinished"):
        find_detector("runs/00009-unfinished")
