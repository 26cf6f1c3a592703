"""A file's own story, line by line: what stands in its bytes, apart from any network's opinion of its pixels.

Each part is looked at by itself: one that is broken says so, and the others are told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from evidence.containers import Parts, parts_of
from evidence.credentials import KIND as CREDENTIALS
from evidence.credentials import credentials
from evidence.double import LEAST, luminance, primary, said_from
from evidence.exif import Exif, read_exif
from evidence.eyes import KIND as EYES
from evidence.eyes import eye_position
from evidence.generators import Tag, tag_in
from evidence.line import ABSENT, BROKEN, PRESENT, UNKNOWN, Line, shown
from evidence.quantisation import estimate_quality
from evidence.xmp import Said, read_iptc, read_xmp, source_type
from faces.decode import MAX_PIXELS, open_header

BYTES, SOURCE, GENERATOR, CAMERA = "SHA-256", "digital source type", "generator tag", "camera tags"
TABLES, DOUBLE, PROBLEMS = "JPEG tables", "double compression", "unread blocks"
FORGED = "anyone can write such a field with a free program"
# `python benchmarks/evidence.py double` measures these
DOUBLE_RATES = (
    "it was said of none of 550 saved once, of at least 1050 of 1150 whose first quality was the lower one, and of few"
    " whose first was the higher one"
)
MEASURED_ON = "photos of 400x400 pixels, saved by libjpeg at 50 to 95"
HANDED = ("AVIF", "HEIF")  # whose EXIF and XMP Pillow hands over


def file_story(
    data: bytes,
    name: str = "",
    *,
    landmarks: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[Line]:
    """The lines on an encoded picture. landmarks: [5, 2] of the biggest face, in the upright photo of `size` (height,
    width), None where none was found. max_pixels: larger ones are not decoded. Nothing is raised, and nothing leaves
    the machine."""
    said = _Said(data, name, max_pixels)
    parts: tuple[tuple[str, Callable[[], Line]], ...] = (
        (BYTES, said.bytes_line),
        (CREDENTIALS, lambda: credentials(data, said.form)),
        (SOURCE, said.source_line),
        (GENERATOR, said.generator_line),
        (CAMERA, said.camera_line),
        (TABLES, said.tables_line),
        (DOUBLE, said.double_line),
        (EYES, lambda: eye_position(landmarks, size)),
    )
    lines = [_guarded(kind, make) for kind, make in parts]
    return lines + ([said.problems_line()] if said.problems else [])


def video_story(sha256: str) -> list[Line]:
    """The lines on a video, of whose container nothing is read."""
    return [
        _bytes_line(sha256, {"sha256": sha256}),
        Line(CREDENTIALS, UNKNOWN, "a video: only photos' files are looked into", "nothing", "anything"),
    ]


def _bytes_line(says: str, facts: dict) -> Line:
    return Line(
        BYTES, PRESENT, says, "that a file with the same sum is the same file", "anything about what it shows", facts
    )


def _guarded(kind: str, make: Callable[[], Line]) -> Line:
    try:
        return make()
    except MemoryError:
        return Line(kind, BROKEN, "too large for the memory of this machine", "nothing", "anything")
    except Exception as error:  # a hostile file may trip a library anywhere; the other lines are told all the same
        return Line(kind, BROKEN, f"can't be read ({shown(str(error) or type(error).__name__)})", "nothing", "anything")


class _Said:
    """What the metadata of one file says, read once."""

    def __init__(self, data: bytes, name: str, max_pixels: int):
        self.data, self.name, self.max_pixels = data, name, max_pixels
        self.parts: Parts = parts_of(data)
        self.problems = [shown(problem) for problem in self.parts.problems]
        self.form = self.parts.form or self._other_format()
        self.looked = bool(self.parts.form) or self.form in HANDED
        self.exif: Exif = self._read("EXIF", self.parts.exif, read_exif) or Exif()
        self.xmp: Said = self._read("XMP", self.parts.xmp, read_xmp) or Said()
        self.iptc: Said = self._read("IPTC", self.parts.irb, read_iptc) or Said()

    def _other_format(self) -> str:
        """Of a format whose blocks are not walked here, EXIF and XMP as Pillow hands them over."""
        try:
            with open_header(self.data, self.name, max_pixels=self.max_pixels) as image:
                for field, key in (("exif", "exif"), ("xmp", "xmp")):
                    if isinstance(block := image.info.get(key), bytes) and len(block) <= 1 << 20:
                        setattr(self.parts, field, block.removeprefix(b"Exif\0\0"))
                return image.format or ""
        except Exception:  # no picture, or one that trips its reader: told as an unknown format
            return ""

    def _read(self, what: str, block: bytes | None, read: Callable):
        if block is None:
            return None
        try:
            return read(block)
        except ValueError as error:
            self.problems.append(shown(f"{what}: {error}"))
        except Exception as error:  # of whatever a hostile block trips over
            self.problems.append(shown(f"{what} is broken ({type(error).__name__})"))
        return None

    @property
    def nothing(self) -> str:
        """What is said where nothing was found: that there is none, of a format that was looked into alone."""
        return "none in the file" if self.looked else f"not looked for in {self.form or 'an unknown format'}"

    def fields(self) -> Iterator[tuple[str, str]]:
        """(where, text) of every text in the file."""
        for what, texts in (("EXIF", self.exif.texts), ("XMP", self.xmp.texts), ("IPTC", self.iptc.texts)):
            yield from ((f"{what} {key}", text) for key, text in texts.items())
        yield from ((f"{self.form} text {key}", text) for key, text in self.parts.texts)

    def bytes_line(self) -> Line:
        digest = hashlib.sha256(self.data).hexdigest()
        return _bytes_line(f"{digest} ({len(self.data):,} bytes)", {"sha256": digest, "bytes": len(self.data)})

    def source_line(self) -> Line:
        proves, cannot = f"nothing alone: {FORGED}", "where it came from; absent, nothing: most programs write none"
        if (value := self.xmp.texts.get("source_type")) is None:
            return Line(SOURCE, UNKNOWN, self.nothing, proves, cannot)
        code, sort, words = source_type(value)
        code = shown(code, 60)
        return Line(SOURCE, PRESENT, f"says: {words} ({code})", proves, cannot, {"code": code, "sort": sort})

    def generator_line(self) -> Line:
        proves = f"nothing alone: {FORGED}; who would call a photo generated, is a question worth asking"
        cannot = "that it is generated; absent, nothing: web sites and editors remove such texts"
        tags: list[Tag] = [tag for where, text in self.fields() if (tag := tag_in(where, text))]
        if not tags:
            return Line(GENERATOR, UNKNOWN, self.nothing, proves, cannot)
        first = tags[0]
        told = [{"program": tag.program, "where": shown(tag.where, 60), "text": shown(tag.text)} for tag in tags[:8]]
        words = f"{first.program}, by {shown(first.where, 60)}: {shown(first.text, 80)}"
        more = sorted({tag.program for tag in tags[1:]} - {first.program})
        if more:
            words += f" (also: {', '.join(more)})"
        return Line(GENERATOR, PRESENT, words, proves, cannot, {"tags": told})

    def camera_line(self) -> Line:
        proves = f"nothing alone: {FORGED}, or copy it from a photo"
        cannot = "that a camera took this picture; absent, nothing: web sites remove them"
        texts, numbers = self.exif.texts, self.exif.numbers
        make, model = (shown(texts.get(key, ""), 60) for key in ("make", "model"))
        camera = model if make.lower() in model.lower() else f"{make} {model}".strip()
        if not camera and not numbers and "lens" not in texts:
            return Line(CAMERA, UNKNOWN, self.nothing, proves, cannot)
        told = [camera or "a camera without a name"]
        told += [shown(texts[key], 60) for key in ("lens", "taken") if texts.get(key)]
        if exposure := numbers.get("exposure"):
            told.append(f"1/{1 / exposure:.0f} s" if 0 < exposure < 0.5 else f"{exposure:g} s")
        if numbers.get("aperture"):
            told.append(f"f/{numbers['aperture']:.1f}")
        if numbers.get("iso"):
            told.append(f"ISO {numbers['iso']:.0f}")
        told += ["with the maker's notes"] * (self.exif.maker_note > 0) + ["with a place"] * self.exif.has_position
        facts = {
            "camera": camera,
            "numbers": numbers,
            "position": self.exif.has_position,
            "maker_note": self.exif.maker_note,
        }
        return Line(CAMERA, PRESENT, ", ".join(told), proves, cannot, facts)

    def tables_line(self) -> Line:
        proves = "how it was saved last, and that it lost as much detail"
        cannot = "what it was before, or which program saved it; a generated picture can be saved so, too"
        parts = self.parts
        if self.form != "JPEG" or not parts.tables or not parts.components:
            return Line(TABLES, ABSENT, f"none ({self.form or 'an unknown format'})", proves, cannot)
        used = [(parts.tables[at], i > 0) for i, (_, _, at) in enumerate(parts.components[:3]) if at in parts.tables]
        estimate = estimate_quality(used)
        words = f"quality {estimate.quality} by libjpeg's own tables"
        if not estimate.standard:
            words = "tables of another program (not libjpeg's), which lie nearest its quality"
            words += f" {estimate.quality}, an entry {estimate.off:.1f} off"
        sampling = _sampling(parts)
        words += f", colour {sampling}" * bool(sampling) + ", progressive" * parts.progressive
        facts = {
            "quality": estimate.quality, "standard": estimate.standard, "off": round(estimate.off, 3),
            "sampling": sampling, "progressive": parts.progressive,
            "tables": {str(at): table.ravel().tolist() for at, table in sorted(parts.tables.items())},
        }  # fmt: skip
        return Line(TABLES, PRESENT, words, proves, cannot, facts)

    def double_line(self) -> Line:
        proves = f"where it is said, most likely an earlier JPEG on the same grid: {DOUBLE_RATES}, on {MEASURED_ON}"
        cannot = "that anything was altered: every photo that was saved again is; a crop or a resize hides it"
        parts = self.parts
        if self.form != "JPEG" or len(parts.components) not in (1, 3) or parts.components[0][2] not in parts.tables:
            return Line(DOUBLE, UNKNOWN, "not a JPEG in grey or colour: not looked at", proves, cannot)
        open_header(self.data, self.name, max_pixels=self.max_pixels).close()  # refuses what is too large
        if min(parts.size) < LEAST:
            return Line(DOUBLE, UNKNOWN, f"less than {LEAST}x{LEAST} pixels: not looked at", proves, cannot)
        told = primary(luminance(self.data), parts.tables[parts.components[0][2]])
        limit = said_from(estimate_quality([(parts.tables[parts.components[0][2]], False)]).quality)
        facts = {"score": round(told.score, 4), "limit": limit}
        if told.score < limit:
            return Line(DOUBLE, ABSENT, f"no trace of an earlier JPEG (score {told.score:.3f})", proves, cannot, facts)
        words = f"compressed before, at a quality near {told.quality} (score {told.score:.2f})"
        return Line(DOUBLE, PRESENT, words, proves, cannot, facts | {"first_quality": told.quality})

    def problems_line(self) -> Line:
        return Line(
            PROBLEMS, BROKEN, "; ".join(self.problems[:5]), "that a block is broken, too large or odd",
            "why: by accident or on purpose", {"problems": self.problems[:50]},
        )  # fmt: skip


def _sampling(parts: Parts) -> str:
    """4:2:0 and its kin, or "" for what has no such name."""
    if len(parts.components) != 3:
        return "grey" if len(parts.components) == 1 else ""
    (h, v, _), *chroma = parts.components
    if any((a, b) != (1, 1) for a, b, _ in chroma):
        return ""
    return {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0"}.get((h, v), "")
