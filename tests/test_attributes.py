"""What may be said of an image: groups, in known words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radtransfer.attributes import AGES, ATTRIBUTES, MAX_VALUES, Attributes, order
from radtransfer.errors import RadtransferError


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(ATTRIBUTES, st.text())))
def test_whatever_a_data_set_holds_only_plain_words_leave_it(texts: dict[str, str]) -> None:
    for one in Attributes("set").of(texts):
        name, value = one.split("=")
        assert name in texts and re.fullmatch(r"[A-Za-z0-9][\w +.&/-]{0,30}", value, re.ASCII)


@given(st.floats(0, 119.9))
def test_an_age_leaves_as_the_band_that_it_lies_in(years: float) -> None:
    (one,) = Attributes("set").of({"age": f"{years:.1f}"})
    lows = [0, *(end for _, end in AGES)]
    place = [band for band, _ in AGES].index(one.removeprefix("age="))
    assert lows[place] <= float(f"{years:.1f}") < lows[place + 1]


def test_dates_and_names_are_no_attributes() -> None:
    assert (
        Attributes("set").of({"age": "1957-03-12"})
        == Attributes("set").of({"age": "19570312"})
        == Attributes("set").of({"age": "-4"})
        == ()
    )
    assert Attributes("set").of({"sex": "Jane Doe", "side": "?", "hardware": "maybe"}) == ()
    with pytest.raises(KeyError):
        Attributes("set").of({"patient": "x"})


def test_texts_that_are_left_out_are_counted_as_identifiers_too() -> None:
    """And ages, which leave as bands, are not."""
    known = Attributes("set")
    for number in range(MAX_VALUES):
        name = "Doe, Jane" if number % 2 else "Smith_John"
        for _ in "twice":
            assert len(known.of({"site": f"{name} {number}", "age": f"{number}.5"})) == 2 - number % 2
    assert known.of({"site": " "}) == ()
    with pytest.raises(RadtransferError, match=r"^set: more than 20 different texts for the attribute 'site'.*identif"):
        known.of({"site": "Roe, Richard"})
    assert known.of({"view": "frontal"}) == ("view=frontal",)


def test_ages_stand_by_age_and_all_else_by_name() -> None:
    found = ["sex=male", "age=2-11", "view=lateral", "age=0-1", "age=12-17", "age=65+", "hardware=yes", "hardware=no"]
    assert sorted(found, key=order) == [
        "hardware=no", "hardware=yes", "view=lateral", "age=0-1", "age=2-11", "age=12-17", "age=65+", "sex=male",
    ]  # fmt: skip
