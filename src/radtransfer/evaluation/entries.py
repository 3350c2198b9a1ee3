"""What is measured: the candidates of all TL sources with their scores for the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from radtransfer.artifacts import Artifact
from radtransfer.config import TlSource
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.metrics import Floats
from radtransfer.fusion.sources import fitted_of
from radtransfer.preprocess.store import Store


@dataclass(frozen=True)
class Entry:
    """A classifier to be measured: where it comes from, and its scores for the test images in the store's order."""

    id: str
    tl_source: str
    features: str
    classifier: str
    threshold: float
    scores: Floats


def sources(paths: Sequence[Path]) -> dict[TlSource, Artifact]:
    """The classifiers of each TL source, in the order scratch, imagenet, in_domain, made under equal conditions."""
    found = fitted_of(paths)
    if not found:
        raise RadtransferError("no classifiers to evaluate; hand over one classifiers artifact per TL source")
    first = next(iter(found.values()))
    for artifact in found.values():
        for what, one, other in (
            ("image store", first.content["store_digest"], artifact.content["store_digest"]),
            ("seed", first.content["seed"], artifact.content["seed"]),
            ("backbones", _backbones(first), _backbones(artifact)),
            ("calibration", first.content["calibration"], artifact.content["calibration"]),
            ("threshold rule", first.content["threshold_rule"], artifact.content["threshold_rule"]),
        ):
            if one != other:
                raise RadtransferError(
                    f"{artifact.path}: made with another {what} than {first.path} ({other} against {one}); "
                    "TL sources are compared under equal conditions only: make both again with the same configuration"
                )
    return found


def _backbones(classifiers: Artifact) -> list[str]:
    return [str(block["backbone"]) for block in classifiers.content["blocks"]]


def choose(sources: dict[TlSource, Artifact]) -> tuple[str, dict[str, dict[str, str]]]:
    """Row id of the candidate with the highest validation AUROC (the first of equals), and each source's choices."""
    candidates = [(name, one) for name, artifact in sources.items() for one in artifact.content["candidates"]]
    if not candidates:
        raise RadtransferError("the classifiers artifacts hold no candidates; make them again")
    name, best = max(candidates, key=lambda pair: pair[1]["validation_auroc"])
    choices: dict[str, dict[str, str]] = {}
    for source, artifact in sources.items():
        known = {one["id"] for one in artifact.content["candidates"]}
        choice = artifact.content["choice"]
        if set(choice) != {"fused", "single", "overall"} or not set(choice.values()) <= known:
            raise RadtransferError(f"{artifact.path}: its choices {choice} are not among its candidates; make it again")
        choices[source] = {kind: row_id(source, choice[kind], artifact) for kind in ("fused", "single", "overall")}
    return row_id(name, best["id"], sources[name]), choices


def row_id(source: str, candidate: str, artifact: Artifact) -> str:
    return f"{source}/{candidate}/seed{artifact.content['seed']}"


def entries(sources: dict[TlSource, Artifact], store: Store) -> list[Entry]:
    """All candidates with their scores for the store's test images."""
    wanted = store.manifest["image_id"].iloc[store.rows("test")].to_numpy()
    if not len(wanted):
        raise RadtransferError(f"{store.artifact.path}: no test images; evaluation needs the target's store")
    found = []
    for source, artifact in sources.items():
        if artifact.content["store_digest"] != store.artifact.digest:
            raise RadtransferError(
                f"{artifact.path}: made from another image store than {store.artifact.path} "
                f"({artifact.content['store_digest'][:12]} against {store.artifact.digest[:12]}); make it from this one"
            )
        path = artifact.path / "scores.parquet"
        table = pd.read_parquet(path)
        table = table[table["split"] == "test"].set_index("image_id")
        if not table.index.is_unique or set(table.index) != set(wanted):
            odd = sorted(set(table.index) ^ set(wanted)) or sorted(table.index[table.index.duplicated()])
            raise RadtransferError(f"{path}: its test images are not the store's, see {odd[0]}; make it again")
        for one in artifact.content["candidates"]:
            if one["id"] not in table:
                raise RadtransferError(f"{path}: no scores of candidate {one['id']!r}; make it again")
            scores = table.loc[wanted, one["id"]].to_numpy(dtype=np.float64)
            name = row_id(source, one["id"], artifact)
            found.append(Entry(name, source, one["features"], one["classifier"], float(one["threshold"]), scores))
        of = {one["id"]: one for one in artifact.content["candidates"]}[artifact.content["ablation"]["of"]]
        for one in artifact.content["ablation"]["without"]:
            name, features = row_id(source, one["column"], artifact), f"fused without {one['backbone']}"
            scores = table.loc[wanted, one["column"]].to_numpy(dtype=np.float64)
            found.append(Entry(name, source, features, of["classifier"], float(one["threshold"]), scores))
    return found


def blocks(sources: dict[TlSource, Artifact]) -> list[tuple[str, str]]:
    """Row ids of each source's fused choice and of the same without one of its backbones, for every backbone."""
    return [
        (row_id(source, artifact.content["ablation"]["of"], artifact), row_id(source, one["column"], artifact))
        for source, artifact in sources.items()
        for one in artifact.content["ablation"]["without"]
    ]
