"""The artifacts that a report is made of, checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import TL_SOURCES
from radtransfer.errors import RadtransferError
from radtransfer.robustness.kinds import of_suite

Row = dict[str, Any]
KNOWN = (*TL_SOURCES, "shortcut")


@dataclass(frozen=True)
class Run:
    """All artifacts of one run, checked against each other."""

    config: dict[str, object]
    target: Artifact
    source: Artifact
    evaluation: Artifact
    explanations: Artifact
    bundle: Artifact
    models: tuple[Artifact, ...]
    pretrained: tuple[Artifact, ...]
    metrics: dict[str, Any]
    curves: dict[str, Any]

    @cached_property
    def rows(self) -> dict[str, Row]:
        return {row["id"]: row for row in self.metrics["results"]}

    @cached_property
    def selected(self) -> Row:
        return self.rows[self.evaluation.content["selected"]]

    @cached_property
    def sources(self) -> list[str]:
        """TL sources of this run, the one that the run asks about first."""
        return [source for source in reversed(TL_SOURCES) if source in self.evaluation.content["choices"]]

    @property
    def bootstrap(self) -> int:
        """Replicates behind every interval and p-value."""
        return int(self.evaluation.made["settings"]["bootstrap"])

    @cached_property
    def backbones(self) -> list[str]:
        return sorted({model.content["backbone"] for model in self.models})

    @cached_property
    def shortcuts(self) -> list[Row]:
        """The shortcuts on all images of the test set."""
        usual = {"level": "image", "subgroup": "all", "corruption": "none"}
        rows = [row for row in self.rows.values() if row["tl_source"] == "shortcut"]
        return [row for row in rows if all(row[key] == value for key, value in usual.items())]

    @cached_property
    def listed(self) -> list[Row]:
        """All rows but those of subgroups and of graded corruptions, which have sections of their own."""
        whole = [row for row in self.rows.values() if row.get("subgroup", "all") == "all"]
        return [row for row in whole if not of_suite(row["corruption"])]

    @cached_property
    def subgroups(self) -> dict[str, dict[str, Row]]:
        """Of each subgroup of the test images the rows of the choices that were measured on it, by the id of these."""
        found: dict[str, dict[str, Row]] = {}
        for row in self.rows.values():
            subgroup = row.get("subgroup", "all")
            if subgroup != "all":
                found.setdefault(subgroup, {})[row["id"].removesuffix(f"/{subgroup}")] = row
        return found

    @cached_property
    def robustness(self) -> dict[str, Any]:
        """What :mod:`radtransfer.evaluation.degradation` says; empty where no images were corrupted."""
        return dict(self.evaluation.content.get("robustness", {}))

    @cached_property
    def artifacts(self) -> list[tuple[str, Artifact]]:
        """Every artifact with a name for the reader."""
        return [
            ("target store", self.target),
            ("source store", self.source),
            *((f"pre-trained {one.content['backbone']}", one) for one in self.pretrained),
            *((f"{one.content['tl_source']} {one.content['backbone']}", one) for one in self.models),
            ("evaluation", self.evaluation),
            ("explanations", self.explanations),
            ("bundle", self.bundle),
        ]

    @cached_property
    def versions(self) -> list[str]:
        """Versions of the code that made the artifacts; one, unless code changed in between."""
        return sorted({artifact.made["version"] for _, artifact in self.artifacts})

    @cached_property
    def settled(self) -> dict[str, list[object]]:
        """What the figures hang on besides data and configuration, as the models recorded it."""
        models = (*self.models, *self.pretrained)
        settled = {name: sorted({one.content[name] for one in models}) for name in ("seed", "threads", "precision")}
        together = sorted({one.content.get("processes", 1) for one in models})
        return settled | ({"training processes": together} if together != [1] else {})

    @cached_property
    def origins(self) -> list[tuple[str, dict[str, str]]]:
        """Published weights that were used: backbone, where from and sha256."""
        found = {
            (one.content["backbone"], origin["where"]): origin
            for one in (*self.pretrained, *self.models)
            if (origin := one.content["weights_origin"]).get("sha256")
        }
        return [(backbone, origin) for (backbone, _), origin in sorted(found.items())]

    @property
    def reused(self) -> bool:
        """Whether an earlier run pre-trained the in-domain models (on a source store of its own)."""
        made_on = {one.made["inputs"].get("source_store", self.source.digest) for one in self.pretrained}
        return made_on != {self.source.digest} and bool(self.pretrained)

    @property
    def refitted(self) -> bool:
        """Whether networks and classifiers were trained again on train and validation images together."""
        return any(one.content["refit"] for one in self.models)

    @property
    def trained_as_long(self) -> bool:
        """Whether networks that were not pre-trained got the steps of pre-training on the target."""
        return any(one.content.get("extra_steps") for one in self.models)

    @cached_property
    def ended_early(self) -> list[str]:
        """Networks that early stopping kept from taking all steps that they were given."""
        return [
            f"{one.content['tl_source']} {one.content['backbone']}"
            for one in self.models
            if one.content["target_steps"] < one.content.get("planned_steps", 0)
        ]

    @cached_property
    def uneven(self) -> list[str]:
        """Backbones whose sources took different numbers of steps on the target, which no control accounts for."""
        if self.trained_as_long:
            return []
        steps: dict[str, set[int]] = {}
        for one in self.models:
            steps.setdefault(one.content["backbone"], set()).add(one.content["target_steps"])
        return sorted(backbone for backbone, numbers in steps.items() if len(numbers) > 1)

    @property
    def synthetic(self) -> bool:
        return bool(self.target.content["synthetic"])

    def choice(self, source: str, what: str) -> Row:
        """The row that a source chose on the validation split: its best ``fused``, ``single`` or ``overall``."""
        return self.rows[self.evaluation.content["choices"][source][what]]

    @cached_property
    def leader(self) -> Row:
        """The source's fused choice with the highest AUROC on the test set, whether or not the lead is real."""
        return max((self.choice(source, "fused") for source in self.sources), key=lambda row: row["auroc"]["value"])

    def comparisons(self, family: str, metric: str | None = None) -> list[Row]:
        return [
            row
            for row in self.metrics["comparisons"]
            if row["family"] == family and (metric is None or row["metric"] == metric)
        ]


def open_run(
    config: dict[str, object],
    target_store: Path,
    source_store: Path,
    evaluation: Path,
    explanations: Path,
    bundle: Path,
    models: Sequence[Path],
    pretrained: Sequence[Path],
) -> Run:
    """Read all artifacts of a run; arguments and errors are those of :func:`radtransfer.evaluation.report.report`."""
    evaluated = artifacts.read(evaluation, "evaluation")
    run = Run(
        config=config,
        target=artifacts.read(target_store, "image-store"),
        source=artifacts.read(source_store, "image-store"),
        evaluation=evaluated,
        explanations=artifacts.read(explanations, "explanations"),
        bundle=artifacts.read(bundle, "bundle"),
        models=_sorted(artifacts.read(path, "model") for path in models),
        pretrained=_sorted(artifacts.read(path, "model") for path in pretrained),
        metrics=artifacts.read_json(evaluated.path / "metrics.json"),
        curves=artifacts.read_json(evaluated.path / "curves.json"),
    )
    _check(run)
    return run


def _sorted(models: Iterable[Artifact]) -> tuple[Artifact, ...]:
    def key(model: Artifact) -> tuple[str, int]:
        source = model.content["tl_source"]
        return model.content["backbone"], -TL_SOURCES.index(source) if source in TL_SOURCES else 1

    return tuple(sorted(models, key=key))


def _check(run: Run) -> None:
    """Refuse artifacts that do not belong together: a report that mixes runs looks as sound as one that does not."""
    where, content = run.evaluation.path, run.evaluation.content
    marked = [row["id"] for row in run.metrics["results"] if row["selected"]]
    if marked != [content["selected"]]:
        raise RadtransferError(
            f"{where / 'metrics.json'}: rows marked as selected are {marked}, evaluation.json selects "
            f"{content['selected']!r}; evaluate again"
        )
    named = {content["selected"], *(row for choice in content["choices"].values() for row in choice.values())}
    named |= {row[side] for row in run.metrics["comparisons"] for side in ("a", "b")}
    for missing in sorted(named - set(run.rows)):
        raise RadtransferError(f"{where / 'metrics.json'}: row {missing!r} is referred to but missing; evaluate again")
    for row in run.rows.values():
        if row["tl_source"] not in KNOWN:
            raise RadtransferError(
                f"{where / 'metrics.json'}: row {row['id']!r} has the unknown source {row['tl_source']!r}; expected "
                f"one of {', '.join(KNOWN)}"
            )
    if run.bundle.content["row_id"] != content["selected"]:
        raise RadtransferError(
            f"{run.bundle.path}: bundles {run.bundle.content['row_id']!r}, but {where} selects "
            f"{content['selected']!r}; hand over the bundle of the same run"
        )
    known = {"evaluation": run.evaluation.digest, "target_store": run.target.digest}
    for artifact in (run.evaluation, run.explanations, run.bundle, *run.models):
        for name, digest in known.items():
            if artifact.made["inputs"].get(name, digest) != digest:
                raise RadtransferError(
                    f"{artifact.path}: was made from another {name.replace('_', ' ')} than the one given here; hand "
                    "over the artifacts of one run"
                )
    names = [(str(model.content["backbone"]), str(model.content["tl_source"])) for model in run.models]
    expected = {(backbone, source) for backbone in {name[0] for name in names} for source in run.sources}
    if len(set(names)) != len(names) or set(names) != expected:
        raise RadtransferError(f"models: expected one per backbone and source, {sorted(expected)}; got {sorted(names)}")
