"""Image bytes to upright 8-bit sRGB pixels: the only decoder of the project.

Whatever a camera, an editor or a web page wrote comes out as H x W x 3 uint8 the way a viewer would show it:

- EXIF orientation applied; animations and multi-page files give their first frame (`faces.video` gives all of them);
- grey, palette, CMYK (plain and Adobe-inverted), YCbCr become RGB; an embedded colour profile other than sRGB is
  converted to sRGB (relative colorimetric; little CMS);
- transparency is composited over mid-grey (128), so neither class of a data set gets a tell-tale black or white rim;
- 16 bits per channel are scaled to 8 (the high byte: exact for 8-bit images stored as v * 257), not clipped; fewer
  bits in 16, and white as zero, are heeded where the file says so (`faces.deep`);
- HEIC is read where pillow-heif is installed;
- floating-point images have no defined range and are refused by name, as are 32-bit integers beyond 16 bits.

What can't be decoded raises `BadImage` with a short reason. Before memory and time are taken, the header says what they
will be: pixels, the bytes that a pixel of this format costs while it is decoded, the scans of a JPEG. What headers are
made of is counted (`faces.pieces`). Conversions are done in strips, so the memory is that of Pillow's picture and of
the result. `faces.apart` decodes in a process of its own, which can be ended.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from common.errors import BadImage, TooSmall
from faces import deep, foreign, jpeg_scans, pieces, profiles
from faces.moving.ends import end_of
from faces.moving.kinds import HEAD, VIDEO, kind_of
from faces.tiff import ORDERS

# Only raster formats are tried: Pillow would also run Ghostscript for EPS and open network-ish or vector containers.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF", "HEIF", "JPEG2000", "TGA", "ICO")
EXTENSIONS = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .avif .jp2 .j2k .tga"
).split()
MAX_PIXELS = 120_000_000  # of a photo; 108 are the most that phones have made a habit of
COST = 8  # bytes of memory for each pixel that is allowed: 0.96 GB at MAX_PIXELS
# Bytes that a pixel takes at most while it is decoded, the result's 3 among them, by format; measured with 24 to 50
# million pixels (docs/reliability.md). A format that is not here takes COST.
COSTS = {"WEBP": 16, "AVIF": 16, "HEIF": 16, "JPEG2000": 20, "ICO": 12}
LARGE = 24_000_000  # pixels; above, images are decoded one after the other, whatever the number of threads
STRIP = 1 << 16  # pixels that are converted at once: few, which stay in the cache and need no memory anew
MAX_SIDE = 32_767  # OpenCV's warping knows no more, and no photo has
MAX_BYTES = 512 << 20  # no encoded photo is larger; a zip member that claims to be is a bomb
MATTE = 128

_one_large = threading.Lock()
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses from twice as many on: pictures inside of pictures, too
pieces.bound_tags()

# Here every size is checked and every broken file is refused by name; Pillow's own warnings (from half of MAX_PIXELS
# on, and about odd metadata) name no file and would only tear progress lines apart.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class Decoded:
    """A decoded image. `pixels` H x W x 3 uint8 RGB; the rest says what the file was.

    `mode` is RGB, grey, grey+alpha, 16-bit grey, RGBA, palette, CMYK or Pillow's name of a rarer mode; `format` is
    JPEG, PNG, …; `rotated` says that EXIF orientation was applied."""

    pixels: np.ndarray
    mode: str
    format: str
    rotated: bool


@lru_cache(maxsize=1)
def extensions() -> tuple[str, ...]:
    """How the names of files end that are read here: EXTENSIONS, with HEIC where its library is installed."""
    here = [name for name in EXTENSIONS if foreign.reads_avif() or name not in foreign.AVIF.names]
    return (*here, *(foreign.HEIF.names if foreign.reads_heif() else ()))


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> np.ndarray:
    """Encoded image bytes -> H x W x 3 uint8 sRGB, upright (the module's docstring tells the conversions).

    `name` is only used in messages. An image of more than `max_pixels` pixels, or with a side longer than MAX_SIDE or
    shorter than `min_side`, is refused. Raises BadImage (name, one-line reason) for what isn't a whole image."""
    return decode(data, name, max_pixels=max_pixels, min_side=min_side).pixels


class Decode(Protocol):
    """`decode_image`, or what does the same in another way."""

    def __call__(self, data: bytes, name: str, *, max_pixels: int = ..., min_side: int = ...) -> np.ndarray: ...


def load_image(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> np.ndarray:
    """The image file at `path` -> H x W x 3 uint8 sRGB. Raises BadImage also when the file can't be read."""
    return decode_image(read_file(path), os.fspath(path), max_pixels=max_pixels, min_side=min_side)


def read_file(path: str | os.PathLike, name: str | None = None) -> bytes:
    """A file's bytes; BadImage (no traceback, no hang on a pipe) when it is missing, unreadable or absurdly large."""
    name = os.fspath(path) if name is None else name
    if os.path.isdir(path):
        raise BadImage(name, "is a folder, not an image")
    if not os.path.isfile(path):  # a FIFO or device would block for ever
        raise BadImage(name, _no_file(path))
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise BadImage(name, f"larger than {MAX_BYTES >> 20} MiB, refused")
        with open(path, "rb") as file:
            return file.read()
    except PermissionError:
        raise BadImage(name, "no permission to read it") from None
    except OSError as error:
        raise BadImage(name, f"can't be read ({error.strerror or error})") from None


def _no_file(path: str | os.PathLike) -> str:
    """What there is at a path where no file is."""
    if os.path.islink(path) and not os.path.exists(path):
        try:
            os.stat(path)
        except OSError as error:
            if error.errno == errno.ELOOP:
                return "links that go round in a circle"
        return f"a link to nothing ({os.readlink(os.fspath(path))})"
    if os.path.lexists(path):
        return "is not a file"
    if re.match("https?://", os.fspath(path), re.IGNORECASE):
        return "an address, and nothing is fetched; save the photo and name its file"
    return "no such file"


def decode(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> Decoded:
    """`decode_image` that also tells what the file was."""
    image = open_header(data, name, max_pixels=max_pixels, min_side=min_side)
    large = image.width * image.height > LARGE
    try:
        with _one_large if large else contextlib.nullcontext(), image:
            mode, form, turned = mode_name(image), image.format or "?", orientation_of(image) != 1
            image.load()
            if image.width * image.height > max_pixels:  # a picture inside of a picture may be larger than the outer
                raise BadImage(name, f"more than {max_pixels:,} pixels, refused")
            whole = deep.colour(image, data)
            pixels = upright_rgb(whole, orientation_of(image), name)  # only now: Pillow turns a TIFF while it loads it
    except BadImage:
        raise
    except MemoryError:
        raise BadImage(name, "too large for the memory of this machine") from None
    except Exception as error:  # broken files raise almost anything in the format plugins (struct, zlib, Index, …)
        raise BadImage(name, _reason(error, data)) from None
    return Decoded(pixels, mode, "JPEG" if form == "MPO" else form, turned)


def open_header(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> Image.Image:
    """The image opened but not decoded: size, format and tables can be looked at. Raises BadImage as `decode` does."""
    image = _open(data, name, max_pixels)
    if image.format == "TIFF" and (_is_raw(image) or foreign.sort_of(name) is foreign.RAW):
        raise BadImage(name, foreign.RAW.reason)
    pieces.check_tiles(image, name)
    deep.note_depth(image, data)
    width, height = upright_size(image)
    check_size(name, width, height, max_pixels=max_pixels, min_side=min_side)
    if image.format in ("JPEG", "MPO") and jpeg_scans.scans_of(data) > jpeg_scans.MOST:
        raise BadImage(name, f"a JPEG of more than {jpeg_scans.MOST} scans, refused: save it again")
    if (cost := cost_of(image)) * width * height > COST * max_pixels:
        most = f"{COST * max_pixels / cost / 1e6:.0f} million pixels of {image.format}"
        raise BadImage(name, f"{width}x{height} pixels is more than the {most} allowed: save it as JPEG, or smaller")
    return image


def profile_note(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> str:
    """`profiles.note_on` of a file's bytes that can be decoded."""
    if len(data) <= profiles.MOST:  # no format that is read packs them
        return ""
    with open_header(data, name, max_pixels=max_pixels) as image:
        return profiles.note_on(image)


def check_size(name: str, width: int, height: int, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> None:
    """BadImage where an image of `width` x `height` pixels is larger or smaller than what is taken."""
    if width * height > max_pixels:
        raise BadImage(name, f"{width}x{height} pixels is more than the {max_pixels:,} allowed, refused")
    if max(width, height) > MAX_SIDE:
        raise BadImage(name, f"{width}x{height} pixels: a side of more than {MAX_SIDE:,}, refused")
    if min(width, height) < min_side:
        raise TooSmall(name, width, height, min_side)


def from_pillow(image: Image.Image, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> np.ndarray:
    """A picture that Pillow holds -> H x W x 3 uint8 sRGB, upright, by the conversions of `decode_image`.

    The same pixels as of its file, but for what Pillow does not tell: the bits of samples in 16 that say nothing, and
    whether white is zero. BadImage where it can't be loaded or is too large or too small."""
    if not all(image.size):
        raise BadImage(name, "a picture without pixels")
    check_size(name, *upright_size(image), max_pixels=max_pixels, min_side=min_side)
    try:
        image.load()
        return upright_rgb(image, orientation_of(image), name)
    except BadImage:
        raise
    except MemoryError:
        raise BadImage(name, "too large for the memory of this machine") from None
    except Exception as error:  # as in `decode`
        raise BadImage(name, _reason(error)) from None


def cost_of(image: Image.Image) -> int:
    """Bytes that a pixel of an opened image takes at most while it is decoded."""
    cost = COSTS.get(image.format or "", COST)
    if image.format in ("JPEG", "MPO") and (image.info.get("progressive") or image.info.get("progression")):
        chroma = {1: 1.0, 3: 3.0}.get(len(getattr(image, "layer", ())), 4.0)
        if chroma == 3.0 and image.layer[0][1] * image.layer[0][2] == 4:  # type: ignore[attr-defined]
            chroma = 1.5  # 4:2:0
        return max(cost, 4 + round(2 * chroma))  # its coefficients are kept until the last scan has been read
    if image.format == "PNG" and deep.BITS in image.info and image.mode in ("RGB", "RGBA", "LA"):
        return 20  # decoded twice
    return cost


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    if not data:
        raise BadImage(name, "empty file (0 bytes)")
    if foreign.RAW.has(data[:HEAD]):  # some begin as a TIFF does
        raise BadImage(name, foreign.RAW.reason)
    if max_pixels > MAX_PIXELS:  # somebody asked for more
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels // 2 + 1)
    pieces.check_pieces(data, name)
    try:
        return Image.open(pieces.CountedBytes(data, name), formats=_formats())
    except BadImage:
        raise
    except UnidentifiedImageError:
        if (turned := deep.with_white_turned(data)) is not None:
            image = _open(turned, name, max_pixels)
            image.info[deep.WHITE_IS_ZERO] = True
            return image
        if (sort := foreign.sort_of_head(data[:HEAD])) is not None:
            raise BadImage(name, sort.reason) from None
        if foreign.sort_of(name) is foreign.RAW:
            raise BadImage(name, foreign.RAW.reason) from None
        if data.startswith(tuple(ORDERS)):
            raise BadImage(
                name, "this TIFF can't be read (broken, or floating-point or other rare channels): save it as 8-bit PNG"
            ) from None
        if (kind := kind_of(data[:HEAD])).what == VIDEO:
            raise BadImage(name, f"a video ({kind.name}), not an image") from None
        starts = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM")
        if data.startswith(starts) or data[4:8] == b"ftyp":
            raise BadImage(name, "broken or truncated image (its header can't be read)") from None
        raise BadImage(name, "not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(name, f"more than {max_pixels:,} pixels, refused") from None
    except Exception as error:
        raise BadImage(name, _reason(error, data)) from None


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """FORMATS, less those this build of Pillow lacks (it would fail on a name it doesn't know)."""
    Image.init()
    if foreign.reads_heif():
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reason(error: Exception, data: bytes = b"") -> str:
    text = str(error)
    early = "truncated" in text.lower() or isinstance(error, (EOFError, struct.error))
    if early or end_of(io.BytesIO(data)).early:  # some libraries call it broken
        return "truncated image (the file ends early)"
    return f"broken image ({text or type(error).__name__})"


def mode_name(image: Image.Image) -> str:
    """What `Decoded.mode` says of an opened image."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return "16-bit grey"
    names = {"1": "grey", "L": "grey", "LA": "grey+alpha", "P": "palette", "PA": "palette"}
    mode = names.get(image.mode, image.mode)
    if "transparency" in image.info:
        return {"grey": "grey+alpha", "RGB": "RGBA"}.get(mode, mode)
    return mode


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8. Unreadable EXIF is no reason to lose the photo: taken as upright."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return orientation if orientation in TRANSPOSE else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height), upright, of an image that is opened but not loaded.

    Of a TIFF by its own tags: some versions of Pillow exchange the sides in `size` already, others don't."""
    width, height = image.size
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags.get(256, width), tags.get(257, height)
    return (height, width) if orientation_of(image) >= 5 else (width, height)


def _is_raw(image: Image.Image) -> bool:
    """Whether a TIFF is a camera's raw photo: a DNG (its version is tag 50706), or one whose first picture says that it
    is a reduced one (254), with the sensor's data in SubIFDs (330)."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    return 50706 in tags or (tags.get(254) == 1 and 330 in tags)


TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright_rgb(image: Image.Image, orientation: int, name: str) -> np.ndarray:
    """A loaded image to uint8 RGB [H, W, 3] sRGB, turned by its EXIF orientation. Raises BadImage."""
    width, height = image.size
    out = np.empty((width, height, 3) if orientation >= 5 else (height, width, 3), np.uint8)
    # as pixels: of what is turned numpy would take the three bytes of each singly, in three times the time
    lying, convert = _LYING[orientation](out.view("V3")), _converter(image, name)
    for rows, strip in strips_of(image):
        lying[rows] = np.ascontiguousarray(convert(strip)).view("V3")
    return out


# the upright result, seen as the image lies in its file: what `TRANSPOSE` does, taken back
_LYING: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda out: out,
    2: lambda out: out[:, ::-1],
    3: lambda out: out[::-1, ::-1],
    4: lambda out: out[::-1],
    5: lambda out: out.transpose(1, 0, 2),
    6: lambda out: np.rot90(out, 1),
    7: lambda out: out[::-1, ::-1].transpose(1, 0, 2),
    8: lambda out: np.rot90(out, -1),
}


def strips_of(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """(rows, a copy of them) of a loaded image, at most STRIP pixels at a time."""
    width, height = image.size
    step = max(1, STRIP // max(width, 1))
    if step >= height:
        yield slice(0, height), image
        return
    for top in range(0, height, step):
        yield slice(top, min(top + step, height)), image.crop((0, top, width, min(top + step, height)))


def rgb_of(image: Image.Image, name: str) -> np.ndarray:
    """A loaded image, as it lies, to uint8 RGB [H, W, 3] sRGB (see the module's docstring). Raises BadImage."""
    return upright_rgb(image, 1, name)


def _converter(image: Image.Image, name: str) -> Callable[[Image.Image], np.ndarray]:
    """What makes uint8 RGB [h, W, 3] of a strip of the image."""
    if image.mode == "F":
        raise BadImage(name, "floating-point pixels have no defined range: save it with 8 or 16 bits per channel")
    profile = image.info.get("icc_profile")
    if image.mode == "I" or image.mode.startswith("I;16"):
        eight = deep.grey(image, (strip for _, strip in strips_of(image)), name)
        return lambda strip: _of_grey(strip, eight(strip), profile)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return lambda strip: _composited(strip, profile)
    if image.mode not in ("1", "P", "RGBX", "L", "RGB", "CMYK", "YCbCr", "HSV"):
        raise BadImage(name, f"colour mode {image.mode} is not supported: save it as RGB")
    if image.mode in ("1", "P", "RGBX"):
        plain = "RGB" if image.mode != "1" else "L"
        return lambda strip: np.asarray(_to_srgb(strip.convert(plain), profile))
    return lambda strip: np.asarray(_to_srgb(strip, profile))


def _composited(image: Image.Image, profile: bytes | None) -> np.ndarray:
    rgba = image.convert("RGBA")
    alpha = np.asarray(rgba.getchannel("A"), dtype=np.uint16)[..., None]
    # of a grey picture the profile is one of grey, which says nothing of three channels
    plain = rgba.getchannel("R") if image.mode in ("1", "L", "LA") else rgba.convert("RGB")
    colour = np.asarray(_to_srgb(plain, profile), dtype=np.uint16)
    return ((colour * alpha + MATTE * (255 - alpha) + 127) // 255).astype(np.uint8)


def _of_grey(strip: Image.Image, eight: np.ndarray, profile: bytes | None) -> np.ndarray:
    """uint8 RGB [h, W, 3] of a strip of 16-bit samples that are `eight` in 8 bits."""
    colour = np.asarray(_to_srgb(Image.fromarray(eight), profile))
    clear = strip.info.get("transparency")  # the one sample that is not to be seen
    return colour if clear is None else np.where(np.asarray(strip)[..., None] == clear, np.uint8(MATTE), colour)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    transform = profiles.transform_of(profile, image.mode) if profile and len(profile) <= profiles.MOST else None
    converted = ImageCms.applyTransform(image, transform) if transform is not None else None
    return converted or (image if image.mode == "RGB" else image.convert("RGB"))
