"""What is tried for each classifier, and how a run changes that.

A table without scikit-learn, since configurations are checked against it before anything is computed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from radtransfer.errors import RadtransferError, near

Settings = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One setting of a classifier.

    Attributes:
        tried: the values that are tried; the tamest first, since of equal cross-validation scores the first is taken.
        kind: of its numbers; None where it takes words alone.
        low, high: range of its numbers, ends included.
        words: the words that it takes.
    """

    tried: tuple[Any, ...]
    kind: type[int] | type[float] | None = float
    low: float = 1e-9
    high: float = 1e9
    words: tuple[str, ...] = ()

    def read(self, value: Any) -> Any:
        """A value as what it is; KFP hands on an int in a mapping as a float.

        Raises:
            ValueError: not such a value.
        """
        if isinstance(value, str) and value in self.words:
            return value
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        whole = self.kind is float or (number and value == int(value)) if number and abs(value) < 2**53 else False
        if self.kind is None or not whole or not self.low <= value <= self.high:
            raise ValueError(f"{value!r} is no value for it; expected {self}")
        return self.kind(value)

    def __str__(self) -> str:
        number = {int: "a whole number", float: "a number"}.get(self.kind or str)
        ranged = [f"{number} from {self.low:g} to {self.high:g}"] if number else []
        return " or ".join([*ranged, *self.words])


def _features(reduction: str, components: int = 64, weights: tuple[str, ...] = ("equal",)) -> dict[str, Setting]:
    """The settings that say what a classifier is fed."""
    return {
        "weights": Setting(weights, None, words=("equal", "columns", "signal")),
        "reduction": Setting((reduction,), None, words=("none", "pca", "anova")),
        "components": Setting((components,), int, 1, 4096),
    }


CLASSIFIERS: dict[str, dict[str, Setting]] = {
    "logistic_regression": {"C": Setting((1e-4, 1e-3, 1e-2, 1e-1)), **_features("none", weights=("equal", "signal"))},
    "lda": {
        "shrinkage": Setting((0.9, 0.5, 0.1), float, 0, 1),
        **_features("pca", weights=("equal", "signal")),
    },
    "svm_linear": {"C": Setting((1e-5, 1e-4, 1e-3, 1e-2)), **_features("none")},
    "svm_rbf": {
        "C": Setting((0.3, 1.0, 3.0)),
        "gamma": Setting(("scale", "auto"), words=("scale", "auto")),
        **_features("pca"),
    },
    "knn": {"n_neighbors": Setting((31, 15, 7, 3), int, 1, 1000), **_features("pca")},
    "random_forest": {"min_samples_leaf": Setting((5, 1), int, 1, 1000), **_features("anova", 256)},
    "gradient_boosting": {
        "max_leaf_nodes": Setting((4, 8), int, 2, 1000),
        "learning_rate": Setting((0.05, 0.1), float, 1e-4, 1),
        **_features("pca"),
    },
    "mlp": {
        "alpha": Setting((1000.0, 100.0, 10.0)),
        "hidden": Setting((32,), int, 1, 1024),
        **_features("pca"),
    },
}
"""Every classifier's settings, the simpler classifier first. Besides its own there are those of what it is fed:
``weights`` of the blocks (:class:`radtransfer.fusion.blocks.BlockScaler`), ``reduction`` of the columns (``none``,
principal components, or those with the highest ANOVA F between the classes) and to how many ``components``."""

MEANING = (
    "{CLASSIFIER.SETTING: [VALUE, ...]}, e.g. {svm_rbf.C: [1, 10]}; what is not named keeps its values: "
    + "; ".join(
        f"{name}.{key} {', '.join(map(str, setting.tried))}"
        for name, known in CLASSIFIERS.items()
        for key, setting in known.items()
    )
    + ". weights: equal (every backbone's block has the same variance), columns (every column has), signal (blocks by "
    "how well their columns tell the classes apart); reduction: none, pca or anova, to so many components"
)


def read_names(names: Iterable[str]) -> list[str]:
    """The classifiers named, in the order of the table.

    Raises:
        RadtransferError: one is unknown or named twice, or there is none.
    """
    given = list(names)
    for name in given:
        if name not in CLASSIFIERS:
            raise RadtransferError(f"unknown classifier {name!r}; {near(str(name), CLASSIFIERS)}")
    if len(set(given)) != len(given) or not given:
        raise RadtransferError(f"classifiers {given}: name each once, and at least one of {', '.join(CLASSIFIERS)}")
    return [name for name in CLASSIFIERS if name in given]


def read_grid(given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Values to be tried in place of the table's, by ``CLASSIFIER.SETTING``.

    Args:
        given: a list of values for each, or one value.

    Raises:
        RadtransferError: an unknown classifier or setting (with near matches), or a value that does not suit it.
    """
    known = {f"{name}.{key}": setting for name, settings in CLASSIFIERS.items() for key, setting in settings.items()}
    found: dict[str, list[Any]] = {}
    for key, values in given.items():
        name, _, setting = str(key).partition(".")
        if name not in CLASSIFIERS:
            raise RadtransferError(f"{key}: unknown classifier {name!r}; {near(name, CLASSIFIERS)}")
        if key not in known:
            hint = near(setting, CLASSIFIERS[name])
            raise RadtransferError(f"{key}: {name} has no setting {setting!r}; {hint}")
        listed = values if isinstance(values, list) else [values]
        if not listed:
            raise RadtransferError(f"{key}: no value to try; name at least one, or leave it out")
        try:
            found[str(key)] = list(dict.fromkeys(known[key].read(value) for value in listed))
        except ValueError as error:
            raise RadtransferError(f"{key}: {error}") from None
    return found


def space(name: str, grid: Mapping[str, Any], budget: int, seed: int) -> list[Settings]:
    """The settings of a classifier that are tried, in their order.

    Args:
        name: of the classifier.
        grid: see :func:`read_grid`.
        budget: at most so many: of more, the first (the tamest) and a draw without replacement from the rest.
        seed: of that draw.
    """
    changed = read_grid(grid)
    tried = {key: changed.get(f"{name}.{key}", list(setting.tried)) for key, setting in CLASSIFIERS[name].items()}
    found = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
    if len(found) <= budget:
        return found
    drawn = random.Random(seed).sample(range(1, len(found)), budget - 1)  # noqa: S311 not for secrets
    return [found[0], *(found[place] for place in sorted(drawn))]
