"""A compiled pipeline, and the parameters that a run of it takes."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from radtransfer.config import RunConfig
from radtransfer.datasets.roots import DvcRoot, parse
from radtransfer.errors import RadtransferError, near
from radtransfer_components.support import IMAGE
from radtransfer_pipelines import NOT_PARAMETERS
from radtransfer_pipelines.resources import DATA_ROOT, VOLUME_CLAIM

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PLACES = ("weights_mirror", "pretrained_models", "checkpoints", "registry")
"""Parameters that name a folder, but for the data root."""
TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "STRING": ("text", (str,)),
    "NUMBER_INTEGER": ("a whole number", (int,)),
    "NUMBER_DOUBLE": ("a number", (int, float)),
    "BOOLEAN": ("true or false", (bool,)),
    "LIST": ("a list", (list,)),
    "STRUCT": ("a mapping", (dict,)),
}
ANY = ("a value", (object,))


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Attributes:
        path: its file.
        name: of the pipeline, e.g. ``transfer-fusion``.
        digest: sha256 of the file, in which the images of all tasks stand.
        inputs: definition of each parameter: ``parameterType``, and ``defaultValue`` or ``isOptional`` where there is.
        images: of its tasks.
    """

    path: Path
    name: str
    digest: str
    inputs: dict[str, dict[str, Any]]
    images: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Package:
        """Open one.

        Raises:
            RadtransferError: no such file, no compiled pipeline, or its tasks have the placeholder for an image.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise RadtransferError(f"{path}: no such file; make one by `radtransfer compile --image ...`") from None
        try:
            spec = next(iter(yaml.load_all(content, Loader=LOADER)))
            name = spec["pipelineInfo"]["name"]
            inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
            executors = spec["deploymentSpec"]["executors"].values()
            images = tuple(sorted({each["container"]["image"] for each in executors if "container" in each}))
        except (yaml.YAMLError, KeyError, TypeError, AttributeError, StopIteration, UnicodeDecodeError):
            raise RadtransferError(f"{path}: is no compiled pipeline; make one by `radtransfer compile`") from None
        if IMAGE in images:
            raise RadtransferError(
                f"{path}: its tasks have {IMAGE} for an image, which stands for yours; name it by --image "
                "REGISTRY/IMAGE@sha256:... (`make image` builds it)"
            )
        return cls(path, name, hashlib.sha256(content).hexdigest(), inputs, images)

    def parameters(self, config: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a run, checked against what the pipeline takes.

        Args:
            config: the configuration; all its entries are sent.
            given: parameters that are no entries of it, such as ``data_root``.

        Raises:
            RadtransferError: one is unknown, of another type, missing, or names a folder that tasks do not see.
        """
        settings = {key: value for key, value in config.model_dump(mode="json").items() if key not in NOT_PARAMETERS}
        for name in given:
            if name in settings:
                raise RadtransferError(
                    f"--param {name}: is an entry of the configuration; say --set {name}=... instead"
                )
        sent = dict(given)
        for name, value in settings.items():
            if name in self.inputs:
                sent[name] = value
            elif value != RunConfig.model_fields[name].get_default():
                raise RadtransferError(
                    f"{name}: the pipeline in {self.path} does not know it; compile it again with this version"
                )
        for name, value in sent.items():
            if name not in self.inputs:
                others = [other for other in self.inputs if other not in settings]
                close = difflib.get_close_matches(name, self.inputs, n=1)
                raise RadtransferError(
                    f"--param {name}: the pipeline {self.name} has no such parameter; {near(name, close or others)}"
                )
            self._check_type(name, value)
        for name, its in self.inputs.items():
            if name not in sent and "defaultValue" not in its and not its.get("isOptional"):
                wanted, _ = TYPES.get(its["parameterType"], ANY)
                raise RadtransferError(f"the pipeline {self.name} needs a value for {name}: --param {name}=({wanted})")
        _check_places({name: its.get("defaultValue") for name, its in self.inputs.items()} | sent)
        return dict(sorted(sent.items()))

    def _check_type(self, name: str, value: Any) -> None:
        words, kinds = TYPES.get(self.inputs[name]["parameterType"], ANY)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
            shown = json.dumps(value, ensure_ascii=False)
            hint = "; put it in quotes twice, '\"...\"'" if kinds == (str,) else ""
            raise RadtransferError(f"--param {name}={shown}: expected {words}, got {type(value).__name__}{hint}")


def data_place(data_root: str) -> str:
    """Says in a line where tasks will find the data."""
    root = parse(data_root)
    if isinstance(root, Path):
        return (
            f"data root {data_root}: a folder on the data volume ({VOLUME_CLAIM}) as the tasks see it; it is no URI, "
            "and nothing is sent from this machine"
        )
    return f"data root {data_root}: fetched by the tasks themselves"


def _check_places(parameters: Mapping[str, Any]) -> None:
    """See that no parameter names a folder of this machine.

    Raises:
        RadtransferError: one does.
    """
    named = {name: str(parameters.get(name) or "") for name in ("data_root", *PLACES)}
    root = parse(named["data_root"] or DATA_ROOT)
    if isinstance(root, DvcRoot) and "://" not in root.repository:
        raise RadtransferError(
            f"data_root {named['data_root']}: {root.repository} is a folder of this machine, which tasks on the "
            "cluster do not see; name the repository by its https or ssh URL"
        )
    for name, place in named.items():
        if not place or (name == "data_root" and not isinstance(root, Path)) or place.startswith("s3://"):
            continue
        path = PurePosixPath(place)
        if not path.is_relative_to(DATA_ROOT) or ".." in path.parts:
            raise RadtransferError(
                f"{name} {place}: a folder of this machine, which tasks on the cluster do not see; name a folder below "
                f"{DATA_ROOT}, where they have the data volume {VOLUME_CLAIM}, or a URI (s3://BUCKET/PREFIX"
                f"{', dvc+REPOSITORY@REVISION:PATH' if name == 'data_root' else ''})"
            )
