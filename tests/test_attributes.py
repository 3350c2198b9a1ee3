"""What may be said of an image: groups, in known words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radtransfer.attributes import AGES, ATTRIBUTES, attributes, order


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(ATTRIBUTES, st.text())))
def test_whatever_a_data_set_holds_only_plain_words_leave_it(texts: dict[str, str]) -> None:
    for one in attributes(texts):
        name, value = one.split("=")
        assert name in texts and re.fullmatch(r"[A-Za-z0-9][\w +.&/-]{0,30}", value, re.ASCII)


@given(st.floats(0, 119.9))
def test_an_age_leaves_as_the_band_that_it_lies_in(years: float) -> None:
    (one,) = attributes({"age": f"{years:.1f}"})
    lows = [0, *(end for _, end in AGES)]
    place = [band for band, _ in AGES].index(one.removeprefix("age="))
    assert lows[place] <= float(f"{years:.1f}") < lows[place + 1]


def test_dates_and_names_are_no_attributes() -> None:
    assert attributes({"age": "1957-03-12"}) == attributes({"age": "19570312"}) == attributes({"age": "-4"}) == ()
    assert attributes({"sex": "Jane Doe", "side": "?", "hardware": "maybe"}) == ()
    with pytest.raises(KeyError):
        attributes({"patient": "x"})


def test_ages_stand_by_age_and_all_else_by_name() -> None:
    found = ["sex=male", "age=2-11", "view=lateral", "age=0-1", "age=12-17", "age=65+", "hardware=yes", "hardware=no"]
    assert sorted(found, key=order) == [
        "hardware=no", "hardware=yes", "view=lateral", "age=0-1", "age=2-11", "age=12-17", "age=65+", "sex=male",
    ]  # fmt: skip
