"""A bank of twins on disk: crops of photos, and what small decoders made of them. `synth.py twins` writes one.

    bank.json         what it was made of and how
    decoder-00.npy    uint8 [pairs, 2, side, side, 3]: photo and twin, as they are
    decoder-00.json   the decoder: its shape, how it was taught, what its gates say
    manifest.csv      a line for each pair: which photo, where, through which decoder
    sheet.png         some photos above their twins

The pixels of a decoder are written before its .json, which is written before the manifest: what has a .json is whole.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from common import reading
from common.errors import UserError
from common.files import write_bytes, write_json, written_whole
from common.words import counted

BANK, MANIFEST, SHEET = "bank.json", "manifest.csv", "sheet.png"
FORMAT = 1
COLUMNS = ("pair", "decoder", "index", "photo", "bytes", "top", "left", "quality", "subsampling", "kind",
           "depth", "width", "code", "noise", "verdict")  # fmt: skip
SHAPE = ("kind", "depth", "width", "code", "noise")
Mark = tuple[str, int]
PASS, FAIL = "pass", "fail"


@dataclass(frozen=True)
class Pair:
    """Where a pair was cut. photo: its path in the source; bytes: size of its file; quality: of that, as JPEG, None for
    others; subsampling: of its chroma, "4:2:0" and so on, "" for others."""

    photo: str
    bytes: int
    top: int
    left: int
    quality: int | None
    subsampling: str

    @property
    def mark(self) -> Mark:
        return mark_of(self.photo, self.bytes)


def mark_of(path: str, size: int) -> Mark:
    """By what a photo is known again, in a copy of its folder, too, without reading it."""
    return path.replace("\\", "/").rpartition("/")[2], size


@dataclass(frozen=True)
class DecoderRecord:
    """A decoder of a bank. shape: kind, depth, width, code, noise; measured: l1, sharpness (energy of the twins'
    residuals, as a share of the photos'), border (difference at the crops' edges, as a share of that in their middle);
    gates: {name: {"auc", "low", "high", "by"}}; failed: what kept it out, in words, empty where nothing did."""

    number: int
    shape: dict
    steps: int
    measured: dict
    gates: dict
    failed: list[str] = field(default_factory=list)
    pairs: int = 0

    @property
    def name(self) -> str:
        return decoder_name(self.number)

    @property
    def verdict(self) -> str:
        return FAIL if self.failed else PASS

    def say(self) -> str:
        """One line for people."""
        shape = self.shape
        gates = ", ".join(f"{name} AUC {gate['auc']:.2f}" for name, gate in self.gates.items())
        end = f"FAILED: {'; '.join(self.failed)}" if self.failed else "passed"
        return (
            f"{self.name}: {shape['kind']}, {counted(shape['depth'], 'doubling')},"
            f" {counted(self.steps, 'step')};"
            f" L1 {self.measured['l1']:.3f}, sharpness {self.measured['sharpness']:.2f} of the photo's; {gates}; {end}"
        )


def decoder_name(number: int) -> str:
    return f"decoder-{number:02d}"


@dataclass(frozen=True)
class TwinBank:
    """A bank that was opened. facts: of bank.json; pairs: of each decoder, in the order of its file."""

    folder: Path
    facts: dict
    decoders: list[DecoderRecord]
    pairs: dict[int, list[Pair]]

    @property
    def side(self) -> int:
        return int(self.facts["side"])

    @classmethod
    def open(cls, folder: str | Path) -> TwinBank:
        """UserError where there is none, or what is there contradicts itself."""
        place = Path(folder).expanduser()
        facts = read_facts(place)
        if facts is None:
            raise UserError(f"{place}: no bank of twins (it has no {BANK}); make one with `python synth.py twins`")
        decoders = [record for record in map(read_decoder, _decoder_files(place)) if record is not None]
        if not decoders:
            raise UserError(f"{place}: this bank of twins holds no finished decoder yet; let synth.py twins go on")
        pairs = _read_manifest(place / MANIFEST)
        for one in decoders:
            if len(pairs.get(one.number, ())) != one.pairs:
                raise UserError(
                    f"{place / MANIFEST}: lists {counted(len(pairs.get(one.number, ())), 'pair')} of {one.name}, which"
                    " has"
                    f" {one.pairs}; start `python synth.py twins` again on this folder, it writes the list anew"
                )
        return cls(place, facts, decoders, pairs)

    def chosen(self, asked: str | None) -> list[DecoderRecord]:
        """The decoders named like "0-3,5"; without a word, those that passed their gates. UserError for none."""
        if asked is None:
            passed = [one for one in self.decoders if not one.failed]
            if not passed:
                why = "; ".join(f"{one.name}: {', '.join(one.failed)}" for one in self.decoders)
                raise UserError(f"{self.folder}: no decoder passed its gates ({why}); name some by `twin_decoders`")
            return passed
        known = {one.number: one for one in self.decoders}
        found = []
        for word in asked.split(","):
            match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", word)
            numbers = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
            if not numbers:
                raise UserError(f"`twin_decoders` {asked}: write numbers of decoders like 0-3,5")
            for number in numbers:
                if number not in known:
                    has = ", ".join(map(str, known))
                    raise UserError(f"`twin_decoders` {asked}: {self.folder} has no decoder {number}; it has {has}")
                found.append(known[number])
        return list({one.number: one for one in found}.values())

    def pixels(self, decoder: DecoderRecord) -> np.ndarray:
        """uint8 [pairs, 2, side, side, 3], mapped: photo and twin. UserError where the file is missing or another."""
        path = self.folder / f"{decoder.name}.npy"
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            said = getattr(error, "strerror", None) or "damaged"
            raise UserError(f"{path}: can't be read ({said}); delete {decoder.name}.json and make it again") from None
        if found.dtype != np.uint8 or found.shape != (decoder.pairs, 2, self.side, self.side, 3):
            raise UserError(
                f"{path}: holds {found.dtype} {list(found.shape)}, not what {decoder.name}.json says; delete both and"
                " make them again"
            )
        return found


# ---- files ---------------------------------------------------------------------------------------------------------


def read_facts(folder: Path) -> dict | None:
    """bank.json, or None where there is none. UserError for what is none of this version."""
    path = folder / BANK
    if not path.is_file():
        return None
    found = _json(path)
    if found.get("twins") != FORMAT or not isinstance(found.get("side"), int):
        raise UserError(f"{path}: not a bank of twins of this version; give another folder")
    return found


def write_facts(folder: Path, facts: dict) -> None:
    write_json(folder / BANK, {"twins": FORMAT, **facts})


def read_decoder(path: Path) -> DecoderRecord | None:
    """The record in a decoder's .json, None where that is not there. UserError for a damaged one."""
    if not path.is_file():
        return None
    found = _json(path)
    try:
        record = DecoderRecord(**found)
        _ = [record.shape[name] for name in SHAPE], record.measured["l1"], record.measured["sharpness"]
    except (TypeError, KeyError):
        raise UserError(f"{path}: not the record of a decoder; delete it, and synth.py twins makes it anew") from None
    return record


def write_decoder(folder: Path, record: DecoderRecord, photos: np.ndarray, twins: np.ndarray) -> None:
    """Pixels first, then the record. photos, twins: uint8 [n, 3, side, side]."""
    pairs = np.stack([photos, twins], axis=1).transpose(0, 1, 3, 4, 2)
    with written_whole(folder / f"{record.name}.npy") as tmp, open(tmp, "wb") as file:
        np.save(file, np.ascontiguousarray(pairs))
    write_json(folder / f"{record.name}.json", asdict(record))


def write_manifest(folder: Path, decoders: Sequence[DecoderRecord], pairs: dict[int, list[Pair]]) -> None:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for one in decoders:
        for k, pair in enumerate(pairs[one.number]):
            where = (
                pair.photo,
                pair.bytes,
                pair.top,
                pair.left,
                "" if pair.quality is None else pair.quality,
                pair.subsampling,
            )
            shape = [int(one.shape[n]) if n == "noise" else one.shape[n] for n in SHAPE]
            lines.writerow((f"{one.number:02d}-{k:05d}", one.number, k, *where, *shape, one.verdict))
    write_bytes(folder / MANIFEST, text.getvalue().encode("utf-8", "surrogateescape"))


def _read_manifest(path: Path) -> dict[int, list[Pair]]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); start `python synth.py twins` again") from None
    found: dict[int, list[Pair]] = {}
    rows = csv.DictReader(io.StringIO(text))
    try:
        for row in rows:
            mine = found.setdefault(int(row["decoder"]), [])
            if int(row["index"]) != len(mine):
                raise ValueError
            quality = int(row["quality"]) if row["quality"] else None
            if quality is not None and not 1 <= quality <= 100:
                raise ValueError
            size, top, left = (int(row[name]) for name in ("bytes", "top", "left"))
            mine.append(Pair(row["photo"], size, top, left, quality, row["subsampling"]))
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(
            f"{path}: line {rows.line_num} is damaged; start `python synth.py twins` again, it writes it anew"
        ) from None
    return found


def _decoder_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("decoder-*.json") if re.fullmatch(r"decoder-\d{2,}", path.stem))


def _json(path: Path) -> dict:
    try:
        found = reading.json_file(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); check its permissions") from None
    except ValueError:
        raise UserError(f"{path}: damaged; delete it, and synth.py twins makes it anew") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged; delete it, and synth.py twins makes it anew")
    return found
