"""Uncalibrated scores of fitted classifiers, and classifiers as files: the same for the run and for prediction."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline

from radtransfer.errors import RadtransferError

Floats = NDArray[np.float64]

VOTES_CLIP = 1e-3
"""Trees and neighbours vote, also with one voice; the logit of their votes is taken this far from 0 and 1."""

NETWORK_CLIP = float(np.finfo(np.float64).eps)
"""An MLP gives a sigmoid, which is 0 or 1 only for want of digits."""

ALLOWED_TYPES = frozenset(
    {
        "radtransfer.fusion.blocks.BlockScaler",
        "radtransfer.fusion.classifiers.LinearSVM",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.tree._tree.Tree",
    }
)
"""Types beyond skops' own list of safe ones that a classifier file may hold: numbers with arithmetic on them."""

MAX_UNPACKED_BYTES = 2**30
"""A classifier file that unpacks to more than this is refused."""


def raw_score(estimator: Any, features: NDArray[np.floating[Any]]) -> Floats:
    """Uncalibrated score of the positive class, in units of a logit or of a margin.

    Args:
        estimator: fitted binary scikit-learn classifier with classes 0 and 1.
        features: [N, D].

    Returns:
        float64 [N]: the decision function where there is one, else the logit of the clipped probability.
    """
    values = np.asarray(features, np.float64)
    if hasattr(estimator, "decision_function"):
        return np.asarray(estimator.decision_function(values), np.float64)
    probability = estimator.predict_proba(values)[:, 1]
    clip = NETWORK_CLIP if isinstance(_last(estimator), MLPClassifier) else VOTES_CLIP
    return np.asarray(logit(np.clip(probability, clip, 1 - clip)), np.float64)


def _last(estimator: Any) -> Any:
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def file_name(name: str) -> str:
    """``name`` as a file name: what is not a letter, digit, dot, dash or underscore becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def save_classifier(estimator: Any, path: Path) -> None:
    """Write a fitted estimator with skops, such that equal estimators give equal bytes.

    skops names its parts by memory address and stamps them with the time; both are replaced by what repeats.
    """
    import skops.io  # it imports torch, which scoring alone does not need

    packed = zipfile.ZipFile(io.BytesIO(skops.io.dumps(estimator)))
    schema = json.loads(packed.read("schema.json"))
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}

    def renumber(node: Any) -> Any:
        if isinstance(node, list):
            return [renumber(item) for item in node]
        if not isinstance(node, dict):
            return node
        renumbered = {key: renumber(item) for key, item in node.items()}
        if isinstance(node.get("__id__"), int):
            renumbered["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
        if isinstance(node.get("file"), str):
            renumbered["file"] = files.setdefault(node["file"], f"{len(files)}{Path(node['file']).suffix}")
        return renumbered

    members = {"schema.json": json.dumps(renumber(schema)).encode()}
    members |= {new: packed.read(old) for old, new in files.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def load_classifier(path: Path) -> Any:
    """Load an estimator written by :func:`save_classifier`; nothing but numbers and known estimators is built.

    Raises:
        RadtransferError: not a skops file, too large, or it holds a type outside the allow-list.
    """
    import skops.io

    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_UNPACKED_BYTES:
            raise RadtransferError(f"{path}: unpacks to {size} bytes, more than the {MAX_UNPACKED_BYTES} allowed")
        foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - ALLOWED_TYPES)
        if foreign:
            raise RadtransferError(
                f"{path}: holds the type {foreign[0]}, which no classifier of radtransfer has; do not use this file"
            )
        return skops.io.load(path, trusted=sorted(ALLOWED_TYPES))
    except RadtransferError:
        raise
    except FileNotFoundError:
        raise RadtransferError(f"{path}: no such file") from None
    except Exception as error:  # skops raises whatever a malformed file leads to
        raise RadtransferError(f"{path}: not a classifier that can be loaded ({error})") from None
