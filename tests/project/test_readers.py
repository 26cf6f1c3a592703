"""Files of strangers are read by the bounded readers, and by nothing else: nobody may open a back door by mistake."""

import ast
from pathlib import Path

from tests.project.test_arrows import ROOMS, ROOT

# what reads a file without bounds -> the files that may: their bounded reader, or one of what this project made itself
MAY = {
    "json.loads": {"common/reading.py", "faces/frames.py", "stylegan2_ada/ops/native/build.py", "faces/apart.py"},
    "json.load": set(),
    "tomllib.loads": {"common/reading.py"},
    "tomllib.load": set(),
    "np.load": {"metrics/collect.py", "faces/twin_bank.py"},  # arrays without a zip, mapped into memory
    "torch.load": set(),
    "pickle.load": {"faces/scan.py"},  # between this program's own processes
    "pickle.loads": set(),
    "zipfile.ZipFile": {"common/reading.py", "faces/stores.py", "faces/packing.py", "stylegan2_ada/torch_files.py"},
}


def called(file: Path):
    for found in ast.walk(ast.parse(file.read_bytes())):
        if (
            isinstance(found, ast.Call)
            and isinstance(found.func, ast.Attribute)
            and isinstance(found.func.value, ast.Name)
        ):
            yield f"{found.func.value.id}.{found.func.attr}", found.lineno


def test_only_bounded_readers_read():
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")] + list(ROOT.glob("*.py"))
    wrong = [
        f"{path}:{line} calls {name}; common.reading and stylegan2_ada.torch_files read files within bounds"
        for file in files
        for name, line in called(file)
        if name in MAY and (path := file.relative_to(ROOT).as_posix()) not in MAY[name]
    ]
    assert not wrong, "\n".join(wrong)
