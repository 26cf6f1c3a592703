"""What XMP and IPTC records say of a picture's source.

XMP is parsed as a stream, and one with a document type is refused: entities have no place in it. Namespaces and values:
IPTC Photo Metadata Standard and the NewsCodes «Digital Source Type»; IPTC-IIM 4.2 in Photoshop's image resources.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from xml.parsers import expat

TEXT = 4096  # characters of a field
FIELDS = {
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ DigitalSourceType": "source_type",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ AISystemUsed": "system",
    "http://ns.adobe.com/xap/1.0/ CreatorTool": "creator_tool",
    "http://ns.adobe.com/photoshop/1.0/ Credit": "credit",
    "http://ns.adobe.com/tiff/1.0/ Software": "software",
    "http://ns.adobe.com/exif/1.0/ UserComment": "comment",
    "http://purl.org/dc/elements/1.1/ description": "description",
}
RDF_RESOURCE = "http://www.w3.org/1999/02/22-rdf-syntax-ns# resource"
RECORDS = {65: "software", 110: "credit", 120: "description", 40: "instructions"}  # of IPTC's application record
MADE, PARTLY, CAPTURED, OTHER = "made", "partly", "captured", "other"
# code of the NewsCodes: (what kind of source it is, in words)
SOURCE_TYPES = {
    "trainedAlgorithmicMedia": (MADE, "made by a trained model"),
    "compositeWithTrainedAlgorithmicMedia": (PARTLY, "edited or put together with a trained model"),
    "algorithmicMedia": (MADE, "made by an algorithm"),
    "algorithmicallyEnhanced": (PARTLY, "enhanced by an algorithm"),
    "compositeSynthetic": (PARTLY, "put together, parts of it synthetic"),
    "virtualRecording": (MADE, "recorded from a virtual scene"),
    "digitalArt": (OTHER, "drawn on a computer"),
    "digitalCreation": (OTHER, "created on a computer"),
    "softwareImage": (OTHER, "created by software"),
    "dataDrivenMedia": (OTHER, "drawn from data"),
    "screenCapture": (OTHER, "a screenshot"),
    "compositeCapture": (OTHER, "put together from photographs"),
    "composite": (OTHER, "put together from several pictures"),
    "humanEdits": (CAPTURED, "a photograph edited by a person"),
    "minorHumanEdits": (CAPTURED, "a photograph with minor edits"),
    "digitalCapture": (CAPTURED, "taken by a digital camera"),
    "computationalCapture": (CAPTURED, "taken by a camera that computes its photos"),
    "negativeFilm": (CAPTURED, "a scan of a negative"),
    "positiveFilm": (CAPTURED, "a scan of a slide"),
    "print": (CAPTURED, "a scan of a print"),
}


@dataclass
class Said:
    """Texts by the names in FIELDS or RECORDS."""

    texts: dict[str, str] = field(default_factory=dict)


def source_type(value: str) -> tuple[str, str, str]:
    """(code, kind of source, in words) of a DigitalSourceType, a NewsCodes address or its last word."""
    code = value.strip().rstrip("/").rpartition("/")[2]
    kind, words = SOURCE_TYPES.get(code, (OTHER, "a source that this program does not know"))
    return code, kind, words


def read_xmp(packet: bytes) -> Said:
    """The named fields of an XMP packet, as attributes or elements. ValueError for what is no XML, or has a document
    type."""
    said, depth = Said(), 0
    open_: list[tuple[int, str, list[str]]] = []  # depth, name, pieces of text

    def keep(name: str, text: str) -> None:
        if (key := FIELDS.get(name)) and (text := text.strip()):
            said.texts.setdefault(key, text[:TEXT])

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        for attribute, value in attributes.items():
            keep(attribute, value)
        if name in FIELDS:
            keep(name, attributes.get(RDF_RESOURCE, ""))
            open_.append((depth, name, []))

    def end(name: str) -> None:
        nonlocal depth
        if open_ and open_[-1][0] == depth:
            keep(name, "".join(open_.pop()[2]))
        depth -= 1

    def text(data: str) -> None:
        if open_ and sum(map(len, open_[-1][2])) < TEXT:
            open_[-1][2].append(data)

    def refuse(*_: object) -> None:
        raise ValueError("XMP with a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(packet.strip(b"\0 \r\n\t"), True)
    except expat.ExpatError as error:
        raise ValueError(f"XMP is broken ({expat.errors.messages.get(error.code, error.code)})") from None
    return said


def read_iptc(resources: bytes) -> Said:
    """The named records of Photoshop's image resources (number 0x0404), or of records that lie there by themselves, as
    in a TIFF. ValueError where their structure is broken."""
    said, at = Said(), 0
    if resources[:1] == b"\x1c":
        _records(resources, said)
        return said
    try:
        while resources[at : at + 4] == b"8BIM":
            (number,) = struct.unpack_from(">H", resources, at + 4)
            name = resources[at + 6]
            at += 6 + (name + 2) // 2 * 2
            (size,) = struct.unpack_from(">I", resources, at)
            body = resources[at + 4 : at + 4 + size]
            if len(body) < size:
                raise ValueError("IPTC: a resource ends early")
            if number == 0x0404:
                _records(body, said)
            at += 4 + size + size % 2
    except (struct.error, IndexError):
        raise ValueError("IPTC: its structure is broken") from None
    return said


def _records(body: bytes, said: Said) -> None:
    at = 0
    while at + 5 <= len(body) and body[at] == 0x1C:
        record, number, size = struct.unpack_from(">BBH", body, at + 1)
        if size & 0x8000:  # an extended length: no text is that long
            return
        if record == 2 and number in RECORDS:
            text = body[at + 5 : at + 5 + size].decode("utf-8", "replace").strip()
            said.texts.setdefault(RECORDS[number], text[:TEXT])
        at += 5 + size
