"""Tables of scores as CSV."""

import numpy as np
import pytest

from common.errors import UserError
from faces.manifest import text_column
from metrics.scores import Scores, read_scores, write_scores


def write(tmp_path, text, name="s.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_columns_in_any_order_with_defaults(tmp_path):
    path = write(tmp_path, "Score;label;path;source;more\n0.5;fake;a.png;x;1\n1e-3;0;b.png;;2\n\n")
    found = read_scores(path)
    assert found.path.tolist() == ["a.png", "b.png"] and found.label.tolist() == [1, 0]
    assert found.score.tolist() == [0.5, 0.001] and found.source.tolist() == ["x", "s"]
    assert found.degradation.tolist() == ["clean", "clean"] and found.group is None


def test_what_is_written_is_read_again(tmp_path):
    odd = ['a, "b".png', "line\nbreak.png", "raw\udcff.png", "plain.png"]
    scores = np.array([0.1, 1 / 3, 0.30000000000000004, 1.0])
    table = Scores(
        text_column(odd),
        np.array([0, 1, 1, 0], np.int8),
        scores,
        text_column(["s"] * 4),
        text_column(["", "g", "g", ""]),
        text_column(["clean", "clean", "web", "web"]),
        text_column(["1", "\0line", "1", "2"]),
        "identity",
    )
    write_scores(tmp_path / "out" / "s.csv", table, ["REAL", "FAKE", "UNSURE", "FAKE"])
    found = read_scores(tmp_path / "out" / "s.csv")
    for name in ("path", "label", "score", "source", "generator", "degradation"):
        assert getattr(found, name).tolist() == getattr(table, name).tolist(), name
    assert found.grouped_by == "identity" and found.group[0] == found.group[2] == "1" and found.group[1] != ""
    header = (tmp_path / "out" / "s.csv").read_text(errors="surrogateescape").splitlines()[0]
    assert "verdict" in header and "contradiction" not in header and not found.undecided.any()
    table.undecided = np.array([True, False, False, True])
    write_scores(tmp_path / "s.csv", table, ["UNSURE", "FAKE", "UNSURE", "UNSURE"])
    assert read_scores(tmp_path / "s.csv").undecided.tolist() == table.undecided.tolist()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "no column «path»"),
        ("path,score\na,1\n", "no column «label»"),
        ("path,label,score\n", "holds no rows"),
        ("path,label,score\na,0,0.1\nb,maybe,0.2\nc,,0.3\n", "line 3: the label is 'maybe'.*and 1 more"),
        ("path,label,score\na,0,nan\n", "line 2: the score is 'nan', not a number"),
        ("path,label,score\na,0,inf\n", "line 2: the score is 'inf'"),
        ("path,label,score\na,0,\n", "line 2: the score is ''"),
        ("path,label,score,contradiction\na,0,0.1,x\n", "line 2: the contradiction is 'x', not 0 or 1"),
        ("path,label,score\na,0,0.1,7\n", "line 2: 4 cells where the header has 3"),
        ("path,label,score\na,0,0.1\na,1,0.2\n", "line 3: a was listed in line 2 already"),
        ("path,label,score,score\na,0,0.1,0.1\n", "'score' twice"),
        (b'path,label,score\n"a,0,0.1\n', "not a readable CSV"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path, text, line):
    with pytest.raises(UserError, match=line) as caught:
        read_scores(write(tmp_path, text))
    assert "\n" not in str(caught.value) and "s.csv" in str(caught.value)


def test_absent_files_and_columns(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_scores(tmp_path / "none.csv")
    with pytest.raises(UserError, match="`group_by` who: .* no such column"):
        read_scores(write(tmp_path, "path,label,score\na,0,1\n"), group_by="who")


def test_tables_are_joined(tmp_path):
    a = read_scores(write(tmp_path, "path,label,score,identity\na,0,1,x\nb,0,1,x\n", "a.csv"))
    b = read_scores(write(tmp_path, "path,label,score\na,0,1\nb,0,1\n", "b.csv"))
    both = Scores.join([a, b])
    assert len(both) == 4 and len(set(both.group)) == 3 and both.grouped_by == "identity"
    assert Scores.join([b, b]).group is None
    assert both.select(both.source == "b").path.tolist() == ["a", "b"]
