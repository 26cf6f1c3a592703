"""Made files: pictures with tags of every kind, each also broken."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PARAMETERS = (
    "a portrait of a woman, studio light\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 12345, Size: 512x512, Model: v1-5"
)
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def picture(seed: int = 0, side: int = 64) -> Image.Image:
    """A smooth picture with some noise, in no step with a grid of 8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (side // 11 + 1, side // 11 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), float)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


def saved(image: Image.Image, form: str = "JPEG", **how) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


def png(*texts: tuple[str, str], packed: bool = False, international: bool = False) -> bytes:
    """A PNG with texts, as tEXt, zTXt or iTXt."""
    info = PngInfo()
    for key, text in texts:
        if international:
            info.add_itxt(key, text, zip=packed)
        else:
            info.add_text(key, text, zip=packed)
    return saved(picture(), "PNG", pnginfo=info)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    data = saved(picture(), "PNG")
    return data[:33] + chunk(kind, body) + data[33:]


def with_segment(marker: int, body: bytes, **how) -> bytes:
    """A JPEG with one more segment at its beginning."""
    data = saved(picture(), **how)
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def exif(main: dict | None = None, detail: dict | None = None) -> bytes:
    """An EXIF block, as Pillow writes it."""
    made = Image.Exif()
    for tag, value in (main or {}).items():
        made[tag] = value
    made.get_ifd(0x8769).update(detail or {})
    return made.tobytes()


def xmp(*, attribute: str = "", element: str = "", tool: str = "") -> bytes:
    """An XMP packet with a DigitalSourceType as an attribute or an element, and a CreatorTool."""
    as_attribute = f' Iptc4xmpExt:DigitalSourceType="{attribute}"' if attribute else ""
    as_attribute += f' xmp:CreatorTool="{tool}"' if tool else ""
    inside = f"<Iptc4xmpExt:DigitalSourceType>{element}</Iptc4xmpExt:DigitalSourceType>" if element else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f'{as_attribute}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()
