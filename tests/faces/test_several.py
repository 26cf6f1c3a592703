"""Files of a set that hold several pictures are said, in folders, archives and manifests; stills are not."""

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from faces import several
from faces.source import open_source

FRAMES = [Image.fromarray(np.full((24, 24, 3), level, np.uint8)) for level in (10, 120, 250)]
SAID = "(like {}) {} several pictures, as animations do: {} first one counts"


def encoded(form: str, frames: int) -> bytes:
    out = io.BytesIO()
    FRAMES[0].save(out, form, save_all=frames > 1, append_images=FRAMES[1:frames])
    return out.getvalue()


def write(folder, **files: bytes) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)


@pytest.mark.parametrize("form, name", [("GIF", "a.GIF"), ("WEBP", "a.webp"), ("PNG", "a.png"), ("TIFF", "a.tif")])
def test_an_animation_is_said_and_a_still_is_not(form, name, tmp_path):
    (tmp_path / "moving").mkdir()
    (tmp_path / "still").mkdir()
    (tmp_path / "moving" / name).write_bytes(encoded(form, 3))
    (tmp_path / "still" / name).write_bytes(encoded(form, 1))
    said = f"1 file {SAID.format(name, 'holds', 'its')}"
    assert [said in note for note in open_source(tmp_path / "moving").notes] == [True]
    assert open_source(tmp_path / "still").notes == ()


def test_in_archives_and_manifests(tmp_path):
    write(tmp_path / "photos", a_gif=encoded("GIF", 2), b_tif=encoded("TIFF", 2), c_png=encoded("PNG", 1))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted((tmp_path / "photos").iterdir()):
            archive.write(path, path.name)
    (tmp_path / "list.csv").write_text(
        "path,label\nphotos.zip/a.gif,0\nphotos/b.tif,0\nphotos/c.png,0\nphotos/gone.gif,0\n"
    )
    for source, first in (("photos.zip", "a.gif"), ("list.csv", "photos.zip/a.gif")):
        said = f"2 files {SAID.format(first, 'hold', 'their')}"
        assert any(said in note for note in open_source(tmp_path / source).notes)


def test_what_cannot_be_read_is_left_to_who_decodes_it(tmp_path):
    cut = encoded("GIF", 3)[:40]
    write(tmp_path / "broken", a_gif=cut, b_tif=b"II*\0" + b"\xff" * 20, c_webp=b"", d_gif=b"RIFF")
    os.symlink("nowhere.gif", tmp_path / "broken" / "e.gif")
    assert not any("several pictures" in note for note in open_source(tmp_path / "broken").notes)
    os.mkfifo(tmp_path / "pipe.gif")  # would block for ever
    (tmp_path / "list.csv").write_text("path,label\npipe.gif,0\nbroken/a.gif,0")
    assert not any("several pictures" in note for note in open_source(tmp_path / "list.csv").notes)


def test_of_very_many_files_some_are_looked_at(tmp_path, monkeypatch):
    """The one that moves lies where an even spread comes by; then the count is a least one."""
    monkeypatch.setattr(several, "MOST", 3)
    still, moving = encoded("PNG", 1), encoded("PNG", 2)
    write(tmp_path / "many", **{f"{i}_png": moving if i in (0, 4) else still for i in range(6)})
    notes = open_source(tmp_path / "many").notes
    assert len(notes) == 1 and "at least 2 files (like 0.png) hold several pictures" in notes[0]
