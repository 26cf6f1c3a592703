"""Judge all photos of a folder, a line for each face in a CSV; what can't be read is named and left out.

    python -m examples.batch_to_csv my_photos/ verdicts.csv

For many photos `python detect.py my_photos/ --csv verdicts.csv` is quicker: it decodes ahead in threads.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from common.errors import UserError
from reports.library import judge  # with the installed package: from ganface import judge

COLUMNS = ("file", "face", "verdict", "probability", "note")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def main(folder: str, table: str) -> None:
    files = sorted(file for file in Path(folder).rglob("*") if file.suffix.lower() in PICTURES)
    with open(table, "x", encoding="utf-8", newline="") as out:
        rows = csv.DictWriter(out, COLUMNS)
        rows.writeheader()
        for file in files:
            try:
                said = judge(file)
            except UserError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            for answer in said.results:
                rows.writerow(
                    {
                        "file": file,
                        "face": answer.face["index"] if answer.face else "",
                        "verdict": answer.verdict or answer.status,
                        "probability": answer.probability,
                        "note": answer.note,
                    }
                )
    print(f"{table}: {len(files)} photos")


if __name__ == "__main__":
    main(*sys.argv[1:3])
