"""The bounded readers: sound files come as json, tomllib and NumPy read them, costly ones are refused at once."""

import io
import json
import os
import time
import tomllib
import zipfile

import numpy as np
import pytest

from common import reading
from common.memory import at_most
from common.reading import Unreadable


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**63), 1.5, "", "[[[[", [], {}, [[1, [2, {"a": [3]}]], "é\n"], {"labels": [["a.png", 3]] * 500}],
)
def test_sound_json_is_as_json_reads_it(value, tmp_path):
    text = json.dumps(value)
    (tmp_path / "a.json").write_text("\ufeff" + text, encoding="utf-8")
    assert reading.json_of(text) == reading.json_of(text.encode()) == reading.json_file(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 100 + "]" * 100,
        '{"a":' * 70 + "1" + "}" * 70,
        "9" * 5000,
        "1" * 41,
        "{",
        "nul",
        b"\xff",
        "",
    ],
)
def test_json_that_costs_or_is_none(text):
    began = time.process_time()
    with pytest.raises(Unreadable):
        reading.json_of(text)
    assert time.process_time() - began < 2


def test_as_deep_as_the_bound_is_read():
    assert reading.json_of("[" * 64 + "]" * 64) is not None


def test_sound_toml_is_as_tomllib_reads_it():
    text = b"title = 'a'\n[fit]\nseeds = 3\n[[arm]]\nname = \"b. c. d\"\nx.y.z = [[1], [2, 3]]\n"
    assert reading.toml_of(text) == tomllib.loads(text.decode())


@pytest.mark.parametrize(
    "text", [b"a." * 200_000 + b"a=1", b"a=" + b"[" * 5000, b"a=" + b"[" * 70 + b"]" * 70, b"=", b"\xff", b"#" * 2**21]
)
def test_toml_that_costs_or_is_none(text):
    began = time.process_time()
    with pytest.raises(Unreadable):
        reading.toml_of(text)
    assert time.process_time() - began < 2


def test_a_pipe_is_refused_and_does_not_block(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "a.json")
    for read in (reading.json_file, lambda path: reading.npz_file(path, ("a",))):
        with pytest.raises(Unreadable, match="pipe"):
            read(tmp_path / "a.json")


ARRAYS = {
    "f": np.arange(12, dtype=np.float32).reshape(3, 4),
    "order": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "none": np.zeros((0, 5)),
    "one": np.array(7),
    "words": np.array(["a", "bcd"]),
    "big": np.arange(5, dtype=">i4"),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_as_numpy_reads_it(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = reading.npz_file(tmp_path / "a.npz", lambda name: True)
    with np.load(tmp_path / "a.npz") as theirs:
        assert sorted(found) == sorted(theirs.files)
        for name in found:
            assert found[name].dtype == theirs[name].dtype and np.array_equal(found[name], theirs[name])
    assert list(reading.npz_file(tmp_path / "a.npz", ("one", "absent"))) == ["one"]


def test_every_cut_and_flip_of_an_npz_is_one_phrase(tmp_path):
    out = io.BytesIO()
    np.savez_compressed(out, a=np.arange(40), b=np.array(["x"]))
    data, path = out.getvalue(), tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at])
        with pytest.raises(Unreadable):
            reading.npz_file(path, ("a", "b"))
    for _ in range(150):
        broken = bytearray(data)
        broken[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(broken))
        try:
            reading.npz_file(path, ("a", "b"))
        except Unreadable as error:
            assert "\n" not in str(error)


def test_an_npz_that_unpacks_to_gigabytes_takes_no_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(
            b"\x93NUMPY\x01\x00\x76\x00"
            + b"{'descr': '|u1', 'fortran_order': False, 'shape': (209715200,), }".ljust(118)
        )
        for _ in range(200):
            member.write(bytes(1 << 20))
    with at_most(150 << 20), pytest.raises(Unreadable, match="unpacks to more than 100 MiB"):
        reading.npz_file(path, ("a",), most=100 << 20)


def test_what_is_shown_of_a_value_is_short():
    shared = ()
    for _ in range(60):
        shared = (shared, shared)
    for value in (shared, [shared] * 1000, {"a": shared}, "x" * 10**6, b"y" * 10**6, 10**5000, None, 1.5):
        assert len(reading.shown(value)) < 80
