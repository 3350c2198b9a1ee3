"""Crontab lines for Kubeflow Pipelines, whose server reads six fields, the seconds first, with robfig/cron 1.2.

KFP takes five fields as well, silently, as seconds, minutes, hours, day of the month and month
(``NewParser(Second | ... | DowOptional)`` in robfig/cron's ``parser.go``): a crontab line sent as it is fires at other
times than it says. So what is sent always has six.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from typing import NamedTuple

from radtransfer.errors import RadtransferError

YEARS = 5
"""How far robfig/cron looks for the next time; KFP takes "none" for a time in the past and fires without end."""
CALENDAR = 28
"""Years after which the days of the week fall on the same dates."""
SUMMER_TIME_HOURS = {1, 2, 3}
"""Hours in which clocks change to or from summer time, nearly everywhere."""
SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ITEM = re.compile(r"(?P<star>[*?])(?:/(?P<every>\d+))?|(?P<low>\w+)(?:-(?P<high>\w+))?(?:/(?P<step>\d+))?")


class Field(NamedTuple):
    """One field of an expression: its name, the least and the greatest value, and names for values."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def value(self, text: str, said: str) -> int:
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.low
        if not text.isdecimal() or not self.low <= int(text) <= self.high:
            names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
            raise RadtransferError(f"{said}: {self.name} {text!r}: expected {self.low}-{self.high}{names}")
        return int(text)


_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
SECOND, MINUTE, HOUR = Field("second", 0, 59), Field("minute", 0, 59), Field("hour", 0, 23)
DAY, MONTH = Field("day of the month", 1, 31), Field("month", 1, 12, _MONTHS)
WEEKDAY, CRONTAB_WEEKDAY = Field("day of the week", 0, 6, _DAYS), Field("day of the week", 0, 7, _DAYS)
CRONTAB = (MINUTE, HOUR, DAY, MONTH, CRONTAB_WEEKDAY)
KFP = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY)


class _Item(NamedTuple):
    """One of a field's comma-separated parts: the values, and whether it has a star for them."""

    values: range
    star: bool


@dataclass(frozen=True)
class Cron:
    """When a schedule fires.

    Attributes:
        line: as it was given.
        kfp: the six fields that KFP gets: second, minute, hour, day of the month, month, day of the week.
    """

    line: str
    kfp: str

    @classmethod
    def parse(cls, line: str) -> Cron:
        """Read a crontab line (five fields, or a shorthand such as ``@daily``) or KFP's own six fields.

        Day of the month and day of the week are joined as by Vixie cron and its heirs, and by robfig/cron: a day must
        fit both where one of the two begins with ``*``, else it is enough that it fits one.

        Raises:
            RadtransferError: it is neither, a value is out of range, it never fires, or crons differ on what it means.
        """
        said = f"--cron {line!r}"
        text = line.strip()
        if re.match(r"(CRON_)?TZ=", text):
            raise RadtransferError(f"{said}: a schedule has no time zone of its own, the server's rules; leave TZ= out")
        if text.startswith("@"):
            if text.lower() not in SHORTHANDS:
                raise RadtransferError(f"{said}: expected one of {', '.join(SHORTHANDS)}, or five fields")
            text = SHORTHANDS[text.lower()]
        parts = text.split()
        if len(parts) == len(CRONTAB):
            fields = [_crontab(part, field, said) for part, field in zip(parts, CRONTAB, strict=True)]
            parts = ["0", *fields]
        elif len(parts) != len(KFP):
            raise RadtransferError(
                f"{said}: expected five fields (minute, hour, day of the month, month, day of the week; no command), "
                f"or KFP's six, which begin with the second; got {len(parts)}"
            )
        for part, field in zip(parts, KFP, strict=True):
            _items(part, field, said)
        cron = cls(line, " ".join(parts))
        starts = (datetime(2000 + year, 12, 31, 23, 59, 59, tzinfo=UTC) for year in range(CALENDAR))
        if any(next(cron.after(start), None) is None for start in starts):
            raise RadtransferError(f"{said}: never fires, or not in every {YEARS} years, which KFP takes for always")
        return cron

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The times at which it fires, after a moment and in its time zone, which must have no summer time.

        They end where robfig/cron finds none: when none comes in five years.
        """
        second, minute, hour, day, month, weekday = (
            _items(part, field, self.kfp) for part, field in zip(self.kfp.split(), KFP, strict=True)
        )
        either = not any(item.star for item in day + weekday)
        seconds, minutes, hours, days, months, weekdays = (
            {value for item in items for value in item.values} for items in (second, minute, hour, day, month, weekday)
        )
        clock = sorted(hours), sorted(minutes), sorted(seconds)

        def fits(on: date) -> bool:
            one, other = on.day in days, on.isoweekday() % 7 in weekdays
            return on.month in months and ((one or other) if either else (one and other))

        on, last = moment.date(), moment
        while on.year <= last.year + YEARS:
            for at in product(*clock) if fits(on) else ():
                if (fires := datetime.combine(on, time(*at, tzinfo=moment.tzinfo))) > moment:
                    last = fires
                    yield fires
            on += timedelta(days=1)

    def remarks(self) -> list[str]:
        """What whoever wrote it may not have thought of, a line each."""
        _, _, hour, day, _, weekday = self.kfp.split()
        said = []
        if not {day, weekday} & {"*", "?"}:
            how = "both fit" if "*" in day + weekday or "?" in day + weekday else "one of the two fits"
            said.append(f"day of the month and day of the week are both given: it fires when {how}")
        hours = {value for item in _items(hour, HOUR, self.kfp) for value in item.values}
        if hours & SUMMER_TIME_HOURS and len(hours) < 24:
            said.append(
                "warning: in a time zone with summer time it may be left out on the day on which clocks go forward and "
                "come twice on the day on which they go back; take an hour from 4 to 23 if the server's zone is one"
            )
        return said


def _items(text: str, field: Field, said: str, *, crontab: bool = False) -> list[_Item]:
    """The parts of a field.

    Raises:
        RadtransferError: a part is none, or out of range.
    """
    return [_item(part, field, said, crontab=crontab) for part in text.split(",")]


def _item(part: str, field: Field, said: str, *, crontab: bool) -> _Item:
    found = _ITEM.fullmatch(part)
    if not found or (crontab and part.startswith("?")):
        raise RadtransferError(
            f"{said}: {field.name} {part!r}: expected {field.low}-{field.high}, ranges (2-5), lists (2,5), steps (*/5) "
            "or *"
        )
    step = found["every"] or found["step"]
    count = field.high - field.low + 1
    if step and not 1 <= int(step) <= count:
        raise RadtransferError(f"{said}: {field.name} {part!r}: step {step}: expected 1-{count}")
    if found["star"]:
        return _Item(range(field.low, field.high + 1, int(step or 1)), True)
    low = field.value(found["low"], said)
    high = field.value(found["high"], said) if found["high"] else low
    if high < low:
        raise RadtransferError(
            f"{said}: {field.name} {part!r}: ends before it begins; say {low}-{field.high},{field.low}-{high}"
        )
    if step and not found["high"]:
        if crontab:
            raise RadtransferError(f"{said}: {field.name} {part!r}: crons differ on it; say {low}-{field.high}/{step}")
        high = field.high
    return _Item(range(low, high + 1, int(step or 1)), False)


def _crontab(text: str, field: Field, said: str) -> str:
    """A field of a crontab line as robfig/cron reads it.

    Sunday is 0 there and not 7, and a star anywhere in a list counts as one, where in crontabs it must come first.
    """
    items = _items(text, field, said, crontab=True)
    high = WEEKDAY.high if field is CRONTAB_WEEKDAY else field.high
    values = {0 if value > high else value for item in items for value in item.values}
    if not items[0].star:
        return _listed(values)
    kept = text.partition(",")[0]
    rest = values - {value for value in items[0].values if value <= high}
    return f"{kept},{_listed(rest)}" if rest else kept


def _listed(values: set[int]) -> str:
    """Numbers and ranges, with commas, that are just these values."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
