"""How the report says things: names, figures with their intervals, p-values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from radtransfer.evaluation.charts import number
from radtransfer.evaluation.compare import at_floor
from radtransfer.evaluation.report_run import Row, Run

SOURCE_NAMES = {"in_domain": "In-domain", "imagenet": "ImageNet", "scratch": "From scratch", "shortcut": "Shortcut"}
METRIC_NAMES = {
    "auroc": "AUROC",
    "accuracy": "Accuracy",
    "f1": "F1",
    "kappa": "Cohen\u2019s \u03ba",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ece": "ECE",
    "auprc": "AUPRC",
    "brier": "Brier",
    "ppv": "PPV",
    "npv": "NPV",
    "calibration_slope": "Calibration slope",
}
CLASSIFIER_NAMES = {
    "head": "network\u2019s own head",
    "logistic_regression": "logistic regression",
    "svm_linear": "linear SVM",
    "svm_rbf": "RBF SVM",
    "knn": "k-nearest neighbours",
    "random_forest": "random forest",
    "gradient_boosting": "gradient boosting",
    "lda": "linear discriminant analysis",
    "mlp": "multilayer perceptron",
    "stacking": "stacked heads",
    "majority": "majority class",
}
FAMILY_NAMES = {
    "tl_source": "Between transfer-learning sources: the fused choice of each",
    "fusion": "Within a source: fused features against the best single network",
    "block": "What each backbone adds: the fused choice against the same without it",
    "shortcut": "The selected model against the shortcuts",
    "robustness": "Under graded corruption of the test images: AUROC, mean over kinds and grades",
    "lesion": "The selected model with its lesions hidden, against as much hidden elsewhere",
}
MAP_NAMES = SOURCE_NAMES | {"centre": "Centre (blind)"}
METHOD_NAMES = {"gradcam": "Grad-CAM", "lime": "LIME", "random": "Random order"}
MEASURE_NAMES = {"energy": "energy in box", "pointing": "peak in box", "gain": "gain"}
SHORTCUT_NAMES = {
    "majority_class": "majority class",
    "grey_level_histogram": "grey-level histogram",
    "image_metadata": "size and kind of the files",
}
OUTCOMES = {"TP": "found", "FN": "missed", "FP": "false alarm", "TN": "correctly cleared"}
SIGNIFICANCE = 0.05
SURVIVES = 0.5
"""Mean rank correlation of maps with those of random weights from which on they are flagged."""
STEADY = 0.7
"""Spearman correlation of two draws of LIME, below which its maps are called unsteady: a convention, no test."""
SYNTHETIC = "Synthetic images: shows that the pipeline works, says nothing about patients"
RESEARCH_USE = "For research use. Not a medical device."


def explained_as(method: str, fidelity: float, empty: bool) -> str:
    """The name of a map with its fidelity (LIME's R²), unless it is exact, and whether nothing is on it."""
    name = METHOD_NAMES.get(method, method)
    if method == "lime":
        name += f", R² {number(fidelity, 2)}"
    elif fidelity < 1:
        name += f", fidelity {number(fidelity, 2)}"
    return f"{name}, empty" if empty else name


def estimate(value: Row) -> str:
    """A figure with its 95 % interval, e.g. ``.861 (.81-.91)`` with an en dash."""
    if value["low"] is None or value["high"] is None:
        return number(value["value"])
    return f"{number(value['value'])} ({number(value['low'], 2)}\u2013{number(value['high'], 2)})"


def difference(row: Row) -> str:
    """A signed difference with its interval, e.g. ``+.021 (-.01 to .05)``."""
    plus = "+" if row["difference"] is not None and float(f"{row['difference']:.3f}") > 0 else ""
    text = plus + number(row["difference"])
    if row["low"] is None or row["high"] is None:
        return text
    return f"{text} ({number(row['low'], 3)} to {number(row['high'], 3)})"


def signed(value: Row) -> str:
    """A figure that may be negative, with its interval, e.g. ``+.021 (-.01 to .05)``."""
    return difference(value | {"difference": value["value"]})


def lesion_findings(lesions: Sequence[Row], comparisons: Sequence[Row]) -> list[str]:
    """Whether in-domain maps meet lesions more than ImageNet's, and which sources' maps are not to be trusted.

    Those are maps that do no better than a blind one, or stay alike when the weights are put in a random order.
    """
    found = []
    for one in (one for one in comparisons if one["adjusted_p"] is not None):
        shown = one["adjusted_p"] < SIGNIFICANCE
        if one["b"] == "imagenet":
            found.append(
                f"{MAP_NAMES[one['a']]} less {MAP_NAMES[one['b']]}, {MEASURE_NAMES[one['metric']]}: {difference(one)}, "
                f"p {number(one['adjusted_p'])} after Holm: {'shown' if shown else 'not shown'}."
            )
        elif one["b"] == "centre" and one["metric"] == "pointing" and not (shown and one["difference"] > 0):
            found.append(
                f"{MAP_NAMES[one['a']]}: its peaks are not shown to lie on lesions more often than the middle of the "
                "image does."
            )
    for row in lesions:
        survives = row["survives"] and row["survives"]["value"]
        if survives is not None and survives >= SURVIVES:
            found.append(
                f"{MAP_NAMES[row['tl_source']]}: its maps stay much the same with random weights (rank correlation "
                f"{number(survives, 2)}): they show the images, and explain nothing of what was learnt."
            )
    return found


def quality_findings(quality: Row) -> list[str]:
    """What measured explanations show: whether the score hangs on them, which is better, the border, LIME's draw."""
    found = []
    for one in quality["comparisons"]:
        (source, method), (other, reference) = one["a"].split("/"), one["b"].split("/")
        name = f"{SOURCE_NAMES[source]}, {METHOD_NAMES[method]}"
        corrected = "" if one["adjusted_p"] is None else f", p {number(one['adjusted_p'])} after Holm"
        told = f"{difference(one)}{corrected}: {verdict(one)}"
        if reference == "random":
            what = "whether" if one["adjusted_p"] is None else "that"
            way = "less" if shown(one) and one["difference"] < 0 else "more"
            found.append(
                f"{name}: gain over a random order {told} {what} places that it marks matter {way} to the score than "
                "random ones."
            )
        elif shown(one) or (source, other, one["metric"]) == ("in_domain", "imagenet", "gain"):
            less_than = SOURCE_NAMES[other] if source != other else METHOD_NAMES[reference]
            found.append(f"{name} less {less_than}, {MEASURE_NAMES[one['metric']]}: {told}.")
    for row in (row for row in quality["rows"] if row["method"] != "random"):
        name, border = f"{SOURCE_NAMES[row['tl_source']]}, {METHOD_NAMES[row['method']]}", row["border"]
        if border["low"] is not None and border["low"] > row["border_chance"]:
            found.append(
                f"{name}: {estimate(border)} of the map lies on the border of the image, by chance "
                f"{number(row['border_chance'])}: look whether a marker, a frame or the padding tells the classes."
            )
        steady = row["stability"]["value"]
        if steady is not None and steady < STEADY:
            found.append(
                f"{name}: another draw of perturbations orders the superpixels otherwise (Spearman "
                f"{number(steady, 2)}); raise lime_samples before reading a single map."
            )
    return found + [
        f"{SOURCE_NAMES[one['a']]} and {SOURCE_NAMES[one['b']]}: Spearman correlation of their Grad-CAM, over tiles of "
        f"the image, {signed(one['agreement'])}, {one['n']} images."
        for one in quality["between"]
    ]


def p_value(row: Row, name: str, bootstrap: int) -> str:
    """A p-value of a comparison (``p_value`` or ``adjusted_p``), e.g. ``.034``.

    ``\u2264 .018`` where it is as small as so many replicates of the bootstrap can make it, and may be smaller.
    """
    value = row[name]
    if value is None:
        return "\u2014"
    figure = number(value, 3 if value < 0.1 else 2)
    return f"\u2264 {figure}" if at_floor(row["p_value"], bootstrap) else figure


def shown(row: Row) -> bool:
    """Whether a comparison shows a difference, after correction for the size of its family."""
    return row["adjusted_p"] is not None and row["adjusted_p"] < SIGNIFICANCE


def verdict(row: Row) -> str:
    """``shown``, ``not shown``, or ``no verdict`` where there is no p-value."""
    if row["adjusted_p"] is None:
        return "no verdict"
    return "shown" if shown(row) else "not shown"


def duration(seconds: float) -> str:
    """Wall time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def features_name(row: Row) -> str:
    """``Fused features``, the backbone, or the shortcut."""
    name = str(row["features"])
    if name.startswith("fused"):
        return f"Fused features{name.removeprefix('fused')}"
    return SHORTCUT_NAMES.get(name, name)


def classifier_name(row: Row) -> str:
    """The classifier in words."""
    if row["features"].startswith("fused") and row["classifier"] == "head":
        return "mean of the networks\u2019 heads"
    return CLASSIFIER_NAMES.get(row["classifier"], str(row["classifier"]).replace("_", " "))


def model_name(row: Row) -> str:
    """Source, features and classifier of a row."""
    if row["tl_source"] == "shortcut":
        return features_name(row)
    return f"{SOURCE_NAMES[row['tl_source']]}, {features_name(row).lower()}, {classifier_name(row)}"


_USUAL = (("label_fraction", 1.0), ("subgroup", "all"), ("corruption", "none"), ("level", "image"), ("pooling", "none"))


def particulars(row: Row) -> str:
    """What sets a row apart from the ordinary test of the whole test set; empty if nothing does."""
    seen = [f"{key.replace('_', ' ')} {row[key]}" for key, usual in _USUAL if row.get(key, usual) != usual]
    return ", ".join(seen)


def by_attribute(subgroups: Iterable[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each attribute with its subgroups: their names (``view=frontal``) and values (``frontal``)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in subgroups:
        attribute, _, value = name.partition("=")
        found.setdefault(attribute, []).append((name, value))
    return list(found.items())


def contrast(run: Run, row: Row) -> str:
    """What a comparison subtracts from what, in few words."""
    a, b = run.rows[row["a"]], run.rows[row["b"]]
    if row["family"] == "tl_source":
        return f"{SOURCE_NAMES[a['tl_source']]} \u2212 {SOURCE_NAMES[b['tl_source']]}"
    if row["family"] == "fusion":
        return f"{SOURCE_NAMES[a['tl_source']]}: fused \u2212 single network"
    if row["family"] == "block":
        return f"{SOURCE_NAMES[a['tl_source']]}: fused \u2212 {b['features']}"
    if row["family"] == "robustness":
        first, second = SOURCE_NAMES[a["tl_source"]], SOURCE_NAMES[b["tl_source"]]
        apart = f"{first}: fused \u2212 single network" if first == second else f"{first} \u2212 {second}"
        return f"{apart}, corrupted"
    if row["family"] == "lesion":
        return "Selected: as much hidden elsewhere \u2212 lesions hidden"
    name = "Selected" if a["selected"] else model_name(a)
    return f"{name} \u2212 {model_name(b)}"
