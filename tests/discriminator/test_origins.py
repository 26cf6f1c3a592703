"""Which sets taught a detector, by what its file says, however it was made."""

import pytest

from discriminator.origins import Lesson, lessons_of, lessons_of_run, lessons_told, said_by_all

ONE = {"fingerprint": "a", "recipe": {"seed": 3, "batch": 8}}
TWO = {"fingerprint": "b", "kimg": 10}  # of a GAN's training: its seed stands elsewhere


def test_one_training():
    assert lessons_of(ONE) == [Lesson("a", 3)] and lessons_of(TWO) == [Lesson("b", None)] and lessons_of({}) == []


def test_what_is_made_of_several_has_all_of_theirs():
    made = {"trained_on": "x"} | lessons_told([ONE, TWO, ONE])
    assert lessons_of(made) == [Lesson("a", 3), Lesson("b", None)]
    assert lessons_of(lessons_told([made, ONE | {"recipe": {"seed": 4}}])) == [("a", 3), ("b", None), ("a", 4)]
    assert lessons_told([{}, {}]) == {}


def test_two_views_have_those_of_both():
    views = {"two_views": {"face": {"meta": ONE}, "pixels": {"meta": lessons_told([TWO, ONE])}, "join": "weighted"}}
    assert lessons_of(views) == [Lesson("a", 3), Lesson("b", None)]


@pytest.mark.parametrize("meta", [
    None, [], {"fingerprint": 3}, {"fingerprint": ""}, {"taught": [1, {}, {"fingerprint": None}]}, {"two_views": []},
    {"two_views": {"face": 1, "pixels": {"meta": [1]}}}, {"two_views": {"face": {"meta": {"two_views": {}}}}},
])  # fmt: skip
def test_of_a_file_of_others_nothing_is_taken_for_granted(meta):
    assert lessons_of(meta) == []


def test_a_runs_own_set_and_those_that_taught_what_it_began_from():
    config = {"data": {"fingerprint": "a"}, "recipe": {"seed": 3}} | lessons_told([TWO])
    assert lessons_of_run(config) == [Lesson("a", 3), Lesson("b", None)]
    assert lessons_of_run({"data": {"fingerprint": "c"}}) == [Lesson("c", None)]
    assert all(lessons_of_run(odd) == [] for odd in (None, [], {}, {"data": 3, "taught": {"fingerprint": "a"}}))


@pytest.mark.parametrize("recipe", [None, [], "x", {"seed": "3"}, {"seed": True}])
def test_a_seed_that_is_none(recipe):
    assert lessons_of({"fingerprint": "a", "recipe": recipe}) == [Lesson("a", None)]


def test_what_all_say():
    first = {"model": "m", "seconds": 3, "none": None, "soup": {"of": []}, "wise_ft": {}, "ensemble": {}}
    assert said_by_all([first, first | {"seconds": 4}, {"model": "m", "soup": {"of": []}}]) == {"model": "m"}
