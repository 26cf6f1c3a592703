"""A file's own story on made files: each tag present, forged, broken and absent; and files made to do harm."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest

from evidence.containers import BLOCK, parts_of
from evidence.exif import comment
from evidence.line import ABSENT, BROKEN, PRESENT, UNKNOWN
from evidence.story import file_story
from evidence.xmp import read_xmp, source_type
from tests.evidence import made

BIG, LITTLE = (b"UNICODE\0" + made.PARAMETERS.encode(code) for code in ("utf-16-be", "utf-16-le"))
COMFY = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 5}}})
JOB = "a fox in the snow --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef"


def story(data: bytes, **how) -> dict:
    lines = file_story(data, "file", **how)
    assert all(line.says and line.proves and line.cannot_prove and "\n" not in line.says for line in lines)
    json.dumps([line.to_dict() for line in lines], allow_nan=False)
    return {line.kind: line for line in lines}


def generator(data: bytes):
    return story(data)["generator tag"]


@pytest.mark.parametrize(
    ("data", "program"),
    [
        (made.png(("parameters", made.PARAMETERS)), "Stable Diffusion"),
        (made.png(("parameters", made.PARAMETERS), packed=True), "Stable Diffusion"),
        (made.png(("parameters", made.PARAMETERS + " ö"), international=True), "Stable Diffusion"),
        (made.png(("parameters", made.PARAMETERS), international=True, packed=True), "Stable Diffusion"),
        (made.png(("prompt", COMFY), ("workflow", json.dumps({"nodes": []}))), "ComfyUI"),
        (made.png(("invokeai_metadata", json.dumps({"app_version": "4"}))), "InvokeAI"),
        (made.png(("Description", JOB)), "Midjourney"),
        (made.png(("Software", "NovelAI")), "NovelAI"),
        (made.saved(made.picture(), exif=made.exif({0x0131: "Adobe Firefly 3.0"})), "Adobe Firefly"),
        (made.saved(made.picture(), exif=made.exif({0x0131: "DALL·E 3"})), "DALL-E or ChatGPT"),
        (made.saved(made.picture(), exif=made.exif(detail={0x9286: BIG})), "Stable Diffusion"),
        (made.saved(made.picture(), "WEBP", exif=made.exif(detail={0x9286: LITTLE})), "Stable Diffusion"),
        (
            made.saved(made.picture(), exif=made.exif(detail={0x9286: b"ASCII\0\0\0" + made.PARAMETERS.encode()})),
            "Stable Diffusion",
        ),
        (made.saved(made.picture(), xmp=made.xmp(tool="Midjourney")), "Midjourney"),
        (made.saved(made.picture(), comment=made.PARAMETERS.encode()), "Stable Diffusion"),
    ],
)  # fmt: skip
def test_generator_tags_are_found_in_whole_containers(data, program):
    line = generator(data)
    assert line.found == PRESENT and line.facts["tags"][0]["program"] == program
    assert "anyone can write" in line.proves


@pytest.mark.parametrize(
    "data",
    [
        made.saved(made.picture()),
        made.saved(made.picture(), "PNG"),
        made.saved(made.picture(), "WEBP"),
        made.saved(made.picture(), "PNG") + made.PARAMETERS.encode(),  # behind the end
        made.saved(made.picture()) + made.chunk(b"tEXt", b"parameters\0" + made.PARAMETERS.encode()),
        b"parameters\0" + made.PARAMETERS.encode(),  # no picture
        made.png(("Title", "not Stable Diffusion, a photo of my Midjourney T-shirt")),  # what a person wrote
        made.saved(made.picture(), exif=made.exif({0x010E: "taken before stable diffusion"})),
    ],
)
def test_where_there_is_no_tag_it_is_unknown_and_never_no(data):
    assert generator(data).found == UNKNOWN


def test_a_text_with_a_wrong_checksum_is_not_read_and_told():
    data = made.png(("parameters", made.PARAMETERS))
    at = data.index(b"Steps: 20")
    lines = story(data[:at] + b"Steps: 21" + data[at + 9 :])
    assert lines["generator tag"].found == UNKNOWN
    assert lines["unread blocks"].found == BROKEN and "checksum" in lines["unread blocks"].says


def test_camera_tags_are_told_and_a_forged_one_reads_alike():
    block = made.exif(
        {0x010F: "Canon", 0x0110: "Canon EOS R5", 0x8825: {1: "N"}},
        {0x829A: 0.005, 0x829D: 2.8, 0x8827: 400, 0x9003: "2024:05:01 12:00:00", 0x927C: b"x" * 40},
    )
    line = story(made.saved(made.picture(), exif=block))["camera tags"]
    assert line.found == PRESENT and line.says.startswith("Canon EOS R5, ")
    assert "1/200 s" in line.says and "f/2.8" in line.says and "ISO 400" in line.says
    assert line.facts["maker_note"] == 40
    assert "nothing alone" in line.proves
    both = made.exif({0x010F: "Canon", 0x0131: "Stable Diffusion"})
    lines = story(made.saved(made.picture(), exif=both))
    assert lines["camera tags"].found == lines["generator tag"].found == PRESENT
    assert story(made.saved(made.picture()))["camera tags"].found == UNKNOWN


def tiff(*entries: tuple[int, int, bytes], order: str = "<") -> bytes:
    """A TIFF of one grey pixel with more fields: (tag, type, value), by the letter of TIFF 6.0."""
    short = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    fields = {tag: (3, 1, struct.pack(order + "HH", number, 0)) for tag, number in short.items()}
    at, body = 8 + 2 + 12 * (len(short) + len(entries)) + 4, b""
    for tag, kind, value in entries:
        where = at + len(body)
        size = {1: 1, 2: 1, 4: 4, 7: 1}[kind]
        inline = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", where)
        fields[tag] = (kind, len(value) // size, inline)
        body += value if len(value) > 4 else b""
    directory = b"".join(
        struct.pack(order + "HHI", tag, kind, n) + value for tag, (kind, n, value) in sorted(fields.items())
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(fields))
    return head + directory + bytes(4) + body


@pytest.mark.parametrize("order", "<>")
def test_of_a_tiff_its_own_fields_are_read(order):
    """A press photo's usual format: tags, XMP (700) and IPTC (33723, called bytes or longs) stand in its directory."""
    record = b"\x1c\x02" + bytes([110]) + struct.pack(">H", 19) + b"Made with Google AI"
    data = tiff(
        (0x010F, 2, b"Canon\0"), (0x0110, 2, b"EOS R5\0"), (700, 1, made.xmp(attribute=made.TRAINED)),
        (33723, 4, record), order=order,
    )  # fmt: skip
    lines = story(data)
    assert lines["camera tags"].says == "Canon EOS R5" and "unread blocks" not in lines
    assert lines["digital source type"].facts == {"code": "trainedAlgorithmicMedia", "sort": "made"}
    assert lines["generator tag"].facts["tags"][0]["where"] == "IPTC credit"
    resources = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(record)) + record
    assert generator(tiff((34377, 7, resources), order=order)).facts["tags"][0]["where"] == "IPTC credit"
    assert story(tiff(order=order))["camera tags"].says == "none in the file"


def test_a_tiff_as_pillow_writes_it():
    data = made.saved(made.picture(), "TIFF", tiffinfo={0x010F: "Canon", 0x0131: "Stable Diffusion"})
    lines = story(data)
    assert lines["camera tags"].says == "Canon"
    assert lines["generator tag"].facts["tags"][0]["program"] == "Stable Diffusion"
    assert lines["JPEG tables"].says == "none (TIFF)"


def test_none_in_the_file_is_said_of_formats_alone_that_were_looked_into():
    for form in ("GIF", "BMP", "JPEG2000", "PPM"):
        lines = story(made.saved(made.picture(), form))
        for kind in ("digital source type", "generator tag", "camera tags"):
            assert lines[kind].says == f"not looked for in {form}" and lines[kind].found == UNKNOWN
    assert story(b"no picture")["camera tags"].says == "not looked for in an unknown format"
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert story(made.saved(made.picture(), form))["generator tag"].says == "none in the file"


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_tiff_breaks_no_line(seed):
    rng = np.random.default_rng(seed)
    data = bytearray(tiff((0x010F, 2, b"Canon\0"), (700, 1, made.xmp(tool="x")), (33723, 4, b"\x1c\x02nx" * 9)))
    for at in rng.integers(0, 180, 6):
        data[at] = rng.integers(256)
    assert story(bytes(data[: rng.integers(8, len(data))]))["SHA-256"].found == PRESENT


def test_a_users_comment_is_read_in_either_byte_order():
    text = "Steps: 20, Sampler: Euler"
    for order in "<>":
        for code in ("utf-16-le", "utf-16-be"):
            assert comment(b"UNICODE\0" + text.encode(code), order) == text
    assert comment(b"\0" * 8 + b"hello\0", "<") == "hello"


@pytest.mark.parametrize("how", [{"attribute": made.TRAINED}, {"element": made.TRAINED}])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_digital_source_type_is_found(form, how):
    packet = made.xmp(**how)
    if form == "PNG":
        data = made.png(("XML:com.adobe.xmp", packet.decode()), international=True)
    else:
        data = made.saved(made.picture(), form, xmp=packet)
    line = story(data)["digital source type"]
    assert line.found == PRESENT and line.facts == {"code": "trainedAlgorithmicMedia", "sort": "made"}
    assert "nothing alone" in line.proves


def test_source_types_that_nobody_knows_and_broken_packets():
    assert source_type("http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture")[1] == "captured"
    assert source_type("somethingNew/")[0] == "somethingNew"
    for packet in (
        made.xmp(attribute=made.TRAINED)[:-40],
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + made.xmp(attribute=made.TRAINED).split(b"?>", 1)[1],
        '<?xml version="1.0"?><!DOCTYPE x []><x/>'.encode("utf-16"),
    ):
        with pytest.raises(ValueError, match="XMP"):
            read_xmp(packet)
    lines = story(made.with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x", exif=made.exif({0x010F: "Canon"})))
    assert "XMP is broken" in lines["unread blocks"].says
    assert lines["camera tags"].found == PRESENT, "a broken part stops no other"


def test_iptc_records():
    record = b"\x1c\x02" + bytes([110]) + struct.pack(">H", 19) + b"Made with Google AI"
    body = b"Photoshop 3.0\x008BIM" + struct.pack(">HHI", 0x0404, 0, len(record)) + record + b"\0"
    assert generator(made.with_segment(0xED, body)).facts["tags"][0]["where"] == "IPTC credit"
    cut = story(made.with_segment(0xED, body[:-10]))
    assert cut["generator tag"].found == UNKNOWN and "IPTC" in cut["unread blocks"].says


def test_the_sum_is_that_of_the_bytes():
    data = made.saved(made.picture())
    assert story(data)["SHA-256"].facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_credentials_are_unknown_where_the_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    line = story(made.saved(made.picture()))["content credentials"]
    assert line.found == UNKNOWN and "pip install" in line.says


def peak_of(data: bytes) -> int:
    tracemalloc.start()
    story(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_bombs_take_no_memory():
    file_story(made.saved(made.picture()))  # what is imported and kept once
    bomb = zlib.compress(bytes(64 << 20), 1)
    for kind, head in ((b"zTXt", b"parameters\0\0"), (b"iTXt", b"parameters\0\1\0\0\0")):
        data = made.with_chunk(kind, head + bomb)
        assert "more than" in story(data)["unread blocks"].says
        assert peak_of(data) < 8 << 20
    large = made.with_chunk(b"eXIf", b"II*\0\x08\0\0\0" + bytes(5 << 20))
    assert "too large" in story(large)["unread blocks"].says
    many = made.saved(made.picture(), "PNG")
    many = many[:33] + made.chunk(b"tEXt", b"a\0" + bytes(range(65, 91))) * 5000 + many[33:]
    assert len(parts_of(many).texts) < 300


def test_exif_entries_that_all_point_at_one_large_place_take_no_memory():
    count, size = 5000, 900_000
    entries = b"".join(struct.pack("<HHII", 0x010F, 2, size, 0) for _ in range(count))
    block = b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(size)
    assert len(block) <= BLOCK
    data = made.with_chunk(b"eXIf", block)
    assert peak_of(data) < 8 << 20


@pytest.mark.parametrize("seed", range(15))
def test_damaged_files_break_no_line(seed):
    rng = np.random.default_rng(seed)
    form = ("JPEG", "PNG", "WEBP")[seed % 3]
    block = made.exif({0x010F: "Canon", 0x0131: "x"}, {0x9286: b"UNICODE\0a\0b\0"})
    data = bytearray(made.saved(made.picture(side=160), form, exif=block, xmp=made.xmp(attribute=made.TRAINED)))
    for at in rng.integers(0, 700, 8):
        data[at % len(data)] = rng.integers(256)
    kinds = set(story(bytes(data[: rng.integers(1, len(data))]))) - {"unread blocks"}
    assert len(kinds) == 8


def test_every_prefix_of_a_small_file_has_a_story():
    for form in ("JPEG", "PNG", "WEBP"):
        data = made.saved(made.picture(side=16), form, exif=made.exif({0x010F: "Canon"}))
        for end in range(0, len(data), 7):
            parts_of(data[:end])
        assert story(data[: len(data) // 2])["SHA-256"].found == PRESENT


def test_where_the_eyes_sit():
    from evidence.eyes import EYES

    at = np.vstack([EYES, [[0.5, 0.6], [0.4, 0.7], [0.6, 0.7]]])
    data = made.saved(made.picture())
    line = story(data, landmarks=at * 256, size=(256, 256))["eye position"]
    assert line.found == PRESENT and "FFHQ photos" in line.proves
    assert story(data, landmarks=at * 256 + 13, size=(256, 256))["eye position"].found == ABSENT
    assert story(data, landmarks=at * 256, size=(256, 300))["eye position"].found == ABSENT
    assert story(data)["eye position"].found == UNKNOWN
