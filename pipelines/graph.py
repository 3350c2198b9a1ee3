"""The graph that all pipelines share.

``preflight``, ``preprocess``; for each transfer-learning source a loop over the backbones with (``pretrain`` and)
``finetune``, then ``extract``, ``fuse`` and ``classify``; on all of it ``stress``, ``evaluate``, ``explain``,
``register``, ``report`` and ``external``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_origin

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from radtransfer import __version__
from radtransfer.config import TL_SOURCES, RunConfig
from radtransfer_components import (
    classify,
    evaluate,
    explain,
    external,
    extract,
    finetune,
    fuse,
    preflight,
    preprocess,
    pretrain,
    register,
    report,
    stress,
)
from radtransfer_components.support import IMAGE
from radtransfer_pipelines import NOT_PARAMETERS
from radtransfer_pipelines.resources import DATA_ROOT, PARAMETERS, Target, settle

SUBMISSION = {
    "data_root": (
        str,
        DATA_ROOT,
        "folder of the mounted data volume under which the data sets lie; or s3://BUCKET/PREFIX, or "
        "dvc+REPOSITORY@REVISION:PATH of one",
    ),
    "data_version": (str, "", "version of the data, noted with the run; locally a new value makes preprocess run anew"),
    "code_version": (str, "", "version of the code; a new value makes every task run anew; empty: the image's own"),
    "registry": (
        str,
        "",
        "model registry: a folder, on a cluster under /data, or s3://BUCKET/PREFIX; empty: make the bundle only",
    ),
}


Known = dict[str, tuple[type, Any, str]]
"""Type, default and description of parameters."""
Graph = Callable[[Mapping[str, Any], str, str, Target], object]
"""What makes the tasks: of the parameters, the name of the pipeline, the image and where it is to run."""


def parameters(defaults: Mapping[str, Any], target: Target) -> Known:
    """Every parameter of a run: the configuration's, the submission's, the cluster's.

    Args:
        defaults: values that replace those of :class:`RunConfig`, or stand where it has none.
        target: where the pipeline is to run.
    """
    found: Known = {}
    for name, field in RunConfig.model_fields.items():
        if name not in NOT_PARAMETERS:
            default = defaults[name] if name in defaults else field.get_default()
            kind = list if get_origin(field.annotation) is list else type(default)
            found[name] = (kind, default, str(field.description))
    return found | SUBMISSION | (PARAMETERS if target == "cluster" else {})


def configured(p: Mapping[str, Any], pipeline: str) -> dict[str, Any]:
    """The arguments by which a component gets the whole configuration."""
    # None of these can stand inside a dictionary: kfp.local 2.17 puts them there without regard to JSON's quotes.
    nested = ("backbones", "source_parts", "target_table", "source_table", "on_problem", "ct_window", "test_fold")
    nested += ("classifier_grid", "external", "corruptions")
    apart = (*nested, "classifiers")
    scalars = [name for name in RunConfig.model_fields if name not in NOT_PARAMETERS and name not in apart]
    config = {name: p[name] for name in scalars} | {"pipeline": pipeline}
    return {"config": config, "tried": p["classifiers"], **{name: p[name] for name in nested}}


def run_graph(p: Mapping[str, Any], pipeline: str, image: str, target: Target) -> tuple[dict[str, Any], Any]:
    """The tasks of a run.

    Args:
        p: the parameters, by name.
        pipeline: what its configuration calls it.
        image, target: as of :func:`build`.

    Returns:
        The artifacts that a task after it may take, ``target_store`` and ``bundle``; and the last of the tasks.
    """

    def take(*names: str, **more: Any) -> dict[str, Any]:
        return {name: p[name] for name in names} | more | {"code_version": p["code_version"]}

    def placed(task: Any, step: str, *, looped: bool = False) -> Any:
        return settle(task, step, image=image, target=target, given=p, looped=looped)

    data = ["data_root", "target_layout", "target_path", "target_part", "target_table"]
    data += ["source_layout", "source_path", "source_parts", "source_table"]
    data += ["image_size", "ct_window", "crop_border", "on_problem", "max_images"]
    data += ["test_fraction", "test_fold", "validation_fraction", "label_fraction", "previous_splits", "seed"]
    data += ["data_version"]
    recipe = ["batch_size", "learning_rate", "weight_decay", "layer_decay", "freeze_epochs", "patience", "input_size"]
    recipe += ["weights_mirror", "mirror", "seed", "threads", "precision", "checkpoints", "checkpoint_minutes"]
    config = configured(p, pipeline)
    looked = preflight.preflight(package_version=__version__, **config, **take("data_root", "registry"))
    first = preprocess.preprocess(**take(*data))
    first.after(placed(looked, "preflight"))  # and all others take what it gives
    stores = placed(first, "preprocess")
    target_store, source_store = stores.outputs["target_store"], stores.outputs["source_store"]

    models, classifiers = {}, {}
    for tl_source in TL_SOURCES:
        # One loop a source, written out: nested loops hand the wrong items on under kfp.local 2.17.
        with dsl.ParallelFor(items=p["backbones"], name=f"backbones-{tl_source.replace('_', '-')}") as backbone:
            given = {}
            if tl_source == "in_domain":
                related = pretrain.pretrain(
                    source_store=source_store,
                    backbone=backbone,
                    init=p["in_domain_init"],
                    task=p["pretrain_task"],
                    boxes=p["pretrain_boxes"],
                    epochs=p["pretrain_epochs"],
                    recipe={name: p[name] for name in recipe},
                    **take("pretrained_models"),
                )
                given["pretrained"] = placed(related, "pretrain", looped=True).outputs["model"]
            tuned = finetune.finetune(
                target_store=target_store,
                backbone=backbone,
                tl_source=tl_source,
                epochs=p["finetune_epochs"],
                recipe={name: p[name] for name in recipe},
                # An artifact: kfp.local 2.17 hands a task's output parameter into a loop as the loop's item.
                source_images=stores.outputs["source_images"],
                **take("refit", "equal_steps", "pretrain_epochs", "pretrained_models"),
                **given,
            )
            model = placed(tuned, "finetune", looped=True).outputs["model"]
        features = extract.extract(
            store=target_store, models=dsl.Collected(model), tl_source=tl_source, **take("backbones", "threads")
        )
        features = placed(features, "extract").outputs["features"]
        fused = placed(fuse.fuse(features=features, tl_source=tl_source, **take()), "fuse").outputs["fused"]
        fitted = classify.classify(
            fused=fused,
            tl_source=tl_source,
            tried=p["classifiers"],
            **take(
                "classifier_grid",
                "classifier_budget",
                "cv_folds",
                "cv_repeats",
                "calibration",
                "threshold_rule",
                "seed",
            ),
        )
        classifiers[f"classifiers_{tl_source}"] = placed(fitted, "classify").outputs["classifiers"]
        models[f"models_{tl_source}"] = model

    def collected() -> dict[str, Any]:
        return {name: dsl.Collected(model) for name, model in models.items()}  # KFP changes it: one for each consumer

    stressed = stress.stress(
        target_store=target_store, **collected(), **classifiers, **take("corruptions", "seed", "threads")
    )
    measured = evaluate.evaluate(
        target_store=target_store,
        stress_scores=placed(stressed, "stress").outputs["stress_scores"],
        **classifiers,
        **take("bootstrap", "prevalence", "seed"),
    )
    evaluation = placed(measured, "evaluate").outputs["evaluation"]
    shared = {"target_store": target_store, "evaluation": evaluation}
    explained = explain.explain(
        images_per_outcome=p["explain_images"],
        **shared,
        **collected(),
        **classifiers,
        **take("lime_samples", "quality_images", "seed", "threads"),
    )
    explanations = placed(explained, "explain").outputs["explanations"]
    packed = register.register(
        pretrained=dsl.Collected(related.outputs["model"]),
        **config,
        **shared,
        **collected(),
        **classifiers,
        **take("name", "registry"),
    )
    packed.after(explained)
    bundle = placed(packed, "register").outputs["bundle"]
    written = report.report(
        source_store=source_store,
        explanations=explanations,
        bundle=bundle,
        pretrained=dsl.Collected(related.outputs["model"]),
        **config,
        **shared,
        **collected(),
        **take(),
    )
    placed(written, "report")
    elsewhere = external.external(
        **shared,
        **collected(),
        **classifiers,
        **take("name", "data_root", "external", "bootstrap", "seed", "threads", "data_version"),
    )
    elsewhere.after(written)  # where no image is left that the run has not seen, all else is there
    placed(elsewhere, "external")
    return {"target_store": target_store, "bundle": bundle}, elsewhere


def build(
    pipeline: str,
    description: str,
    defaults: Mapping[str, Any],
    *,
    image: str = IMAGE,
    target: Target = "cluster",
    tasks: Graph = run_graph,
    more: Known | None = None,
) -> BaseComponent:
    """Make a KFP pipeline.

    Args:
        pipeline: its name.
        description: what it is for, shown in the KFP UI.
        defaults: see :func:`parameters`.
        image: image of all tasks.
        target: where it is to run.
        tasks: what makes its tasks.
        more: parameters that it has beside those of :func:`parameters`.
    """
    known = parameters(defaults, target) | (more or {})

    def graph(*channels: Any) -> None:
        tasks(dict(zip(known, channels, strict=True)), pipeline, image, target)

    # KFP reads a function's signature and docstring: give it one entry for each parameter, so that the
    # configuration stays the only place that lists them.
    graph.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind, default=default)
            for name, (kind, default, _) in known.items()
        ]
    )
    graph.__doc__ = f"{description}\n\nArgs:\n" + "\n".join(
        f"    {name}: {text}" for name, (_, _, text) in known.items()
    )
    return dsl.pipeline(graph, name=pipeline.replace("_", "-"), description=description)
