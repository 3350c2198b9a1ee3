"""Stand-ins for the library's steps, found by the tasks of a local run through PYTHONPATH.

They write artifacts that are right in form and instant to make, so that the tests of the orchestration (order,
resumption, failure) run the real graph and the real components without training anything. What they did is noted in
the file that FAKE_CALLS names; FAKE_FAIL and FAKE_BUG name a call that raises, FAKE_HANG one that does not return.
"""

import os
import sys
import time
import types
from pathlib import Path

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.problems import policies


def _note(call):
    with Path(os.environ["FAKE_CALLS"]).open("a", encoding="utf-8") as stream:
        stream.write(call + "\n")
    if os.environ.get("FAKE_FAIL") == call:
        raise RadtransferError("image x.png: cannot be decoded; remove it")
    if os.environ.get("FAKE_BUG") == call:
        raise KeyError("a bug")
    if os.environ.get("FAKE_HANG") == call:
        time.sleep(600)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))


def _write(out, kind, step, files=(), **content):
    with artifacts.writing(out, kind, step=step, settings={}) as (folder, said):
        said.update(content)
        if kind == "model":
            heads = "epoch,input_size,train_loss,validation_loss,validation_auroc,learning_rate"
            (folder / "history.csv").write_text(f"{heads}\n1,8,0.7,,0.5,0.001\n")
        for name, value in files:
            artifacts.write_json(folder / name, value)


def _said(table, on_problem):
    """Those of the mappings that say something."""
    return "".join(f" {sorted(given.items())}" for given in (table, on_problem) if given)


def _store(out, role, part, on_problem):
    """A store of four images, from which a data report can be made."""
    import numpy as np

    from radtransfer.preprocess import store

    row = {"body_part": part, "boxes": [], "sha256": "0" * 64, "split": "train", "width": 8, "height": 8}
    rows = []
    for number in range(4):
        name = f"fake/{number}.png"
        own = {"image_id": name, "source_file": name, "group_id": f"image-{number}", "flags": ["colour"] * number}
        rows.append(row | own | {"label": number % 2, "label_name": ("normal", "abnormal")[number % 2]})
    settings = {"on_problem": policies(on_problem)}
    with artifacts.writing(out, "image-store", step="preprocess", settings=settings) as (folder, said):
        store.write(folder, rows, [np.zeros((8, 8), np.uint8)] * 4, 8, [], 4)
        if role == "target":
            (folder / "splits.csv").touch()
        two = {"normal": 2, "abnormal": 2}
        levels = {name: [0.0, 0.5, 1.0] for name in ("mean", "deviation", "black", "saturated")}
        said.update(role=role, part=part, name="fake", layout="l", modality="X-ray", synthetic=True, images=4, size=8)
        said.update(classes={"0": "normal", "1": "abnormal"}, positive_class="abnormal", grouping="near_duplicate")
        said.update(counts={"train": two}, parts={part: two}, groups={"train": 4}, flags={"colour": 3}, notes=[])
        said.update(grey_levels=dict.fromkeys(two, levels), files_found=4, rejected=[])


def _content(path, kind):
    return artifacts.read(path, kind).content


def preflight(*, given, data_root, registry, versions):
    assert versions[0] and data_root and set(given) >= {"name", "backbones", "on_problem", "classifiers"}


def preprocess(
    *, seed, target_part, source_parts, target_table, source_table, on_problem, target_out, source_out, **more
):
    assert isinstance(seed, int) and isinstance(source_parts, list) and isinstance(source_table, dict)
    splits = f" by {more['previous_splits']}" if "#" in more["previous_splits"] else ""
    _note("preprocess" + splits + _said(target_table, on_problem))
    for role, out in (("target", target_out), ("source", source_out)):
        _store(out, role, target_part, on_problem)


def pretrain(*, source_store, backbone, init, out, **_):
    _note(f"pretrain {backbone}")
    _write(out, "model", "pretrain", backbone=backbone, tl_source=None, stage="pretrain", init=init)


def finetune(*, target_store, backbone, tl_source, pretrained, refit, extra_steps, out, **_):
    assert isinstance(refit, bool) and isinstance(extra_steps, int)
    assert (pretrained is not None) == (tl_source == "in_domain")
    _note(f"finetune {tl_source} {backbone}" + (f" and {extra_steps} more steps" if extra_steps else ""))
    _write(out, "model", "finetune", backbone=backbone, tl_source=tl_source, stage="finetune")


def extract(*, store, models, threads, out):
    said = [_content(path, "model") for path in models]
    _note(f"extract {said[0]['tl_source']} {len(said)}")
    _write(out, "features", "extract", tl_source=said[0]["tl_source"])


def fuse(*, features, out):
    source = _content(features, "features")["tl_source"]
    _note(f"fuse {source}")
    _write(out, "fused", "fuse", tl_source=source)


def classify(*, fused, out, **_):
    source = _content(fused, "fused")["tl_source"]
    _note(f"classify {source}")
    _write(out, "classifiers", "classify", tl_source=source)


def stress(*, target_store, classifiers, models, corruptions, seed, threads, out):
    assert isinstance(corruptions, list)
    _note(f"stress {len(models)} {len(classifiers)}")
    _write(out, "stress", "stress", corruptions={})


def evaluate(*, target_store, classifiers, stress, bootstrap, prevalence, seed, out):
    _note("evaluate")
    assert _content(stress, "stress") == {"corruptions": {}}
    sources = [_content(path, "classifiers")["tl_source"] for path in classifiers]
    figure = {"value": 0.8, "low": 0.7, "high": 0.9}
    names = ("auroc", "kappa", "accuracy", "f1", "sensitivity", "specificity", "ece", "auprc", "brier", "ppv", "npv")
    names += ("calibration_slope",)
    rows = [
        {
            "id": f"{s}/fused/seed0",
            "tl_source": s,
            "features": "fused",
            "classifier": "svm_rbf",
            "selected": s == "imagenet",
        }
        | dict.fromkeys(names, figure)
        for s in sources
    ]
    choices = {s: dict.fromkeys(("fused", "single", "overall"), f"{s}/fused/seed0") for s in sources}
    curves = {
        "imagenet/fused/seed0": {
            "roc": {"fpr": [0, 0.5, 1], "tpr": [0, 1, 1], "thresholds": [0.9, 0.5, 0.1]},
            "confusion": {"tp": 1, "fn": 0, "tn": 2, "fp": 1},
        }
    }
    files = [("metrics.json", {"positive_class": "abnormal", "results": rows}), ("curves.json", curves)]
    answer = {"winner": None, "text": "No source is better than another.", "significant": False}
    _write(out, "evaluation", "evaluate", files, choices=choices, answer=answer, selected="imagenet/fused/seed0")


def explain(*, models, classifiers, images_per_outcome, out, **_):
    _note(f"explain {len(models)} {len(classifiers)}")
    _write(out, "explanations", "explain", images=images_per_outcome)


def external(*, external, models, classifiers, out, **_):
    _note(f"external {len(models)} {len(classifiers)}" + (f" {sorted(external.items())}" if external else ""))
    files = [("metrics.json", {}), ("external.html", "unseen")] if external else []
    _write(out, "external", "external", files, name=external.get("path", ""))


def register(*, name, models, pretrained, config, registry, out, **_):
    said = f"{config['backbones']!r} {config['seed']!r} {config['learning_rate']!r}"
    assert "pretrained_models" not in config
    _note(f"register {len(models)} {len(pretrained)} {registry!r} {said}")
    _write(out, "bundle", "register", name=name)


def report(*, config, models, pretrained, html_out, markdown_out, **_):
    said = f"{config['backbones']!r} {config['seed']!r} {config['learning_rate']!r}"
    _note(f"report {len(models)} {len(pretrained)} {said}" + _said(config["target_table"], config["on_problem"]))
    html_out.write_text("<!doctype html>report", encoding="utf-8")
    markdown_out.write_text("report", encoding="utf-8")


def resolve(*, config, data_root, registry, margin, floor):
    assert registry and config["name"] and (margin, floor) == (0.02, 0.6)
    return types.SimpleNamespace(data_root=f"{data_root}#1", previous_splits="m#n@1", changed=True, why="new data")


def drift(*, name, registry, target_store, threads, out):
    _note("drift")
    _write(out, "drift", "drift", [("drift.html", "how they drift")], name=name)


def gate(*, registry, challenger, test_store, rules, threads, out):
    assert registry and threads and _content(test_store, "image-store")["role"] == "target"
    _note(f"gate {rules.margin:g} {rules.floor:g}")
    name, outcome = _content(Path(challenger), "bundle")["name"], os.environ.get("FAKE_OUTCOME", "promoted")
    said = {"name": name, "outcome": outcome, "why": "so it seems", "challenger": {"version": 2}}
    _write(out, "decision", "gate", **said)


def notify(*, event, model, why, run, decision):
    assert why and bool(decision) == (event != "unchanged")
    _note(f"notify {event} {model} {run}")


def check_backbones(names):
    if "nope" in names:
        raise RadtransferError("unknown backbone 'nope'")


def check_available(names, mirror):
    del names, mirror


def pace(*_):
    return types.SimpleNamespace(training=lambda epochs, images, held_out: epochs * images + held_out, forward=1.0)


if "FAKE_CALLS" in os.environ:
    for where, functions in {
        "radtransfer.preprocess.run": [preprocess],
        "radtransfer.training.steps": [pretrain, finetune],
        "radtransfer.training.network": [check_backbones],
        "radtransfer.training.weights": [check_available],
        "radtransfer.training.pace": [pace],
        "radtransfer.fusion.extract": [extract],
        "radtransfer.fusion.fuse": [fuse],
        "radtransfer.fusion.classify": [classify],
        "radtransfer.robustness.stress": [stress],
        "radtransfer.evaluation.evaluate": [evaluate],
        "radtransfer.explain.run": [explain],
        "radtransfer.evaluation.external": [external],
        "radtransfer.registry.bundle": [register],
        "radtransfer.evaluation.report": [report],
        "radtransfer.registry.drift": [drift],
        "radtransfer.registry.gate": [gate],
    }.items():
        module = types.ModuleType(where)
        for function in functions:
            setattr(module, function.__name__, function)
        sys.modules[where] = module
