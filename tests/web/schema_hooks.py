"""What schemathesis sends as a file: photos, moving pictures, and bytes that are none. Loaded by it through
$SCHEMATHESIS_HOOKS; see test_schema.py."""

from __future__ import annotations

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from faces.procedural.portrait import render_face


def _encoded(form: str, *seeds: int, side: int = 96) -> bytes:
    out = io.BytesIO()
    first, *more = (Image.fromarray(render_face(seed, side)) for seed in seeds)
    first.save(out, form, **({"save_all": True, "append_images": more} if more else {}))
    return out.getvalue()


JPEG = _encoded("JPEG", 3)
FILES = [JPEG, _encoded("PNG", 4), _encoded("WEBP", 5, side=64), _encoded("GIF", 6, 7, 8, side=64)]
BROKEN = [b"", b"hello", JPEG[: len(JPEG) // 2], JPEG[:20] + bytes(500)]
FILE = st.sampled_from(FILES) | st.sampled_from(BROKEN) | st.binary(max_size=64)

schemathesis.openapi.format("binary", FILE)
for kind in ("image/*", "image/jpeg", "video/*", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, FILE)
