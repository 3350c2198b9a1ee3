"""The data report: what lies in the image stores of a run, and what was wrong with their files.

It is made of the stores and nothing else, as a page that loads nothing from anywhere and needs no script, as
Markdown, and as a table of the problems. What came from data sets (names of files, classes, notes) is untrusted and
escaped.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from radtransfer import pages
from radtransfer.errors import RadtransferError
from radtransfer.pages import plain
from radtransfer.preprocess.ingest import Levels
from radtransfer.preprocess.store import Store
from radtransfer.problems import PROBLEMS, Policy, policies

LISTED = 200
"""Files that the page lists of one problem; ``problems.csv`` has all."""
NAMED = 10
"""Files that the Markdown names of one problem."""
STOPS = "stops the run"
EDGES = (0.0, 0.05, 0.5, 0.95, 1.0)


class Finding(NamedTuple):
    """A problem with a file.

    Attributes:
        store: ``target``, ``source`` or ``external``.
        file: what artifacts call it.
        problem: one of :data:`radtransfer.problems.PROBLEMS`.
        policy: what was to be done about it.
        outcome: ``kept``, ``left out``, or :data:`STOPS` (policy ``fail``, which holds for target and source alone).
        label, split, group: of an image that is in the store; else empty.
        reason: why it was left out; else empty.
    """

    store: str
    file: str
    problem: str
    policy: Policy
    outcome: str
    label: str
    split: str
    group: str
    reason: str


@dataclass(frozen=True)
class DataReport:
    """What is known of the stores of a run.

    Attributes:
        stores: for each the content of their ``dataset.json``, and what their manifest adds: ``sizes``
            (quantiles :data:`EDGES` of width and height, px), ``grouped`` (number of leakage groups, of those with one
            image, size of the largest, number with both classes), ``left_out`` (files by problem; empty: by
            ``max_images``).
        policies: what was to be done about each problem.
        findings: all problems, by problem, store and file.
    """

    stores: tuple[dict[str, Any], ...]
    policies: dict[str, Policy]
    findings: list[Finding]

    @classmethod
    def of(cls, *stores: Path, on_problem: Mapping[str, Any] | None = None) -> DataReport:
        """Read the stores.

        Args:
            stores: the target's, the source's and, where there is one, that of an external data set.
            on_problem: policies to judge by; None: those that the first was made with.

        Raises:
            RadtransferError: not an image store, damaged, or made before stores recorded what is needed here.
        """
        opened = [Store.open(path) for path in stores]
        for one in opened:
            if "grey_levels" not in one.content:
                raise RadtransferError(
                    f"{one.artifact.path}: image store of an earlier version, which did not record what the data "
                    "report shows; make it again"
                )
        chosen = policies(opened[0].artifact.made["settings"]["on_problem"] if on_problem is None else on_problem)
        findings = [finding for one in opened for finding in _findings(one, chosen)]
        order = list(PROBLEMS)
        roles = [one.content["role"] for one in opened]
        findings.sort(key=lambda one: (order.index(one.problem), roles.index(one.store), one.file))
        return cls(tuple(map(_described, opened)), chosen, findings)

    @cached_property
    def counts(self) -> Counter[tuple[str, str, str]]:
        """Number of findings by problem, store and outcome."""
        return Counter((one.problem, one.store, one.outcome) for one in self.findings)

    @cached_property
    def stopping(self) -> dict[str, int]:
        """Number of files by problem, for the problems that stop a run."""
        return dict(Counter(one.problem for one in self.findings if one.outcome == STOPS))

    def of_problem(self, problem: str) -> list[Finding]:
        return [one for one in self.findings if one.problem == problem]

    def summary(self) -> list[str]:
        """What matters most, in a few lines."""
        lines = [f"{store['role']} {store['name']}, {store['part']}: {_balance(store)}" for store in self.stores]
        found = Counter((one.problem, one.outcome) for one in self.findings)
        lines += [f"{problem}: {number} {outcome}" for (problem, outcome), number in found.items()]
        return lines

    def html(self) -> str:
        """The page."""
        template = pages.environment().get_template("preprocess/data_report.html")
        return template.render(report=self, problems=PROBLEMS, listed=LISTED, edges=EDGES)

    def markdown(self) -> str:
        """The report in Markdown, files named only by example."""
        lines = ["# Data report", ""]
        if any(store["synthetic"] for store in self.stores):
            lines += ["> **Synthetic images.**", ""]
        for name, number in self.stopping.items():
            lines += [f"**{number} files stop a run: `{name}` has the policy `fail`.**", ""]
        lines += ["| Problem | policy | what is wrong | files |", "|---|---|---|---|"]
        for name, problem in PROBLEMS.items():
            files = self.of_problem(name)
            outcomes = Counter((one.outcome, one.store) for one in files)
            told = ", ".join(f"{number} {outcome} ({store})" for (outcome, store), number in sorted(outcomes.items()))
            named = ", ".join(plain(one.file) for one in files[:NAMED])
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            found = f"{told}: {named}{more}" if files else "none"
            lines.append(f"| {name} | {self.policies[name]} | {problem.what} | {found} |")
        for store in self.stores:
            lines += ["", *_store_markdown(store)]
        return "\n".join([*lines, ""])

    def problems_csv(self) -> str:
        """All findings as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Finding._fields)
        writer.writerows(self.findings)
        return text.getvalue()


def _findings(opened: Store, chosen: Mapping[str, Policy]) -> list[Finding]:
    role = opened.content["role"]

    def outcome(problem: str, otherwise: str) -> tuple[Policy, str]:
        return chosen[problem], STOPS if chosen[problem] == "fail" and role != "external" else otherwise

    columns = ("image_id", "flags", "label_name", "split", "group_id")
    kept = [
        Finding(role, file, flag, *outcome(flag, "kept"), label, split, group, "")
        for file, flags, label, split, group in opened.manifest[list(columns)].itertuples(index=False)
        for flag in flags
        if flag in PROBLEMS
    ]
    left_out = [
        Finding(role, one["file"], one["problem"], *outcome(one["problem"], "left out"), "", "", "", one["reason"])
        for one in opened.content["rejected"]
        if one["problem"]
    ]
    return kept + left_out


def _described(opened: Store) -> dict[str, Any]:
    manifest = opened.manifest
    by_group = manifest.groupby("group_id")["label"].agg(["size", "nunique"])
    return opened.content | {
        "sizes": {side: [float(edge) for edge in manifest[side].quantile(EDGES)] for side in ("width", "height")},
        "grouped": {
            "groups": len(by_group),
            "single": int((by_group["size"] == 1).sum()),
            "largest": int(by_group["size"].max()),
            "mixed": int((by_group["nunique"] > 1).sum()),
        },
        "left_out": dict(sorted(Counter(one["problem"] for one in opened.content["rejected"]).items())),
    }


def _balance(store: Mapping[str, Any]) -> str:
    """Files in and files out."""
    left = ", ".join(f"{number} {problem or 'max_images'}" for problem, number in store["left_out"].items())
    return (
        f"{store['files_found']} files found = {store['images']} images + {len(store['rejected'])} left out"
        f"{f' ({left})' if left else ''}"
    )


def _store_markdown(store: Mapping[str, Any]) -> list[str]:
    classes, positive = list(store["classes"].values()), store["positive_class"]
    lines = [
        f"## {store['role'].capitalize()}: {plain(store['name'])}, {plain(store['part'])}",
        "",
        f"{_balance(store)}.",
        "",
        f"| Images | {' | '.join(map(plain, classes))} | share of {plain(positive)} |",
        f"|{'---|' * (len(classes) + 2)}",
    ]
    for where, by_class in (*store["counts"].items(), *store["parts"].items()):
        cells = [plain(where), *(str(by_class[name]) for name in classes)]
        lines.append(f"| {' | '.join(cells)} | {by_class[positive] / sum(by_class.values()):.1%} |")
    lines += ["", f"| Median grey levels | {' | '.join(map(plain, classes))} |", f"|{'---|' * (len(classes) + 1)}"]
    for figure in Levels._fields:
        middles = [f"{store['grey_levels'][name][figure][1]:.4g}" for name in classes]
        lines.append(f"| {figure} | {' | '.join(middles)} |")
    grouped, sizes = store["grouped"], store["sizes"]
    sides = [f"{name} {its[0]:.0f} to {its[-1]:.0f} px, median {its[2]:.0f}" for name, its in sizes.items()]
    return [
        *lines,
        "",
        f"- Leakage groups: {grouped['groups']}, of which {grouped['single']} of one image; the largest has "
        f"{grouped['largest']}; {grouped['mixed']} hold both classes.",
        f"- Sizes: {'; '.join(sides)}.",
        *(f"- {plain(note)}" for note in store["notes"]),
    ]
