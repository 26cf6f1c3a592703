"""The sheet of maps, and the table of what they are worth."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from discriminator.explaining.attributions import Attribution
from discriminator.explaining.methods import DEFAULT
from discriminator.verdict import Verdict

pytest.importorskip("captum")
from reports.explaining import STAGES, lines_of, table  # noqa: E402
from reports.explanation_sheet import COLUMNS, GAP, HEAD, TILE, Face, sheet  # noqa: E402
from reports.verdict_panels import default_methods  # noqa: E402

VERDICT = Verdict("FAKE", 0.97, 0.8, 0.3, 0.01, 500, 3.0, note="small")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32) * 2 - 1


@pytest.mark.parametrize("shape", [(20, 20), (2000, 300), (300, 2000), (1, 400)])
def test_a_sheet_of_any_photo_and_name(shape):
    maps = [Attribution("patches", noise(16, 16)), Attribution("saliency", np.abs(noise(32, 32))),
            Attribution("lrp", None, "lrp: there is no rule for «erf», which this network uses")]  # fmt: skip
    page = sheet(np.zeros((*shape, 3), np.uint8), VERDICT, maps, title="a" * 500 + "\n\x1b[31m写真.jpg")
    assert page.dtype == np.uint8 and page.shape[2] == 3
    assert page.shape[1] == 3 * (TILE + GAP) + GAP, "the photo, and the two maps that there are"


def test_the_photo_stays_visible_under_every_map():
    """Under the strongest colour two fifths of the photo's contrast are left, and without any all of it."""
    photo = np.zeros((TILE, TILE, 3), np.uint8)
    photo[:, ::2] = 255
    for value, left in ((1.0, 0.4), (0.0, 1.0), (-1.0, 0.4)):
        page = sheet(photo, VERDICT, [Attribution("patches", np.full((4, 4), value, np.float32))], crop="none")
        tile = page[HEAD + 10 : HEAD + 60, 2 * GAP + TILE + 4 : 2 * GAP + TILE + 54].astype(int)
        assert np.ptp(tile[0, :, 1]) == pytest.approx(255 * left, abs=2)


def test_many_maps_go_into_rows_and_a_small_face_is_laid_back():
    maps = [Attribution("patches", noise(4, 4))] * 6
    corners = np.array([[0.1, 0.1], [0.4, 0.1], [0.4, 0.4], [0.1, 0.4]])
    page = sheet(
        np.zeros((400, 400, 3), np.uint8), VERDICT, maps, view=np.zeros((64, 64, 3), np.uint8),
        face=Face(2, 3, corners),
    )  # fmt: skip
    assert page.shape[1] == COLUMNS * (TILE + GAP) + GAP and page.shape[0] > 2 * TILE


def test_lines_for_the_screen_have_no_line_in_them():
    """A note of a method is a paragraph of the Markdown file, and a line of the screen, and names its method once."""
    told = {"method": "patches", "note": "patches: this network gives no patch map", "deletion": {"n": 0},
            "better": {"value": None}}  # fmt: skip
    result = SimpleNamespace(to_json=lambda: {"methods": [told]}, notes=["few"], favoured="", images=[])
    assert list(lines_of(result))[2:] == [
        f"| patches | – | – | – | {' | '.join('–' for _ in STAGES)} | – |",
        "patches: this network gives no patch map",
        "note: few",
    ]
    assert "\n\npatches: this network" in "\n".join(table(result.to_json()))


def test_the_table_has_the_best_first_and_the_random_order_last():
    def row(method: str, better: float, note: str = "") -> dict:
        mean = {"value": better, "low": better - 0.1, "high": better + 0.1, "n": 3}
        return {"method": method, "note": note, "deletion": mean, "insertion": mean, "better": mean, "seconds": mean,
                "like": {"all layers": mean}}  # fmt: skip

    none = {**row("lrp", 0.0, "lrp: no rule"), "deletion": {"value": None, "low": None, "high": None, "n": 0}}
    lines = list(table({"methods": [row("lime", 0.1), row("random", 0.9), row("occlusion", 0.3), none]}))
    names = [line.split("|")[1].strip() for line in lines[2:6]]
    assert names == ["occlusion", "lime", "lrp", "random"] and "+0.300 [+0.200, +0.400]" in lines[2]
    assert lines[6:] == ["", "lrp: no rule"]


def test_the_documents_table_is_that_of_its_file():
    docs = Path(__file__).resolve().parents[2] / "docs"
    told = json.loads((docs / "explain.json").read_text(encoding="utf-8"))
    assert "\n".join(table(told)) in (docs / "results.md").read_text(encoding="utf-8")
    assert told["favoured"] == DEFAULT and len(told["images"]) == 100


def test_the_shipped_detector_is_explained_by_what_the_figures_favour():
    shipped = SimpleNamespace(detector=SimpleNamespace(has_patches=True), file=Path("detector.safetensors"))
    assert default_methods(shipped) == (("patches", DEFAULT), "")
    methods, note = default_methods(SimpleNamespace(detector=shipped.detector, file=Path("detector.onnx")))
    assert methods == ("patches",) and DEFAULT in note
