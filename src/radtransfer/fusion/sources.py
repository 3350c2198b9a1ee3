"""The classifiers and models of each transfer-learning source, seen to belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import TL_SOURCES, TlSource
from radtransfer.errors import RadtransferError

Key = TypeVar("Key")


@dataclass(frozen=True)
class Source:
    """A transfer-learning source.

    Attributes:
        name: one of :data:`radtransfer.config.TL_SOURCES`.
        classifiers: what was fitted on its features.
        models: the networks that these came from, by backbone, in the order of the fused columns.
    """

    name: str
    classifiers: Artifact
    models: dict[str, Artifact]

    @property
    def blocks(self) -> list[dict[str, Any]]:
        """The columns of the fused features."""
        return list(self.classifiers.content["blocks"])

    @property
    def candidates(self) -> list[dict[str, Any]]:
        return list(self.classifiers.content["candidates"])

    def candidate(self, row_id: str) -> dict[str, Any]:
        """The candidate behind a row of ``metrics.json``.

        Raises:
            RadtransferError: there is none.
        """
        seed = self.classifiers.content["seed"]
        for candidate in self.candidates:
            if row_id == f"{self.name}/{candidate['id']}/seed{seed}":
                return candidate
        raise RadtransferError(
            f"{self.classifiers.path}: the evaluation names {row_id!r}, which is not among its candidates"
        )

    @property
    def inputs(self) -> dict[str, Artifact]:
        """Its artifacts with their names among the inputs of a step."""
        models = {f"models/{self.name}/{backbone}": model for backbone, model in self.models.items()}
        return {f"classifiers/{self.name}": self.classifiers} | models


def sources(
    store_digest: str, classifiers: Sequence[Path], models: Sequence[Path], wanted: Iterable[str] = ()
) -> dict[str, Source]:
    """Open them.

    Args:
        store_digest: of the target's image store, on which all of it was made.
        classifiers: one artifact per TL source, in any order.
        models: the fine-tuned models, in any order.
        wanted: TL sources that must be there; empty: those of the classifiers.

    Returns:
        by name, in the order of :data:`radtransfer.config.TL_SOURCES`.

    Raises:
        RadtransferError: one is missing, there twice, or of another store or run.
    """
    fitted = fitted_of(classifiers)
    found = [artifacts.read(path, "model") for path in models]
    trained = _unique(((model.content["tl_source"], model.content["backbone"]), model) for model in found)
    asked = set(wanted) or set(fitted)
    given: dict[str, Source] = {}
    for name in (one for one in TL_SOURCES if one in asked):
        if name not in fitted:
            raise RadtransferError(f"the classifiers of TL source {name!r} are missing; hand them over")
        artifact = fitted[name]
        if artifact.content["store_digest"] != store_digest:
            raise RadtransferError(f"{artifact.path}: fitted on another image store than the one of this run")
        own: dict[str, Artifact] = {}
        for block in artifact.content["blocks"]:
            backbone = block["backbone"]
            if (name, backbone) not in trained:
                raise RadtransferError(f"the model of {backbone} {name} is missing; hand it over")
            model = own[backbone] = trained[name, backbone]
            if model.digest != block["model_digest"]:
                raise RadtransferError(f"{model.path}: not the model that {artifact.path} was fitted on")
        given[name] = Source(name, artifact, own)
    return given


def fitted_of(classifiers: Sequence[Path]) -> dict[TlSource, Artifact]:
    """The classifiers of each TL source, in the order of :data:`radtransfer.config.TL_SOURCES`.

    Raises:
        RadtransferError: of an unknown source, or two of one.
    """
    opened = [artifacts.read(path, "classifiers") for path in classifiers]
    strange = [one for one in opened if one.content["tl_source"] not in TL_SOURCES]
    if strange:
        raise RadtransferError(
            f"{strange[0].path}: unknown TL source {strange[0].content['tl_source']!r}, expected one of "
            f"{', '.join(TL_SOURCES)}"
        )
    by_name = _unique((artifact.content["tl_source"], artifact) for artifact in opened)
    return {name: by_name[name] for name in TL_SOURCES if name in by_name}


def _unique(pairs: Iterable[tuple[Key, Artifact]]) -> dict[Key, Artifact]:
    keyed: dict[Key, Artifact] = {}
    for key, artifact in pairs:
        if key in keyed:
            raise RadtransferError(f"{keyed[key].path} and {artifact.path} are both of {key}; hand over one")
        keyed[key] = artifact
    return keyed
