"""The components: thin, called by the library's own names, and particular about what they are handed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kfp import dsl

import radtransfer_components
from radtransfer.artifacts import write_json
from radtransfer.evaluation.metrics import METRICS
from radtransfer_components import support
from radtransfer_pipelines.resources import RESOURCES

FOLDER = Path(str(radtransfer_components.__file__)).parent
LIBRARY = {
    "preflight": "radtransfer.preflight",
    "preprocess": "radtransfer.preprocess.run",
    "pretrain": "radtransfer.training.steps",
    "finetune": "radtransfer.training.steps",
    "extract": "radtransfer.fusion.extract",
    "fuse": "radtransfer.fusion.fuse",
    "classify": "radtransfer.fusion.classify",
    "evaluate": "radtransfer.evaluation.evaluate",
    "stress": "radtransfer.robustness.stress",
    "explain": "radtransfer.explain.run",
    "external": "radtransfer.evaluation.external",
    "register": "radtransfer.registry.bundle",
    "report": "radtransfer.evaluation.report",
    "resolve": "radtransfer.registry.resolve",
    "drift": "radtransfer.registry.drift",
    "gate": "radtransfer.registry.gate",
    "notify": "radtransfer.registry.notify",
}
SOURCES = ("scratch", "imagenet", "in_domain")
SEARCH = {"tried": ["knn"], "classifier_grid": {"knn.n_neighbors": [3.0]}, "classifier_budget": 4, "cv_folds": 2}
SEARCH |= {"cv_repeats": 0, "calibration": "platt", "threshold_rule": "cost=5"}
CONFIG = {"name": "n", "target_layout": "l", "target_path": "t", "target_part": "p", "source_layout": "l"}
CONFIG |= {"source_path": "s", "seed": "3", "learning_rate": "5e-04", "batch_size": "16.0"}  # as KFP hands them on
NESTED = {"backbones": ["b"], "source_parts": [], "target_table": {}, "source_table": {}, "on_problem": {}}
NESTED |= {"ct_window": [], "test_fold": [1.0, 5.0], "tried": SEARCH["tried"], "external": {}}
NESTED |= {"classifier_grid": SEARCH["classifier_grid"], "corruptions": ["blur"]}


def component(step: str) -> Callable[..., None]:
    module = importlib.import_module(f"radtransfer_components.{step}")
    function: Callable[..., None] = getattr(module, step).python_func
    return function


@pytest.fixture(scope="module")
def fakes() -> ModuleType:
    path = Path(__file__).parents[1] / "pipelines" / "fakes" / "sitecustomize.py"
    spec = importlib.util.spec_from_file_location("library_fakes", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Any]:
    def artifact(kind: type[dsl.Artifact], name: str) -> dsl.Artifact:
        return kind(name=name, uri=str(tmp_path / name))

    return artifact


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, fakes: ModuleType, tmp_path: Path) -> list[str]:
    """Every step replaced by its stand-in, which must be called just as the real one can be."""
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    called: list[str] = []
    for step, where in LIBRARY.items():
        module = importlib.import_module(where)
        signature = inspect.signature(getattr(module, step))

        def stand_in(step: str = step, signature: inspect.Signature = signature, **keywords: Any) -> Any:
            bound = signature.bind(**keywords)
            assert set(bound.arguments) == set(signature.parameters), "every argument is given, none by its default"
            for name, parameter in signature.parameters.items():
                if parameter.annotation in ("Path", Path):
                    assert isinstance(bound.arguments[name], Path), name
            called.append(step)
            return getattr(fakes, step)(**keywords)

        monkeypatch.setattr(module, step, stand_in)
    return called


def test_each_step_has_one_thin_component() -> None:
    files = {path.stem: path for path in FOLDER.glob("*.py") if path.stem not in {"__init__", "support"}}
    assert set(files) == set(LIBRARY) == set(RESOURCES)
    for step, path in files.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60, step
        function = component(step)
        assert function.__doc__ and "code_version" in inspect.signature(function).parameters


def test_components_hand_on_what_they_were_given(
    library: list[str], make: Callable[..., Any], tmp_path: Path, fakes: ModuleType
) -> None:
    """The whole chain by hand, with one backbone."""
    recipe = {"batch_size": "2", "learning_rate": 1e-3, "weight_decay": 0.0, "input_size": 0.0, "layer_decay": 1.0}
    recipe |= {"freeze_epochs": 0, "patience": 0, "weights_mirror": "", "seed": "3", "threads": 1, "checkpoints": ""}
    recipe |= {"checkpoint_minutes": 5}
    recipe |= {"precision": "bfloat16", "mirror": "false"}
    trained = {"recipe": recipe, "epochs": 1, "code_version": ""}
    target, source = make(dsl.Dataset, "target"), make(dsl.Dataset, "source")
    page, number = make(dsl.HTML, "data"), make(dsl.Artifact, "source-images")
    component("preprocess")(
        data_root="d", target_layout="l", target_path="t", target_part="<hand>", target_table={}, source_layout="l",
        source_path="s", source_parts=[], source_table={}, image_size=64, test_fraction=0.2, validation_fraction=0.2,
        label_fraction=1.0, max_images=0, on_problem={}, previous_splits="", test_fold=[], ct_window=[],
        crop_border=True, seed=3, data_version="", code_version="", target_store=target, source_store=source,
        data_report=page, source_images=number,
    )  # fmt: skip
    assert Path(number.path).read_text() == "4"
    assert target.metadata["role"] == "target" and len(target.metadata["digest"]) == 64
    assert "&lt;hand&gt;" in Path(page.path).read_text() and "<hand>" not in Path(page.path).read_text()
    related, curves = make(dsl.Model, "related"), make(dsl.Metrics, "curves of training")
    trained["curves"] = curves
    component("pretrain")(
        source_store=source, backbone="b", init="imagenet", task="both", boxes=True, pretrained_models="",
        model=related, **trained,
    )  # fmt: skip
    logged = {"epoch_001_train_loss": 0.7, "epoch_001_validation_auroc": 0.5, "epoch_001_learning_rate": 0.001}
    assert curves.metadata == logged, "what is not known is left out"
    models, classifiers = {}, {}
    for tl_source in SOURCES:
        model = make(dsl.Model, f"model-{tl_source}")
        given = {"pretrained": related} if tl_source == "in_domain" else {}
        component("finetune")(
            target_store=target, backbone="b", tl_source=tl_source, refit=True, model=model, equal_steps=True,
            pretrain_epochs=3, source_images=number, pretrained_models="", **given, **trained
        )  # fmt: skip
        assert model.metadata["tl_source"] == tl_source
        features, fused = make(dsl.Artifact, f"features-{tl_source}"), make(dsl.Artifact, f"fused-{tl_source}")
        said = {"tl_source": tl_source, "code_version": ""}
        component("extract")(store=target, models=[model], backbones=["b"], threads=1, features=features, **said)
        component("fuse")(features=features, fused=fused, **said)
        fitted = make(dsl.Artifact, f"classifiers-{tl_source}")
        component("classify")(fused=fused, seed=3, classifiers=fitted, **SEARCH, **said)
        models[f"models_{tl_source}"], classifiers[f"classifiers_{tl_source}"] = [model], fitted
    evaluation, scalars = make(dsl.Artifact, "evaluation"), make(dsl.Metrics, "scalars")
    curves = make(dsl.ClassificationMetrics, "curves")
    shown = {"evaluation": evaluation, "scalars": scalars, "curves": curves}
    changed = make(dsl.Artifact, "stress")
    component("stress")(
        target_store=target, corruptions=["blur"], seed=3, threads=1, code_version="", stress_scores=changed,
        **models, **classifiers,
    )  # fmt: skip
    component("evaluate")(
        target_store=target,
        stress_scores=changed,
        bootstrap=100,
        prevalence=0.0,
        seed=3,
        code_version="",
        **classifiers,
        **shown,
    )
    assert scalars.metadata["auroc"] == 0.8
    explanations, bundle = make(dsl.Artifact, "explanations"), make(dsl.Model, "bundle")
    shared = {"target_store": target, "evaluation": evaluation, "code_version": ""} | models
    component("explain")(
        images_per_outcome=1,
        lime_samples=10,
        quality_images=2,
        seed=3,
        threads=1,
        explanations=explanations,
        **shared,
        **classifiers,
    )
    for asked, said in (({}, "No external data set was named"), ({"path": "x"}, "unseen")):
        unseen, shown_page = make(dsl.Artifact, f"unseen{len(asked)}"), make(dsl.HTML, f"page{len(asked)}")
        component("external")(
            name="n", data_root="d", external=asked, bootstrap=100, seed=3, threads=1, data_version="", unseen=unseen,
            html=shown_page, **shared, **classifiers,
        )  # fmt: skip
        assert said in Path(shown_page.path).read_text() and unseen.metadata["name"] == asked.get("path", "")
    nested = NESTED | {"pretrained": [related]}
    component("register")(
        name="n", config=CONFIG | {"pretrained_models": "elsewhere"}, registry="", bundle=bundle, **nested,
        **shared, **classifiers,
    )  # fmt: skip
    html, summary = make(dsl.HTML, "html"), make(dsl.Markdown, "summary")
    component("report")(
        config=CONFIG, source_store=source, explanations=explanations, bundle=bundle, html=html, summary=summary,
        **nested, **shared,
    )  # fmt: skip
    assert library == ["preprocess", "pretrain"] + ["finetune", "extract", "fuse", "classify"] * 3 + [
        "stress", "evaluate", "explain", "external", "external", "register", "report"
    ]  # fmt: skip
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1] == "report 3 1 ['b'] 3 0.0005"
    assert calls[-2] == "register 3 1 '' ['b'] 3 0.0005", "with the same configuration, and no path of a machine"


def test_components_of_a_retraining_hand_on_what_they_were_given(
    library: list[str], make: Callable[..., Any], tmp_path: Path, fakes: ModuleType
) -> None:
    target, bundle = make(dsl.Dataset, "target"), make(dsl.Model, "bundle")
    fakes._store(Path(target.path), "target", "hand", {})
    fakes._write(Path(bundle.path), "bundle", "register", name="n")
    pinned, splits = tmp_path / "pinned", tmp_path / "splits"
    rules = {"registry": "m", "margin": 0.02, "floor": 0.6, "code_version": ""}
    assert component("resolve")(
        config=CONFIG, data_root="d", pinned=str(pinned), splits=str(splits), **NESTED, **rules
    )  # fmt: skip
    assert (pinned.read_text(), splits.read_text()) == ("d#1", "m#n@1")
    drifted, page = make(dsl.Artifact, "drift"), make(dsl.HTML, "drift page")
    component("drift")(
        name="n", target_store=target, registry="m", threads=1, code_version="", drift=drifted, html=page
    )  # fmt: skip
    assert "how they drift" in Path(page.path).read_text()
    decision = make(dsl.Artifact, "decision")
    component("gate")(bundle=bundle, target_store=target, threads=1, decision=decision, **rules)
    assert decision.metadata["outcome"] == "promoted"
    component("notify")(name="n", run="r", code_version="", decision=decision)
    component("notify")(name="n", run="r", code_version="")
    assert (tmp_path / "calls").read_text().splitlines()[-2:] == ["notify promoted n r", "notify unchanged n r"]
    assert library == ["resolve", "drift", "gate", "notify", "notify"]


@pytest.mark.parametrize(
    ("handed", "message"),
    [
        ({"backbone": "other"}, "for each of ['b'] with {'tl_source': 'imagenet'}, got ['other']"),
        ({"tl_source": "scratch"}, "tl_source='imagenet' but was handed 'scratch'"),
    ],
)
def test_wrong_artifact_from_a_loop_is_refused(
    library: list[str],
    make: Callable[..., Any],
    fakes: ModuleType,
    handed: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make(dsl.Model, "model")
    said = {"backbone": "b", "tl_source": "imagenet", "stage": "finetune"} | handed
    fakes._write(Path(model.path), "model", "finetune", **said)
    with pytest.raises(SystemExit) as stop:
        component("extract")(
            store=make(dsl.Dataset, "store"), models=[model], backbones=["b"], tl_source="imagenet", threads=1,
            code_version="", features=make(dsl.Artifact, "features"),
        )  # fmt: skip
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert library == []


def test_missing_and_doubled_models_are_refused(
    library: list[str], make: Callable[..., Any], fakes: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    models = []
    for name, backbone in (("m1", "a"), ("m2", "a")):
        item = make(dsl.Model, name)
        fakes._write(Path(item.path), "model", "finetune", backbone=backbone, tl_source="imagenet")
        models.append(item)
    with pytest.raises(SystemExit):
        component("extract")(
            store=make(dsl.Dataset, "store"), models=models, backbones=["a", "b"], tl_source="imagenet", threads=1,
            code_version="", features=make(dsl.Artifact, "features"),
        )  # fmt: skip
    assert "['a', 'b']" in capsys.readouterr().err and library == []


def test_task_of_another_code_version_is_refused(library: list[str], make: Callable[..., Any]) -> None:
    with pytest.raises(SystemExit):
        component("classify")(
            fused=make(dsl.Artifact, "fused"), tl_source="imagenet", seed=0, **SEARCH,
            code_version="0.0.1+old/graph", classifiers=make(dsl.Artifact, "classifiers"),
        )  # fmt: skip
    assert library == []


def test_preflight_gets_the_whole_configuration(library: list[str]) -> None:
    component("preflight")(config=CONFIG, data_root="d", registry="", package_version="0", code_version="", **NESTED)
    assert library == ["preflight"]


def test_an_image_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radtransfer_components", None)
    with pytest.raises(SystemExit, match=r"does not hold the package .*build it by `make image`"):
        component("preflight")(
            config=CONFIG, data_root="d", registry="", package_version="0", code_version="", **NESTED
        )


def test_metrics_that_the_ui_cannot_take_are_left_out(tmp_path: Path) -> None:
    row: dict[str, Any] = {"id": "r", "selected": True} | {name: {"value": 0.5} for name in METRICS}
    row["kappa"] = {"value": None}
    write_json(tmp_path / "metrics.json", {"positive_class": "fractured", "results": [row]})
    drawn = {"roc": {"fpr": [0, 0, 1], "tpr": [0, 1, 1]}, "confusion": {"tp": 4, "fn": 1, "tn": 7, "fp": 2}}
    drawn["roc"]["thresholds"] = [0.95, 0.7, 0.1]  # type: ignore[index]
    (tmp_path / "curves.json").write_text(json.dumps({"r": drawn}))
    scalars = dsl.Metrics(name="scalars", uri=str(tmp_path / "scalars"))
    curves = dsl.ClassificationMetrics(name="curves", uri=str(tmp_path / "curves"))
    support.show_metrics(tmp_path, scalars, curves)
    assert "kappa" not in scalars.metadata and scalars.metadata["f1"] == 0.5
    json.dumps([scalars.metadata, curves.metadata], allow_nan=False)
    points = curves.metadata["confidenceMetrics"]
    assert [point["confidenceThreshold"] for point in points] == [0.95, 0.7, 0.1]
    matrix = curves.metadata["confusionMatrix"]
    assert [cell["row"] for cell in matrix["rows"]] == [[7, 2], [1, 4]]
