"""Tables as people's programs write them: CSV in UTF-8 or UTF-16, separated by commas, semicolons or tabs."""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
from collections.abc import Iterator

from common.errors import UserError

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with these a spreadsheet begins to compute
SEPARATOR = re.compile(r"\"?sep=([,;\t|])\"?[,;]*\r?\n?", re.IGNORECASE)
EMPTY = " ,;\t\r\n"  # a line of nothing else says nothing


def no_formula(path: str) -> str:
    """A path as a cell of a CSV: a spreadsheet would compute `=x.png`, so it gets its folder in front, `./=x.png`."""
    return f"./{path}" if path.startswith(FORMULA) else path


def windows_text(text: str) -> str:
    """Text of a file that is not UTF-8 (`read_rows` keeps its bytes as surrogates) as Windows' spreadsheets write it in
    western Europe and America; unchanged where it is UTF-8, or no such text either."""
    if not text.isascii() and any("\udc80" <= sign <= "\udcff" for sign in text):
        with contextlib.suppress(UnicodeError):
            return text.encode("utf-8", "surrogateescape").decode("cp1252")
    return text


def read_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """(line of the file, cells): the header ([] of an empty file), then every row that is not empty.

    Bytes that are not UTF-8 stay as they are (surrogates); UTF-16 is known by its mark. UserError for a file that can't
    be read or is no CSV, and for a row of another length than the header. Spreadsheets make every row as wide as the
    widest: nameless columns at the end that hold nothing are left out, and so are rows of nothing but separators,
    above the header, too. A
    first line `sep=;`, by which some tell the separator, is no header.
    """
    try:
        with open(path, "rb") as file:  # some spreadsheets' "Unicode text"
            marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        with open(path, encoding="utf-16" if marked else "utf-8-sig", errors="surrogateescape", newline="") as file:
            above, start, first = 0, file.tell(), file.readline()
            while first and not first.strip(EMPTY):
                above, start, first = above + 1, file.tell(), file.readline()
            said = SEPARATOR.fullmatch(first)
            if said is None:
                file.seek(start)
            delimiter = said[1] if said else max(",;\t", key=first.count)
            reader, above = csv.reader(file, delimiter=delimiter, strict=True), above + bool(said)
            header = _trimmed(next(reader, []))
            yield above + reader.line_num, header
            number = 0
            for row in reader:
                if not any(row):
                    continue
                number += 1
                if len(row) > len(header) and not any(row[len(header) :]):
                    row = row[: len(header)]
                if len(row) != len(header):
                    raise UserError(
                        f"{path}, row {number}, line {above + reader.line_num}: {len(row)} cells where the header has"
                        f" {len(header)}; quote cells that hold the separator"
                    )
                yield above + reader.line_num, row
    except (csv.Error, UnicodeError) as error:
        raise UserError(f"{path}: not a readable CSV ({error}); write it again") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); check the path") from None


def _trimmed(header: list[str]) -> list[str]:
    """Without the nameless columns at its end."""
    width = len(header)
    while width > 1 and not header[width - 1].strip():
        width -= 1
    return header[:width]
