"""Single operations on a photo: codecs, resampling, filters, geometry, colour. Their parameters are plain numbers.

Images are uint8 RGB [H, W, 3]; the result is a uint8 image of the same size unless the docstring says otherwise, and
the input is never changed. `faces.degrade` draws the parameters and chains the operations.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from common.errors import UserError

KERNELS = ("nearest", "bilinear", "bicubic", "box", "lanczos")
ENLARGING = ("bilinear", "bicubic", "lanczos")  # what brings a picture back to its size


def jpeg(image: np.ndarray, quality: int, subsampling: str = "420") -> np.ndarray:
    """JPEG at `quality` 1..100 and back, chroma `420` (the web's default) or `444`."""
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampling == "420" else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    return _through_codec(image, ".jpg", options)


def webp(image: np.ndarray, quality: int) -> np.ndarray:
    """Lossy WebP at `quality` 1..100 and back. Its fastest method: a search for fewer bytes would only cost time."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=int(quality), method=0)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _through_codec(image: np.ndarray, extension: str, options: list[int]) -> np.ndarray:
    done, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    again = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
    if again is None:
        raise UserError(f"degradation: OpenCV can't write {extension} here: reinstall opencv-python-headless")
    return cv2.cvtColor(again, cv2.COLOR_BGR2RGB)


def resize(image: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    """Resample to exactly [height, width]; kernels are anti-aliased when shrinking, `nearest` apart."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling[kernel.upper()]))


def shrink_by_points(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """[height, width] as OpenCV's bilinear interpolation makes it: of whatever size, four pixels about each new one's
    middle are mixed, so what is finer than the new pixels folds down into them (aliasing). Of an image of more than
    four times the size the rest is averaged away before: sets of 256 px were made so from 1024 px."""
    fine = [min(now, 4 * then) for now, then in zip(image.shape[:2], (height, width))]
    if fine != list(image.shape[:2]):
        image = cv2.resize(image, fine[::-1], interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def to_size(image: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    """By a kernel of `faces.options.RESAMPLE`: "points" is `shrink_by_points`, where both sides shrink, and else
    lanczos."""
    if kernel != "points":
        return resize(image, height, width, kernel)
    if height < image.shape[0] and width < image.shape[1]:
        return shrink_by_points(image, height, width)
    return resize(image, height, width, "lanczos")


def scale(image: np.ndarray, factor: float, kernel: str, back: str = "bicubic") -> np.ndarray:
    """Resize by `factor` with `kernel`, then to the old size with `back`. Sides never fall below one pixel."""
    height, width = image.shape[:2]
    small = resize(image, max(1, round(height * factor)), max(1, round(width * factor)), kernel)
    return resize(small, height, width, back)


def rescale(image: np.ndarray, factor: float, kernel: str) -> np.ndarray:
    """Resized by `factor` and left so: the middle that still fits of an enlarged image; a shrunk one has the rest
    mirrored around it. For who looks at the middle only."""
    height, width = image.shape[:2]
    if factor >= 1:
        h, w = max(1, round(height / factor)), max(1, round(width / factor))
        top, left = (height - h) // 2, (width - w) // 2
        return resize(np.ascontiguousarray(image[top : top + h, left : left + w]), height, width, kernel)
    h, w = max(1, round(height * factor)), max(1, round(width * factor))
    top, left = (height - h) // 2, (width - w) // 2
    small = resize(image, h, w, kernel)
    return cv2.copyMakeBorder(small, top, height - h - top, left, width - w - left, cv2.BORDER_REFLECT)


def fit_longest(image: np.ndarray, longest: int, kernel: str = "lanczos") -> np.ndarray:
    """Shrink so that the longer side is at most `longest` pixels, as web sites do. Changes the size."""
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return image
    return resize(image, max(1, round(height * factor)), max(1, round(width * factor)), kernel)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of standard deviation `sigma` pixels, cut at 4 sigma, edges reflected about the edge pixel."""
    if sigma <= 0:
        return image
    radius = int(4 * sigma + 0.5)
    # in float: the 8-bit filter works in fixed point, whose rounding would be a trace of its own
    side = 2 * radius + 1
    return to_uint8(cv2.GaussianBlur(image.astype(np.float32), (side, side), sigma, borderType=cv2.BORDER_REFLECT))


def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Independent Gaussian noise of standard deviation `sigma` grey levels on every channel."""
    drawn = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sigma)
    return to_uint8(image + drawn)


def hflip(image: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    return np.ascontiguousarray(image[:, ::-1])


def copied(pixels: np.ndarray) -> np.ndarray:
    """uint8 [n, m, 3] one after the other. As pixels: numpy takes the three bytes of each singly, in twice the time."""
    if pixels.strides[-1] != 1:  # blue, green, red seen as red, green, blue
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(pixels.view("V3")).view(np.uint8)


def quarter_turned(image: np.ndarray, turn: int) -> np.ndarray:
    """Turned counter-clockwise by so many quarters: `numpy.rot90` as a copy, in a tenth of its time."""
    turns = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
    return cv2.rotate(image, turns[turn % 4]) if turn % 4 else np.ascontiguousarray(image)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned counter-clockwise about the centre; what comes in from outside is mirrored image."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return _warp(image, matrix)


def shear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Sheared about the centre: `x` pixels sideways per pixel down, `y` pixels down per pixel sideways."""
    cx, cy = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    return _warp(image, np.array([[1, x, -x * cy], [y, 1, -y * cx]]))


def reframe(image: np.ndarray, zoom: float, degrees: float, across: float, down: float) -> np.ndarray:
    """Another cut of the photo: `zoom` times as large and turned counter-clockwise about the centre, then moved by
    shares of the sides; what comes in from outside is mirrored image."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    matrix[:, 2] += across * width, down * height
    return _warp(image, matrix, cv2.INTER_CUBIC)


def _warp(image: np.ndarray, matrix: np.ndarray, kernel: int = cv2.INTER_LINEAR) -> np.ndarray:
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, flags=kernel, borderMode=cv2.BORDER_REFLECT)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """All values times `factor`."""
    return _table(image, np.arange(256) * factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Distances from the image's mean grey times `factor`."""
    mean = float(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return _table(image, mean + (np.arange(256) - mean) * factor)


def _table(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Distances from each pixel's own grey (ITU-R 601) times `factor`: 0 is a grey picture, 1 the same one."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1.0 - factor, 0.0)


def hue(image: np.ndarray, degrees: float) -> np.ndarray:
    """Hue turned by `degrees` in HSV."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # hue in 0..255 for 360 degrees
    hsv[..., 0] += np.uint8(round(degrees * 256 / 360) % 256)  # wraps round, as hues do
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def clahe(image: np.ndarray, clip: float, tiles: int = 4) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of the lightness (CIELAB L), `tiles` x `tiles`."""
    tiles = max(1, min(tiles, *image.shape[:2]))
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clip, (tiles, tiles)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def cutout(image: np.ndarray, side: float, y: float, x: float, grey: int = 128) -> np.ndarray:
    """A grey rectangle of `side` times each side, its centre at (`y`, `x`) in [0, 1] of the image."""
    height, width = image.shape[:2]
    out = image.copy()
    half_h, half_w = side * height / 2, side * width / 2
    rows = slice(max(int(y * height - half_h + 0.5), 0), max(int(y * height + half_h + 0.5), 0))
    columns = slice(max(int(x * width - half_w + 0.5), 0), max(int(x * width + half_w + 0.5), 0))
    out[rows, columns] = grey
    return out


def border(
    image: np.ndarray, left: float, top: float, right: float, bottom: float, degrees: float, colour: tuple[int, ...]
) -> np.ndarray:
    """The image as if it lay in a plain picture of `colour` (R, G, B), as in a screenshot or on a page.

    What is within `left`, `top`, `right`, `bottom` (shares of the sides; negative ones reach beyond the image) of its
    edges becomes that colour; the rectangle in between is turned counter-clockwise about its centre by `degrees`.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = width * left, height * top, width * (1 - right), height * (1 - bottom)
    # How far each pixel's centre lies inside the rectangle: half a pixel beyond its edge or more is all border.
    angle = np.deg2rad(degrees)
    x, y = np.meshgrid(
        np.arange(width, dtype=np.float32) + 0.5 - (x0 + x1) / 2,
        np.arange(height, dtype=np.float32) + 0.5 - (y0 + y1) / 2,
    )
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    inside = np.minimum((x1 - x0) / 2 - np.abs(u), (y1 - y0) / 2 - np.abs(v))
    share = np.clip(inside + 0.5, 0, 1)[..., None].astype(np.float32)
    return to_uint8(share * image + (1 - share) * np.array(colour, np.float32))


def crop_shift(image: np.ndarray, top: int, left: int, quality: int) -> np.ndarray:
    """`top` rows and `left` columns cut away (off an earlier JPEG's 8x8 grid), saved as JPEG, edges mirrored back."""
    height, width = image.shape[:2]
    top, left = min(top, height - 1), min(left, width - 1)
    cut = jpeg(np.ascontiguousarray(image[top:, left:]), quality)
    return cv2.copyMakeBorder(cut, top, 0, left, 0, cv2.BORDER_REFLECT) if top or left else cut


def screenshot(image: np.ndarray, zoom: float, quality: int) -> np.ndarray:
    """Shown at `zoom` on a screen (bilinear), through a display's calibration table, saved as JPEG, sized back."""
    height, width = image.shape[:2]
    shown = resize(image, max(1, round(height * zoom)), max(1, round(width * zoom)), "bilinear")
    grid = np.arange(256) / 255
    shown = _table(shown, 255 * np.rint(grid ** (1 / 1.1) * 250) / 250)  # a calibration table costs a few levels
    return resize(jpeg(shown, quality, "444"), height, width, "bicubic")


def web(image: np.ndarray, longest: int, quality: int) -> np.ndarray:
    """An upload to a web site: longest side at most `longest`, then JPEG at `quality`; brought back to its size."""
    height, width = image.shape[:2]
    sent = jpeg(fit_longest(image, longest), quality)
    return sent if sent.shape == image.shape else resize(sent, height, width, "bicubic")


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest whole level and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def most_of_colours(levels: np.ndarray) -> np.ndarray:
    """The largest of three colours [..., 3]; `max` along so short an axis takes several times as long."""
    return np.maximum(np.maximum(levels[..., 0], levels[..., 1]), levels[..., 2])
