"""Judge one photo: what `detect.py` says of it, in Python.

python -m examples.judge_a_photo photo.jpg
"""

from __future__ import annotations

import sys

from reports.library import judge  # with the installed package: from ganface import judge


def main(path: str) -> None:
    said = judge(path)
    for answer in said.results:
        if answer.verdict is None:
            print(f"{path}: no face was found")
            continue
        where = "" if answer.face is None or answer.face["of"] == 1 else f" (face {answer.face['index']})"
        print(f"{path}{where}: {answer.verdict}, P(generated) = {answer.probability:.4f}")
        if answer.note:
            print(f"  {answer.note}")
    print(f"the photo: {said.verdict}")


if __name__ == "__main__":
    main(sys.argv[1])
