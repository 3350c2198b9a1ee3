"""Small inline SVG charts for the report: crisp at any width, in the page's own colours, without a plotting library.

Every function returns markup that is safe to put into a page: text that came from elsewhere is escaped here. Colours,
dashes and strokes are the style sheet's business (classes ``tl-<source>``), so that one chart serves the light, the
dark and the printed page; a marker's shape says the same as its colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

_MARKERS = {
    "in_domain": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "imagenet": "M-4.5-4.5h9v9h-9z",
    "scratch": "M0-5.6L5.6 4.4H-5.6z",
    "shortcut": "M0-5.8L5.8 0L0 5.8L-5.8 0z",
    "mixed": "M-5.4-1.7h3.7v-3.7h3.4v3.7h3.7v3.4h-3.7v3.7h-3.4v-3.7h-3.7z",
}


def number(value: float | None, digits: int = 3) -> str:
    """A figure as the field prints it: no zero before the point, a true minus sign; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return "\u2014"
    text = f"{abs(value):.{digits}f}"
    sign = "\u2212" if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Attributes:
        low: value at its start.
        high: value at its end, above ``low``.
        step: distance of its ticks.
        digits: decimals of the tick labels.
    """

    low: float
    high: float
    step: float
    digits: int = 1

    @classmethod
    def covering(cls, values: Iterable[float | None], *, include: Sequence[float] = (), digits: int = 1) -> Axis:
        """The shortest axis with round ticks, five steps at most, that holds all known ``values`` and ``include``."""
        known = [value for value in (*values, *include) if value is not None and math.isfinite(value)] or [0.0, 1.0]
        span = max(max(known) - min(known), 1e-3)
        power = 10 ** math.floor(math.log10(span))
        step = next(factor * power for factor in (0.1, 0.2, 0.5, 1, 2) if span / (factor * power) <= 5)
        low, high = math.floor(min(known) / step + 1e-9) * step, math.ceil(max(known) / step - 1e-9) * step
        return cls(low, max(high, low + step), step, max(digits, -math.floor(math.log10(step) + 1e-9)))

    @classmethod
    def around_zero(cls, values: Iterable[float | None]) -> Axis:
        """The axis of differences: it holds all known ``values``, ends where they end, and has ticks on 0 and around.

        Fewer than five steps, so that the labels stand apart in a narrow column.
        """
        known = [0.0, *(value for value in values if value is not None and math.isfinite(value))]
        low, high = min(known), max(known)
        margin = max(0.04 * (high - low), 0.005)
        low, high = (low - margin, high + margin)
        power = 10 ** math.floor(math.log10(high - low))
        step = next(factor * power for factor in (0.2, 0.5, 1, 2, 5) if (high - low) / (factor * power) < 5)
        return cls(low, high, step, max(1, -math.floor(math.log10(step) + 1e-9)))

    @property
    def ticks(self) -> list[float]:
        """Multiples of the step on the axis, counted from its start where that is one."""
        first = math.ceil(self.low / self.step - 1e-9)
        count = math.floor((self.high - first * self.step) / self.step + 1e-9)
        return [(first + index) * self.step for index in range(count + 1)]

    def at(self, value: float) -> float:
        """Where a value lies: 0 at the start of the axis, 1 at its end; values beyond are moved to the ends."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def label(self, value: float) -> str:
        return "0" if abs(value) < 1e-9 else number(value, self.digits)


@dataclass(frozen=True)
class Series:
    """A line or a set of points in a :func:`plot`, both in the units of the axes.

    Attributes:
        source: transfer-learning source that it belongs to (colour, dash and marker).
        x: values along x.
        y: as many values along y.
        label: its name in the legend of the figure and for assistive technology.
        faint: drawn thin and pale.
        mark: positions in ``x`` that get a marker; a line of one point is only its marker.
        band: lower and upper end of a pale band around the line, at each ``x``; empty: none.
    """

    source: str
    x: Sequence[float]
    y: Sequence[float]
    label: str
    faint: bool = False
    mark: tuple[int, ...] = ()
    band: Sequence[tuple[float, float]] = ()


def swatch(source: str) -> Markup:
    """The marker of a transfer-learning source, for legends and tables."""
    path = Markup('<svg class="swatch tl-{0}" viewBox="-8 -8 16 16" aria-hidden="true"><path d="{1}"/></svg>')
    return path.format(source, _MARKERS[source])


def strip(
    value: float | None,
    low: float | None,
    high: float | None,
    axis: Axis,
    source: str,
    *,
    reference: float | None,
    dots: Iterable[float | None] = (),
) -> Markup:
    """One row of a forest plot: an interval, its estimate and a reference line, as wide as the cell it stands in.

    ``dots`` are drawn small and pale below the interval: the single folds of a cross-fitting.

    It says nothing that the figures in the same table row do not say, so it is hidden from assistive technology.
    """
    body = [
        Markup('<line class="grid" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%"/>').format(100 * axis.at(tick))
        for tick in axis.ticks
    ]
    if reference is not None:
        line = Markup('<line class="reference" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%"/>')
        body.append(line.format(100 * axis.at(reference)))
    dot = Markup('<circle class="dot" cx="{:.2f}%" cy="82%" r="2.5"/>')
    body += [dot.format(100 * axis.at(one)) for one in dots if one is not None]
    if low is not None and high is not None:
        bar = Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>')
        body.append(bar.format(100 * axis.at(low), 100 * axis.at(high)))
    if value is not None:
        mark = Markup('<svg x="{:.2f}%" y="50%" overflow="visible"><path class="mark" d="{}"/></svg>')
        body.append(mark.format(100 * axis.at(value), _MARKERS[source]))
    return Markup('<svg class="strip tl-{}" aria-hidden="true" focusable="false">{}</svg>').format(
        source, Markup("").join(body)
    )


def scale(axis: Axis) -> Markup:
    """The tick labels below a column of :func:`strip`."""
    text = Markup('<text x="{:.2f}%" y="13" text-anchor="middle">{}</text>')
    labels = [text.format(100 * axis.at(tick), axis.label(tick)) for tick in axis.ticks]
    return Markup('<svg class="strip scale" aria-hidden="true" focusable="false">{}</svg>').format(
        Markup("").join(labels)
    )


_LEFT, _TOP, _RIGHT, _BOTTOM = 44.0, 12.0, 12.0, 40.0


def plot(
    *,
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    size: tuple[int, int] = (340, 320),
    diagonal: bool = False,
    weights: Sequence[float] = (),
    identity: str,
) -> Markup:
    """A line chart with axes, a title and a description for assistive technology; it can be reached by keyboard.

    Args:
        title: what it shows, also its accessible name.
        description: the finding in words.
        x, y: axes.
        x_label, y_label: their names.
        series: lines, drawn in this order.
        size: width and height in user units; text is 12 units high.
        diagonal: also draw the line from the lower left to the upper right corner.
        weights: bars along the bottom, one per point of the first series, in any unit (number of images per bin).
        identity: unique within the page, used for the ids of title and description.
    """
    width, height = size
    right, bottom = width - _RIGHT, height - _BOTTOM

    def px(value: float) -> float:
        return round(_LEFT + x.at(value) * (right - _LEFT), 2)

    def py(value: float) -> float:
        return round(bottom - y.at(value) * (bottom - _TOP), 2)

    parts = [Markup('<title id="{0}-t">{1}</title><desc id="{0}-d">{2}</desc>').format(identity, title, description)]
    for tick in y.ticks:
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" class="end">{}</text>')
        parts.append(line.format(_LEFT, right, py(tick), py(tick), _LEFT - 7, py(tick) + 4, y.label(tick)))
    for tick in x.ticks:
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" class="mid">{}</text>')
        parts.append(line.format(px(tick), px(tick), _TOP, bottom, px(tick), bottom + 16, x.label(tick)))
    middle = round((_TOP + bottom) / 2, 1)
    names = Markup(
        '<text class="mid name" x="{}" y="{}">{}</text>'
        '<text class="mid name" transform="translate(11 {}) rotate(-90)">{}</text>'
    )
    parts.append(names.format(round((_LEFT + right) / 2, 1), height - 6, x_label, middle, y_label))
    if diagonal:
        line = Markup('<line class="reference" x1="{}" y1="{}" x2="{}" y2="{}"/>')
        parts.append(line.format(px(x.low), py(y.low), px(x.high), py(y.high)))
    for weight, at in zip(weights, series[0].x if series else (), strict=False):
        tall = round(0.16 * (bottom - _TOP) * weight / max(*weights, 1e-9), 2)
        bar = Markup('<rect class="bar" x="{}" y="{}" width="10" height="{}"/>')
        parts.append(bar.format(px(at) - 5, round(bottom - tall, 2), tall))
    for one in series:
        points = [(px(a), py(b)) for a, b in zip(one.x, one.y, strict=True)]
        drawn = [Markup("<title>{}</title>").format(one.label)]
        if one.band:
            ends = [[(px(a), py(pair[end])) for a, pair in zip(one.x, one.band, strict=True)] for end in (0, 1)]
            around = " ".join(f"{a:g},{b:g}" for a, b in (*ends[0], *reversed(ends[1])))
            drawn.append(Markup('<polygon class="band" points="{}"/>').format(around))
        if len(points) > 1:
            coordinates = " ".join(f"{a:g},{b:g}" for a, b in points)
            drawn.append(Markup('<polyline points="{}"/>').format(coordinates))
        for index in one.mark if len(points) > 1 else range(len(points)):
            mark = Markup('<path class="mark" transform="translate({:g} {:g})" d="{}"/>')
            drawn.append(mark.format(*points[index], _MARKERS[one.source]))
        group = Markup('<g class="line tl-{}{}">{}</g>')
        parts.append(group.format(one.source, " faint" if one.faint else "", Markup("").join(drawn)))
    frame = Markup(
        '<svg class="plot" viewBox="0 0 {0} {1}" style="max-width:{2}px" role="img" tabindex="0"'
        ' aria-labelledby="{3}-t {3}-d">{4}</svg>'
    )
    return frame.format(width, height, round(width * 1.3), identity, Markup("").join(parts))


def boxes(rectangles: Sequence[Sequence[float]], width: int, height: int) -> Markup:
    """Annotated boxes ([x0, y0, x1, y1] px of an image of that size) as an overlay of that image."""
    rect = Markup('<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}"/>')
    drawn = [rect.format(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in rectangles]
    return Markup('<svg class="boxes" viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(
        width, height, Markup("").join(drawn)
    )
