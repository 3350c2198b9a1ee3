"""The two training steps: pre-training on related images, fine-tuning on the target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import save_file

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import Precision, TlSource
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store
from radtransfer.registry.references import located
from radtransfer.registry.versions import PRETRAINED
from radtransfer.training import control, distributed, loop, reuse
from radtransfer.training.checkpoints import kept
from radtransfer.training.loop import Recipe
from radtransfer.training.network import WEIGHTS, Network, load_network, load_weights
from radtransfer.training.objective import Task
from radtransfer.training.runtime import device, settle
from radtransfer.training.schedule import steps_per_epoch
from radtransfer.training.weights import load_imagenet

LEARNT_FROM = ("image_id", "label", "group_id", "split", "sha256")
"""Columns of the manifest; the others would only take memory."""


def pretrain(
    *,
    source_store: Path,
    backbone: str,
    init: Literal["scratch", "imagenet"],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    input_size: int,
    weights_mirror: str,
    seed: int,
    threads: int,
    checkpoints: str,
    checkpoint_minutes: float,
    out: Path,
    layer_decay: float,
    freeze_epochs: int,
    patience: int,
    task: Task = "abnormality",
    boxes: bool = False,
    pretrained_models: str = "",
    precision: Precision = "float32",
    mirror: bool = True,
) -> None:
    """Train a backbone on related images and write a **model**.

    Args:
        source_store: image store of the related images.
        backbone: name of a timm model.
        init: what it starts from.
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: peak rate of AdamW.
        weight_decay: decoupled weight decay.
        input_size: side fed to the backbone, px; 0: its own.
        weights_mirror: see :func:`radtransfer.training.weights.imagenet_state`.
        seed: seed of initialisation, order and augmentation.
        threads: CPU threads.
        checkpoints: where to leave them, see :func:`radtransfer.training.checkpoints.kept`.
        checkpoint_minutes: between two of them.
        out: folder to write.
        layer_decay: each layer's rate as a share of the next one's, where training starts from weights; from scratch
            all layers learn at one rate.
        freeze_epochs: epochs in which only the head learns, where training starts from weights.
        patience: epochs at the full input size without a better one after which training ends early; 0: never.
        task: what is learnt, see :class:`radtransfer.training.objective.Objective`.
        boxes: learn where lesions are too.
        pretrained_models: pre-trained models of an earlier run, one of which is then written as it is: their folder, or
            a version of a registry, see :mod:`radtransfer.registry.references` and :mod:`radtransfer.training.reuse`.
        precision: arithmetic of the network, see :meth:`radtransfer.training.network.Network.arithmetic`.
        mirror: whether a mirrored image has the same diagnosis.

    Raises:
        RadtransferError: unknown backbone, weights that cannot be had, a store without both classes, or a model of an
            earlier run that does not fit.
    """
    store = _open(source_store, "body_part", "boxes")
    if pretrained_models:
        with located(pretrained_models, PRETRAINED) as folder:
            model = reuse.find(folder, backbone, init, task, boxes=boxes)
            before = load_network(model.path)
            if not before.resizable and before.input_size != Network(backbone, input_size).input_size:
                raise RadtransferError(
                    f"pretrained_models: {model.path} takes images of {before.input_size} px, and {backbone} cannot be "
                    f"resized; set input_size to {before.input_size}"
                )
            reuse.take_up(model, store, Path(out))
        return
    start = _Start(backbone, input_size, init, weights_mirror, seed, threads, precision, mirror)
    recipe = Recipe(epochs, batch_size, learning_rate, weight_decay, seed, layer_decay, freeze_epochs, patience)
    about: dict[str, object] = {"stage": "pretrain", "tl_source": None, "init": init, "pretrained_digest": None}
    about |= {"task": task, "boxes": boxes}
    inputs = {"source_store": store.artifact}
    place = checkpoints, checkpoint_minutes
    _train_and_write(start, store, start.fitting(recipe), about, inputs, place, out)


def finetune(
    *,
    target_store: Path,
    backbone: str,
    tl_source: TlSource,
    pretrained: Path | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    input_size: int,
    weights_mirror: str,
    seed: int,
    threads: int,
    checkpoints: str,
    checkpoint_minutes: float,
    out: Path,
    layer_decay: float,
    freeze_epochs: int,
    patience: int,
    refit: bool = False,
    precision: Precision = "float32",
    mirror: bool = True,
    extra_steps: int = 0,
) -> None:
    """Train a backbone on the target images, starting from a transfer-learning source, and write a **model**.

    Args:
        target_store: image store of the target.
        backbone: name of a timm model.
        tl_source: ``scratch``, ``imagenet`` or ``in_domain``.
        pretrained: model of the pre-training step; for ``in_domain`` only.
        refit: train a second time, on the train and validation splits together, up to the epoch that validation
            chose; the model then predicts with these weights (``weights.safetensors``), and what is chosen later on
            sees the first ones (``selection_weights.safetensors``), which know nothing of the validation images.
        extra_steps: of the control "trained as long", see :mod:`radtransfer.training.control`; not for ``in_domain``.

    The other arguments are those of :func:`pretrain`.

    Raises:
        RadtransferError: as :func:`pretrain`; or ``pretrained`` is missing, superfluous, or of another backbone.
    """
    store = _open(target_store)
    if (pretrained is not None) != (tl_source == "in_domain"):
        raise RadtransferError(f"finetune: a pre-trained model goes with tl_source in_domain only (got {tl_source})")
    if extra_steps and tl_source == "in_domain":
        raise RadtransferError("finetune: extra_steps are those that in_domain took in pre-training; leave them out")
    inputs = {"target_store": store.artifact}
    init: Literal["scratch", "imagenet"] = "scratch" if tl_source == "scratch" else "imagenet"
    before = None
    if pretrained is not None:
        model = artifacts.read(pretrained, "model")
        if (model.content["backbone"], model.content["stage"]) != (backbone, "pretrain"):
            raise RadtransferError(
                f"{pretrained}: expected a pre-trained {backbone}, found {model.content['backbone']} of stage "
                f"{model.content['stage']!r}"
            )
        before = inputs["pretrained"] = model
        init = model.content["init"]
    start = _Start(backbone, input_size, init, weights_mirror, seed, threads, precision, mirror, before)
    recipe = Recipe(epochs, batch_size, learning_rate, weight_decay, seed, layer_decay, freeze_epochs, patience)
    if extra_steps:
        recipe = control.lengthened(recipe, len(store.rows("train")), extra_steps)
    about: dict[str, object] = {"stage": "finetune", "tl_source": tl_source, "init": init, "extra_steps": extra_steps}
    about |= {"pretrained_digest": before.digest if before else None, "task": "abnormality", "boxes": False}
    place = checkpoints, checkpoint_minutes
    _train_and_write(start, store, start.fitting(recipe), about, inputs, place, out, refit)


def _open(path: Path, *more: str) -> Store:
    """The store, whose train and validation splits hold images of both classes, with more columns where needed."""
    store = Store.open(path, LEARNT_FROM + more)
    for split in ("train", "validation"):
        rows = store.rows(split)
        labels = store.manifest["label"].to_numpy()[rows]
        odd = np.flatnonzero(~np.isin(labels, (0, 1)))
        if len(odd):
            label = "none" if pd.isna(labels[odd[0]]) else int(labels[odd[0]])
            image = store.manifest["image_id"].iloc[rows[odd[0]]]
            raise RadtransferError(
                f"{path}: manifest.parquet gives image {image} of split {split!r} the label "
                f"{label}, one of {len(odd)} such; expected 0 or 1: make this store again"
            )
        if len(set(labels.tolist())) < 2:
            raise RadtransferError(
                f"{path}: split {split!r} holds {len(rows)} images of fewer than two classes; a training needs both "
                "there: use more images, or cut other splits (validation_fraction, test_fraction, another seed)"
            )
    return store


@dataclass(frozen=True)
class _Start:
    """What a training starts from; called, it gives the same network every time."""

    backbone: str
    input_size: int
    init: Literal["scratch", "imagenet"]
    weights_mirror: str
    seed: int
    threads: int
    precision: Precision
    mirror: bool
    pretrained: Artifact | None = None

    def __call__(self) -> tuple[Network, dict[str, str]]:
        """The network, and where its weights come from."""
        settle(self.threads, self.seed, tf32=True)
        network = Network(self.backbone, self.input_size, precision=self.precision, mirror=self.mirror)
        if self.pretrained is not None:
            load_weights(network, self.pretrained.path / WEIGHTS)
            network.reset_head()
            return network, {"where": "pre-training step"}
        if self.init == "imagenet":
            return network, load_imagenet(network, self.weights_mirror)
        return network, {"where": "random initialisation"}

    def fitting(self, recipe: Recipe) -> Recipe:
        """The recipe asked for; from scratch no layer is spared, since none knows anything."""
        if self.pretrained is None and self.init == "scratch":
            return replace(recipe, layer_decay=1.0, freeze_epochs=0)
        return recipe


def _train_and_write(
    start: _Start,
    store: Store,
    recipe: Recipe,
    about: dict[str, object],
    inputs: dict[str, Artifact],
    checkpoints: tuple[str, float],
    out: Path,
    refit: bool = False,
) -> None:
    network, origin = start()
    processes = distributed.processes()
    settings = {**vars(recipe), "backbone": network.backbone, "input_size": network.input_size}
    settings |= {"threads": start.threads, "refit": refit, "processes": processes}
    settings |= {"precision": start.precision, "mirror": start.mirror}
    step = str(about["stage"])
    name = f"{step} {about['tl_source'] or about['init']} {network.backbone}"
    identity = {**settings, **about, "weights_origin": origin, "device": device().type}
    identity["inputs"] = {key: artifact.digest for key, artifact in inputs.items()}
    task, boxes = cast(Task, about["task"]), bool(about["boxes"])
    with (
        kept(identity, *checkpoints) as of,  # until the model is written
        artifacts.writing(out, "model", step=step, settings=settings, inputs=inputs) as (folder, content),
    ):
        first = (store, recipe, name, of("train"), task)
        outcome = distributed.call(processes, loop.train, network, *first, boxes=boxes)
        if refit:
            _save(network, folder / f"{artifacts.SELECTION}{WEIGHTS}")
            network, _ = start()
            again = (store, recipe, f"{name} refit", of("refit"), outcome.best_epoch)
            distributed.call(processes, loop.refit, network, *again)
        _save(network, folder / WEIGHTS)
        if step == "pretrain":
            seen = sorted(set(store.manifest["sha256"]))
            (folder / reuse.SEEN).write_text("\n".join(seen) + "\n", encoding="ascii")
        pd.DataFrame(outcome.history).to_csv(folder / "history.csv", index=False)
        content.update(
            about,
            weights_origin=origin,
            refit=refit,
            backbone=network.backbone,
            feature_dim=network.feature_dim,
            input_size=network.input_size,
            store_size=store.size,
            best_epoch=outcome.best_epoch,
            validation_auroc=outcome.validation_auroc,
            source_steps=_source_steps(start) if step == "finetune" else outcome.steps,
            target_steps=outcome.steps if step == "finetune" else 0,
            planned_steps=recipe.epochs * steps_per_epoch(len(store.rows("train")), recipe.batch_size),
            seed=recipe.seed,
            precision=start.precision,
            mirror=start.mirror,
            threads=start.threads,
            processes=processes,
            positive_class=store.content["positive_class"],
        )


def _source_steps(start: _Start) -> int:
    return int(start.pretrained.content["source_steps"]) if start.pretrained else 0


def _save(network: Network, path: Path) -> None:
    tensors = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
    odd = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if odd:
        raise RadtransferError(f"{network.backbone}: {odd[0]} is not finite after training; set a lower learning_rate")
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # its own class even for a full disk
        raise RadtransferError(f"{path}: cannot be written ({error}); make room or name another path") from None
