"""The page in a real browser. By hand: `python -m pytest -m browser tests/web/test_browser.py`, with Debian's chromium
and `pip install playwright axe-playwright-python`. $CHROMIUM: another browser; $SCREENSHOTS: a folder for pictures;
$PATIENCE: times as much waiting, for a machine that has other work, too."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faces.procedural.portrait import render_face
from tests.web.running import running

PATIENCE = float(os.environ.get("PATIENCE", "1"))
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600 * PATIENCE)]
ROOT = Path(__file__).resolve().parents[2]
OWN = ("file:", "blob:", "data:")
MODEL = ROOT / "models" / "detector.safetensors"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server that compares the detector with itself at its own, with a small generator."""
    from stylegan2_ada.config import GeneratorConfig

    pytest.importorskip("playwright")
    from web.api import build_app
    from web.body import Limits
    from web.opened import open_more, open_service
    from web.options import ServeOptions

    generator = os.environ.get("GENERATOR") or str(_generator(tmp_path_factory.mktemp("g"), GeneratorConfig))
    asked = ServeOptions(model=str(MODEL), compare=str(MODEL), generator=generator, allow_urls=True)
    service = open_service(asked, (MODEL,))
    app = build_app(service, Limits.of(asked), threads=2, more=open_more(asked, (MODEL,)))
    with running(app) as there:
        yield there


def _generator(folder: Path, config) -> Path:
    import torch

    from stylegan2_ada.files import save_generator
    from stylegan2_ada.generator import Generator

    torch.manual_seed(1)
    path = folder / "generator-000000.safetensors"
    save_generator(path, Generator(config(resolution=32, img_channels=3)))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for i in range(40):
        paths.append(folder / f"photo {i:02d}.jpg")
        Image.fromarray(render_face(i, 256)).save(paths[-1], quality=92)
    group = np.concatenate([render_face(50 + i, 256) for i in range(3)], 1)
    Image.fromarray(np.asarray(group)).save(folder / "group.jpg", quality=92)
    (folder / "=broken.png").write_bytes(b"not a picture")
    frames = [Image.fromarray(render_face(7, 256 - 8 * (i % 2)).copy()).resize((256, 256)) for i in range(8)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=250, loop=0)
    return [*paths, folder / "group.jpg", folder / "=broken.png", folder / "moving.gif"]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not found:
        pytest.skip("no chromium here")
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=30_000 * PATIENCE)
        yield made
        made.close()


@pytest.fixture
def page(browser, address, request):
    """A page in a window of its own; nothing but the server may be asked, and nothing may go wrong in it."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 900}}))
    context.set_default_timeout(30_000 * PATIENCE)
    view = context.new_page()
    own = (address, "blob:", "data:")
    view.wrong, view.elsewhere = [], []
    view.on("pageerror", lambda error: view.wrong.append(str(error)))
    view.on("console", lambda said: view.wrong.append(said.text) if said.type == "error" else None)
    view.on("request", lambda asked: view.elsewhere.append(asked.url) if not asked.url.startswith(own) else None)
    view.goto(address)
    until(view, "window.ready === true")
    yield view
    assert not view.elsewhere
    assert not [line for line in view.wrong if "400 (Bad Request)" not in line and "422" not in line]
    context.close()


def until(page, true: str, seconds: float = 60.0):
    """Wait for an expression. Playwright's own waiting evaluates strings in the page, which the policy forbids."""
    end = time.monotonic() + seconds * PATIENCE
    while not page.evaluate(true):
        assert time.monotonic() < end, true
        page.wait_for_timeout(50)


def judged(page, paths, seconds=300.0):
    page.set_input_files("#choose", [str(path) for path in paths])
    answered(page, seconds)


def answered(page, seconds=300.0):
    said = "document.querySelector('#status').textContent"
    until(page, f"{said} !== '' && !{said}.includes('…')", seconds)


def picture(page, name: str, full=True):
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder, f"{name}.png")), full_page=full)


def no_findings(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    assert not found, json.dumps(
        [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found], indent=1
    )


def overflow(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_one_photo_its_threshold_maps_evidence_and_report(page, photos, tmp_path):
    judged(page, photos[:1])
    first = page.inner_text(".answer")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.select_option("#point", "-1")
    said = {}
    for own in ("0", "1"):
        page.fill("#own", own)
        said[own] = page.inner_text(".answer").splitlines()[0]
    assert said["0"] == "looks generated" and said["1"] in ("no trace of a GAN found", "can't tell")
    page.select_option("#point", "0")
    assert page.inner_text(".answer") == first and not asked, "another threshold asks nothing of the server"
    page.get_by_role("tab", name="patch map").click()
    assert page.get_by_label("Strength of the map").is_visible()
    width = page.evaluate("document.querySelector('.picture canvas').getBoundingClientRect().width")
    assert width > 500
    page.get_by_role("button", name="What the file tells").click()
    page.get_by_text("What the file itself tells").wait_for(timeout=60_000 * PATIENCE)
    assert "SHA-256: present" in page.inner_text(".evidence")
    page.get_by_role("button", name="Would it survive?").click()
    page.locator(".curve").wait_for(timeout=120_000 * PATIENCE)
    assert page.locator(".curve .dot").count() == 12
    no_findings(page)
    picture(page, "page-one")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save report", exact=True).click()
    saved = tmp_path / "report.html"
    download.value.save_as(saved)
    assert "photo 00.jpg" in saved.read_text() and "Would" in saved.read_text()
    report = page.context.new_page()
    report.on("request", lambda asked: page.elsewhere.append(asked.url) if not asked.url.startswith(OWN) else None)
    report.goto(saved.as_uri())
    assert "photo 00.jpg" in report.inner_text("body") and overflow(report) <= 0
    no_findings(report)
    picture(report, "page-report")


def test_a_photo_may_come_before_the_server_has_told_anything(page, photos):
    """A slow network: the page is there, what it must know to judge is not."""

    def late(route):
        page.wait_for_timeout(1500)
        route.continue_()

    page.route("**/v1/model*", late)
    page.reload(wait_until="domcontentloaded")
    page.set_input_files("#choose", [str(photos[0])])
    assert not page.evaluate("window.ready === true")
    until(page, "window.ready === true")
    answered(page)
    assert page.inner_text(".answer").splitlines()[0] in ("looks generated", "no trace of a GAN found", "can't tell")
    page.unroute("**/v1/model*")


def test_a_group_and_a_video(page, photos):
    judged(page, photos[40:41])
    assert page.locator(".words .face").count() >= 2
    no_findings(page)
    picture(page, "page-group")
    judged(page, photos[42:43])
    page.get_by_role("button", name="moving.gif").click()
    page.locator(".strip img").first.wait_for(timeout=10_000 * PATIENCE)
    assert page.locator("#detail .strip li").count() >= 4
    no_findings(page)
    picture(page, "page-video")


def test_forty_photos_are_a_table_of_bounded_height(page, photos):
    judged(page, photos[:42])
    assert page.locator("#rows tr").count() == 42 and page.locator("#rows canvas").count() == 41
    assert page.evaluate("document.querySelector('.scroll').offsetHeight") < 500
    assert page.evaluate("document.documentElement.scrollHeight") < 4500
    page.select_option("#kind", "FAILED")
    assert page.locator("#rows tr").count() == 1 and "=broken.png" in page.inner_text("#rows")
    page.select_option("#kind", "")
    page.fill("#find", "photo 1")
    assert page.locator("#rows tr").count() == 10
    page.click("#table th[data-key=name] button")
    page.click("#table th[data-key=name] button")
    assert page.inner_text("#rows tr:first-child th") == "photo 19.jpg"
    page.fill("#find", "")
    with page.expect_download() as download:
        page.click("#table-save")
    table = Path(download.value.path()).read_text()
    assert table.count("\n") == 43 and "'=broken.png" in table, "no name is a spreadsheet's formula"
    no_findings(page)
    picture(page, "page-many")


def test_by_keyboard_alone(page, photos):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "choose":
            break
    assert page.evaluate("document.activeElement.id") == "choose"  # the browser's own window opens from here
    judged(page, photos[:3])
    seen, tab = ["choose"], "document.activeElement.getAttribute('role') === 'tab'"
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.textContent"
            )
        )
        if page.evaluate(tab):
            break
    assert {"choose", "face", "point", "report", "table-save", "name"} <= set(seen) and page.evaluate(tab)
    page.keyboard.press("ArrowRight")
    assert page.inner_text("[role=tab][aria-selected=true]") == "patch map"
    page.locator("#rows button").nth(1).focus()
    page.keyboard.press("Enter")
    name = page.locator("#rows button").nth(1).inner_text()
    assert page.inner_text("#detail h3") == name
    assert page.evaluate("document.activeElement.textContent") == name, "the focus stays where it was"


@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": 390, "height": 844}}, {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"}],
    indirect=True,
    ids=["phone", "dark"],
)
def test_on_a_phone_and_in_the_dark(page, photos, request):
    assert overflow(page) <= 0
    judged(page, [photos[0], photos[1], photos[40]])
    width = page.evaluate("document.querySelector('.picture canvas').getBoundingClientRect().width")
    assert width > 300, "a map can be seen"
    page.fill("#seeds", "1-3")
    page.get_by_role("button", name="Make", exact=True).click()
    page.locator("#made img").first.wait_for(timeout=120_000 * PATIENCE)
    assert page.locator("#made img").count() == 3 and overflow(page) <= 0
    no_findings(page)
    picture(page, f"page-{request.node.callspec.id}")


def test_two_detectors_addresses_and_the_list_of_earlier_verdicts(page, photos):
    judged(page, photos[:1])
    assert "Both detectors answer alike" in page.inner_text(".words") and page.locator(".side").count() == 2
    page.fill("#url", "http://127.0.0.1/photo.jpg")
    page.get_by_role("button", name="Fetch").click()
    page.get_by_text("not an address of the public internet").wait_for(timeout=20_000 * PATIENCE)
    assert page.evaluate("localStorage.length") == 0, "nothing is kept unless it was switched on"
    page.check("#remember")
    judged(page, photos[1:2])
    assert "photo 01.jpg" in page.inner_text("#past")
    page.uncheck("#remember")
    assert page.evaluate("localStorage.length") == 0
