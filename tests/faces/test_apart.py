"""Photos decoded in a process that can be ended; scans counted before; the memory that decoding takes."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import BadImage, TooSmall, UserError
from discriminator.options import DetectOptions
from faces.apart import Apart, decoder
from faces.decode import decode_image
from faces.jpeg_scans import MOST, scans_of
from tests.bad_files import encoded, photo, scans

ROOT = Path(__file__).resolve().parents[2]


def test_scans_are_counted():
    picture = photo(64)
    assert scans_of(encoded(picture, "JPEG")) == 1
    assert scans_of(encoded(picture.convert("L"), "JPEG")) == 1
    assert scans_of(encoded(picture, "JPEG", progressive=True)) == 10  # libjpeg's script for YCbCr
    assert scans_of(encoded(picture.convert("L"), "JPEG", progressive=True)) == 6
    assert scans_of(scans(50)) == 60 and scans_of(scans(5000)) == MOST + 1
    assert scans_of(b"") == scans_of(b"\xff\xd8\xff") == 0


def test_a_thumbnail_inside_of_a_jpeg_does_not_count():
    inner = encoded(photo(16), "JPEG", progressive=True)
    data = encoded(photo(64), "JPEG", progressive=True)
    app = b"\xff\xe5" + (len(inner) + 2).to_bytes(2, "big") + inner
    assert scans_of(data[:2] + app + data[2:]) == 10


def test_thousands_of_scans_are_refused_at_once():
    data, began = scans(20_000), time.process_time()
    with pytest.raises(BadImage, match="more than 100 scans"):
        decode_image(data, "a.jpg")
    assert time.process_time() - began < 1
    assert decode_image(scans(20), "a.jpg").shape == (48, 48, 3)


@pytest.fixture(scope="module")
def apart():
    apart = Apart(60.0)
    yield apart
    apart.close()


def test_the_same_pixels_and_the_same_reasons(apart):
    rgba = photo(40)
    rgba.putalpha(100)
    for data in (encoded(photo(), "JPEG"), encoded(photo(), "JPEG", progressive=True), encoded(rgba, "PNG")):
        assert np.array_equal(apart(data, "a"), decode_image(data, "a"))
    for data in (b"", b"nothing", encoded(photo(), "PNG")[:700], scans(120)):
        with pytest.raises(BadImage) as here:
            decode_image(data, "a")
        with pytest.raises(BadImage) as there:
            apart(data, "a")
        assert str(here.value) == str(there.value)
    with pytest.raises(TooSmall):
        apart(encoded(photo(8), "PNG"), "a", min_side=16)


def test_from_several_threads(apart):
    pictures = [encoded(photo(32, i), "PNG") for i in range(6)]
    found: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: apart(pictures[i], "a")})) for i in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert all(np.array_equal(found[i], decode_image(pictures[i], "a")) for i in range(6))


def test_what_takes_too_long_is_ended_and_the_next_one_is_judged():
    slow = encoded(Image.effect_noise((3000, 3000), 90), "PNG", compress_level=1)
    with decoder(0.02) as decode:
        with pytest.raises(BadImage, match="not decoded within 0.02 s, given up"):
            decode(slow, "slow.png")
        assert not decode._idle
    with decoder(60.0) as decode:
        good = encoded(photo(), "PNG")
        assert decode(good, "a.png").shape == (48, 48, 3)
        (worker,) = decode._idle
        worker.kill()  # as the system does when memory is short
        worker.wait()
        with pytest.raises(BadImage, match="its decoder ended on it"):
            decode(good, "a.png")
        assert decode(good, "a.png").shape == (48, 48, 3)
    assert worker.poll() is not None


CHILD = """
import sys
sys.path.insert(0, {root!r})
from faces.decode import decode_image

def field(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024

decode_image(open(sys.argv[1], "rb").read(), "warm")
for path in sys.argv[2:]:
    data = open(path, "rb").read()
    open("/proc/self/clear_refs", "w").write("5")
    before = field("VmRSS")
    pixels = decode_image(data, path)
    print(pixels.shape[0] * pixels.shape[1], field("VmHWM") - before)
    del pixels, data
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_a_pixel(tmp_path):
    """At most 8 bytes for each pixel and what a strip takes: 400 MB for a server's 50 million pixels."""
    small = photo(150)
    picture = small.resize((3000, 2000))
    clear = picture.copy()
    clear.putalpha(90)
    palette = picture.quantize(32, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "warm.png": encoded(small, "PNG"),
        "rgba.png": encoded(clear, "PNG", compress_level=1),
        "la.png": encoded(clear.convert("LA"), "PNG", compress_level=1),
        "palette.png": encoded(palette, "PNG", compress_level=1, transparency=3),
        "turned.jpg": encoded(picture, "JPEG", exif=exif),
        "deep.png": encoded(Image.fromarray(deep), "PNG", compress_level=1),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = [sys.executable, "-c", CHILD.format(root=str(ROOT)), *(str(tmp_path / name) for name in files)]
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=200).stdout
    for name, line in zip(list(files)[1:], told.splitlines(), strict=True):
        pixels, taken = map(int, line.split())
        assert pixels == 6_000_000 and taken <= 8 * pixels + (30 << 20), (name, taken)


def test_no_limit_is_longer_than_an_alarm_can_be_set():
    """Each photo would end its worker, and be called broken."""
    with pytest.raises(UserError, match="`decode_seconds` 3000000000.0 is too large"):
        DetectOptions(inputs=("a.jpg",), decode_seconds=3e9)
