"""Policies for what may be wrong with files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radtransfer.configfile import validate
from radtransfer.errors import RadtransferError
from radtransfer.problems import PROBLEMS, policies

SUITABLE = [(name, policy) for name, problem in PROBLEMS.items() for policy in problem.policies]
NEEDED = {"name": "n", "target_layout": "l", "target_path": "t", "target_part": "p"}
NEEDED |= {"source_layout": "l", "source_path": "s"}


@given(st.lists(st.sampled_from(SUITABLE)).map(dict))
def test_every_problem_has_a_policy_and_those_given_are_kept(given: dict[str, str]) -> None:
    chosen = policies(given)
    assert list(chosen) == list(PROBLEMS) and given.items() <= chosen.items()
    assert all(chosen[name] == problem.policies[0] for name, problem in PROBLEMS.items() if name not in given)
    assert policies(validate(NEEDED | {"on_problem": given}, "run").on_problem) == chosen


def test_the_defaults_lose_no_file_that_can_be_used() -> None:
    assert "fail" not in policies({}).values()
    assert all(policies({})[name] == "repair" for name, problem in PROBLEMS.items() if problem.repair)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"truncate": "fail"}, "unknown problem 'truncate'; did you mean truncated"),
        ({"empty": "repair"}, "empty: 'repair' is no policy for it; known: fail, skip"),
        ({"colour": "skp"}, "colour: 'skp' is no policy for it; did you mean skip"),
        ({"colour": 1.0}, "colour: 1.0 is no policy for it"),
        ({"colour": ["skip"]}, "is no policy for it"),
        ({3: "skip"}, "unknown problem 3"),
        (["colour"], "expected a mapping of problems to policies"),
    ],
)
def test_what_does_not_fit_is_named(given: object, message: str) -> None:
    with pytest.raises(RadtransferError) as refused:
        validate(NEEDED | {"on_problem": given}, "run.yaml")
    assert str(refused.value).startswith("run.yaml: on_problem: ") and message in str(refused.value)
