"""Crontab lines against crontab(5), and what they become against robfig/cron, which reads it for KFP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer.errors import RadtransferError
from radtransfer_pipelines.cluster.cron import SHORTHANDS, Cron

NAMES = {name: str(number) for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
CRONTAB = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
ROBFIG = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]
START = datetime(2026, 11, 30, 12, tzinfo=UTC)  # a Monday


def holds(text: str, low: int, high: int, value: int) -> bool:
    """Whether a field holds a value: lists of ranges with steps, as both sides write them."""
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("" if span in "*?" else NAMES.get(span.lower(), span)).partition("-")
        begin, end = int(first or low), int(last or first or high)
        if begin <= value <= end and (value - begin) % int(step or 1) == 0:
            return True
    return False


def by_crontab(line: str, at: datetime) -> bool:
    """crontab(5) of Vixie cron: 0 and 7 are Sunday; the days are joined by "or" unless one field begins with a star."""
    fields = line.split()
    values = [at.minute, at.hour, at.day, at.month]
    minute, hour, day, month = (
        holds(text, *span, value) for text, span, value in zip(fields[:4], CRONTAB[:4], values, strict=True)
    )
    weekday = any(holds(fields[4], 0, 7, value) for value in ({0, 7} if at.isoweekday() == 7 else {at.isoweekday()}))
    star = fields[2].startswith("*") or fields[4].startswith("*")
    return minute and hour and month and (day and weekday if star else day or weekday) and at.second == 0


def by_robfig(line: str, at: datetime) -> bool:
    """robfig/cron 1.2, parser.go and spec.go: Sunday is 0; a star anywhere in one of the days joins them by "and"."""
    fields = line.split()
    values = [at.second, at.minute, at.hour, at.day, at.month, at.isoweekday() % 7]
    for text, (low, high) in zip(fields, ROBFIG, strict=True):
        for part in text.replace("*", "").replace("?", "").split(","):
            assert all(low <= int(number) <= high for number in part.partition("/")[0].split("-") if number), line
    *clock, day, month, weekday = (
        holds(text, *span, value) for text, span, value in zip(fields, ROBFIG, values, strict=True)
    )
    star = any(part[0] in "*?" for text in (fields[3], fields[5]) for part in text.split(","))
    return all(clock) and month and (day and weekday if star else day or weekday)


def field(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: f"{pair[0]}-{pair[1]}")
    step = st.integers(1, 7).map(lambda every: f"/{every}")
    star = st.just("*") | st.tuples(st.just("*"), step).map("".join)
    part = star | number.map(str) | span | st.tuples(span, step).map("".join)
    part |= st.sampled_from(names) if names else st.nothing()
    return st.just("*") | st.lists(part, min_size=1, max_size=3).map(",".join)


LINES = st.tuples(*(field(*span) for span in CRONTAB[:4]), field(0, 7, ("sun", "MON", "Fri"))).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(LINES, st.integers(0, 60 * 24 * 1461))
def test_what_is_sent_fires_when_the_crontab_line_does(line: str, minutes: int) -> None:
    """At 20 moments and around the next three times of each of 200 lines; a right conversion never fails it."""
    start = START + timedelta(minutes=minutes)
    try:
        cron = Cron.parse(line)
    except RadtransferError as error:
        assert "never fires" in str(error)
        return
    moments = [start + timedelta(minutes=after) for after in Random(minutes).choices(range(60 * 24 * 400), k=20)]
    following = list(islice(cron.after(start), 3))
    moments += [fires + timedelta(minutes=shift) for fires in following for shift in (-1, 0, 1)]
    for at in moments:
        assert by_crontab(line, at) == by_robfig(cron.kfp, at), (cron.kfp, at)
    assert len(following) == 3 and all(by_crontab(line, at) for at in following)
    between = min(following[0] - start, timedelta(hours=6)) // timedelta(minutes=1)
    assert not any(by_crontab(line, start + timedelta(minutes=number)) for number in range(1, between))


@pytest.mark.parametrize(
    ("line", "six", "first"),
    [
        ("0 4 * * 1", "0 0 4 * * 1", "Mon 2026-12-07 04:00:00"),
        ("30 4 1,15 * 5", "0 30 4 1,15 * 5", "Tue 2026-12-01 04:30:00"),  # either: the first of the month, no Friday
        ("0 4 1-7 * */7", "0 0 4 1-7 * */7", "Sun 2026-12-06 04:00:00"),  # both: the first Sunday
        ("0 4 1,* * 1", "0 0 4 1-31 * 1", "Tue 2026-12-01 04:00:00"),  # a star that comes second is none in crontabs
        ("0 4 * * 5-7", "0 0 4 * * 0,5-6", "Fri 2026-12-04 04:00:00"),
        ("0 4 * JAN Sun", "0 0 4 * 1 0", "Sun 2027-01-03 04:00:00"),
        ("0 0 29 2 *", "0 0 0 29 2 *", "Tue 2028-02-29 00:00:00"),
        ("  5   4 * * *  ", "0 5 4 * * *", "Tue 2026-12-01 04:05:00"),
        ("0 0 9 ? * MON-FRI", "0 0 9 ? * MON-FRI", "Tue 2026-12-01 09:00:00"),
        ("30 5/20 4 * * *", "30 5/20 4 * * *", "Tue 2026-12-01 04:05:30"),
        ("@daily", "0 0 0 * * *", "Tue 2026-12-01 00:00:00"),
        ("@weekly", "0 0 0 * * 0", "Sun 2026-12-06 00:00:00"),
        ("@Monthly", "0 0 0 1 * *", "Tue 2026-12-01 00:00:00"),
    ],
)  # fmt: skip
def test_lines_become_six_fields(line: str, six: str, first: str) -> None:
    cron = Cron.parse(line)
    assert cron.kfp == six and f"{next(cron.after(START)):%a %Y-%m-%d %H:%M:%S}" == first


def test_all_shorthands_are_read() -> None:
    assert all(len(Cron.parse(name).kfp.split()) == 6 for name in SHORTHANDS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("60 4 * * *", "minute '60': expected 0-59"),
        ("0 24 * * *", "hour '24': expected 0-23"),
        ("0 4 0 * *", "day of the month '0': expected 1-31"),
        ("0 4 * 13 *", "month '13': expected 1-12 or jan-dec"),
        ("0 4 * * 8", "day of the week '8': expected 0-7 or sun-sat"),
        ("0 0 4 * * 7", "day of the week '7': expected 0-6 or sun-sat"),
        ("60 0 4 * * *", "second '60': expected 0-59"),
        ("0 4 * * mo", "day of the week 'mo': expected 0-7 or sun-sat"),
        ("0 4 L * *", "day of the month 'L': expected 1-31"),
        ("0 4 ? * *", "day of the month '?': expected 1-31, ranges (2-5), lists (2,5), steps (*/5) or *"),
        ("0 4,,5 * * *", "hour '': expected 0-23, ranges"),
        ("*/0 4 * * *", "minute '*/0': step 0: expected 1-60"),
        ("*/90 4 * * *", "minute '*/90': step 90: expected 1-60"),
        ("5/15 4 * * *", "minute '5/15': crons differ on it; say 5-59/15"),
        ("0 22-4 * * *", "hour '22-4': ends before it begins; say 22-23,0-4"),
        ("0 0 31 2 *", "never fires"),
        ("0 0 29 2 */7", "never fires, or not in every 5 years, which KFP takes for always"),  # on Sundays: 2032, 2060
        ("0 4 * *", "expected five fields"),
        ("0 4 * * 1 /bin/retrain now", "no command"),
        ("", "expected five fields"),
        ("@reboot", "expected one of @yearly, "),
        ("@every 1h", "expected one of @yearly, "),
        ("CRON_TZ=Europe/Berlin 0 4 * * *", "a schedule has no time zone of its own, the server's rules"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_told_by_field_value_and_range(line: str, said: str) -> None:
    with pytest.raises(RadtransferError) as told:
        Cron.parse(line)
    assert str(told.value).startswith(f"--cron {line!r}: ") and said in str(told.value)


@pytest.mark.parametrize(
    ("line", "warned"),
    [("30 2 * * *", True), ("0 0 3 * * *", True), ("0 */2 * * *", True), ("0 4 * * *", False), ("0 * * * *", False)],
)
def test_hours_in_which_clocks_change_are_warned_of(line: str, warned: bool) -> None:
    assert any("summer time" in remark for remark in Cron.parse(line).remarks()) == warned


def test_how_two_given_days_are_joined_is_told() -> None:
    assert "it fires when one of the two fits" in Cron.parse("0 4 1 * 1").remarks()[0]
    assert "it fires when both fit" in Cron.parse("0 4 */2 * 1").remarks()[0]
    assert Cron.parse("0 4 1 * *").remarks() == []
