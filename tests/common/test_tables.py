"""Tables as spreadsheets write them, and tables that are made to cost."""

import time

import pytest

from common.errors import UserError
from common.tables import read_rows
from faces.manifest import read_manifest


def rows(path, text):
    path.write_text(text, encoding="utf-8")
    return [cells for _, cells in read_rows(str(path))]


def test_trailing_separators_of_spreadsheets_are_left_out(tmp_path):
    path = tmp_path / "a.csv"
    assert rows(path, "path,label,,\na.png,0,,\nb.png,1\n,,,\n\n") == [
        ["path", "label"],
        ["a.png", "0"],
        ["b.png", "1"],
    ]
    assert rows(path, "path;label;\na.png;;\n") == [["path", "label"], ["a.png", ""]]
    assert read_manifest(path)["path"].tolist() == ["a.png"]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_line_that_tells_the_separator_is_no_header(tmp_path, first):
    path = tmp_path / "a.csv"
    assert rows(path, f"{first}\r\npath;label\r\na,b.png;0\r\n") == [["path", "label"], ["a,b.png", "0"]]
    assert [line for line, _ in read_rows(str(path))] == [2, 3], "lines of the file, as an editor counts them"
    assert rows(path, "path,sep=\na.png,1\n")[0] == ["path", "sep="]
    assert rows(path, "sep=|\npath|label\na;b.png|1\n")[1] == ["a;b.png", "1"]


def test_cells_beyond_the_header_that_say_something_are_refused(tmp_path):
    with pytest.raises(UserError, match="3 cells where the header has 2"):
        rows(tmp_path / "a.csv", "path,label,\na.png,0,more\n")


def test_the_time_grows_with_the_columns_alone(tmp_path):
    """Before, 30 000 columns took over a minute: each name was looked for among all."""
    path, many = tmp_path / "a.csv", 30_000
    path.write_text("path," + ",".join(f"c{i}" for i in range(many)) + "\na.png" + ",1" * many + "\n")
    began = time.process_time()
    assert len(read_manifest(path).columns) == many + 1
    assert time.process_time() - began < 8
