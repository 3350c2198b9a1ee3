"""The two training steps: pre-training on related images, fine-tuning on the target."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
from safetensors.torch import load_file, save_file

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import TlSource
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store
from radtransfer.training import reuse
from radtransfer.training.loop import Recipe, train
from radtransfer.training.network import Network, load_network
from radtransfer.training.runtime import settle
from radtransfer.training.weights import load_imagenet


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
    out: Path,
    pretrained_models: str = "",
) -> None:
    """Train a backbone on related images (normal against abnormal) and write a **model**.

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
        out: folder to write.
        pretrained_models: folder of an earlier run's pre-trained models, one of which is then written as it is; see
            :mod:`radtransfer.training.reuse`.

    Raises:
        RadtransferError: unknown backbone, weights that cannot be had, a store without both classes, or a model of an
            earlier run that does not fit.
    """
    store = _open(source_store)
    if pretrained_models:
        model = reuse.find(Path(pretrained_models), backbone, init)
        before = load_network(model.path)
        if not before.resizable and before.input_size != Network(backbone, input_size).input_size:
            raise RadtransferError(
                f"pretrained_models: {model.path} takes images of {before.input_size} px, and {backbone} cannot be "
                f"resized; set input_size to {before.input_size}"
            )
        reuse.take_up(model, store, Path(out))
        return
    settle(threads, seed)
    network = Network(backbone, input_size)
    origin = load_imagenet(network, weights_mirror) if init == "imagenet" else {"where": "random initialisation"}
    recipe = Recipe(epochs, batch_size, learning_rate, weight_decay, seed)
    about: dict[str, object] = {
        "stage": "pretrain",
        "tl_source": None,
        "init": init,
        "weights_origin": origin,
        "pretrained_digest": None,
    }
    _train_and_write(network, store, recipe, about, 0, threads, {"source_store": store.artifact}, out)


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
    out: Path,
) -> None:
    """Train a backbone on the target images, starting from a transfer-learning source, and write a **model**.

    Args:
        target_store: image store of the target.
        backbone: name of a timm model.
        tl_source: ``scratch``, ``imagenet`` or ``in_domain``.
        pretrained: model of the pre-training step; for ``in_domain`` only.

    The other arguments are those of :func:`pretrain`.

    Raises:
        RadtransferError: as :func:`pretrain`; or ``pretrained`` is missing, superfluous, or of another backbone.
    """
    store = _open(target_store)
    if (pretrained is not None) != (tl_source == "in_domain"):
        raise RadtransferError(f"finetune: a pre-trained model goes with tl_source in_domain only (got {tl_source})")
    settle(threads, seed)
    network = Network(backbone, input_size)
    inputs = {"target_store": store.artifact}
    source_steps, digest = 0, None
    if pretrained is not None:
        model = artifacts.read(pretrained, "model")
        if (model.content["backbone"], model.content["stage"]) != (backbone, "pretrain"):
            raise RadtransferError(
                f"{pretrained}: expected a pre-trained {backbone}, found {model.content['backbone']} of stage "
                f"{model.content['stage']!r}"
            )
        network.load_state_dict(load_file(pretrained / "weights.safetensors"))
        network.reset_head()
        inputs["pretrained"] = model
        source_steps, digest = model.content["source_steps"], model.digest
        origin, init = {"where": "pre-training step"}, model.content["init"]
    elif tl_source == "imagenet":
        origin, init = load_imagenet(network, weights_mirror), "imagenet"
    else:
        origin, init = {"where": "random initialisation"}, "scratch"
    recipe = Recipe(epochs, batch_size, learning_rate, weight_decay, seed)
    about: dict[str, object] = {
        "stage": "finetune",
        "tl_source": tl_source,
        "init": init,
        "weights_origin": origin,
        "pretrained_digest": digest,
    }
    _train_and_write(network, store, recipe, about, source_steps, threads, inputs, out)


def _open(path: Path) -> Store:
    store = Store.open(path)
    for split in ("train", "validation"):
        classes = store.manifest["label"].to_numpy()[store.rows(split)]
        if len(set(classes.tolist())) < 2:
            raise RadtransferError(f"{path}: split {split!r} holds {len(classes)} images of fewer than two classes")
    return store


def _train_and_write(
    network: Network,
    store: Store,
    recipe: Recipe,
    about: dict[str, object],
    source_steps: int,
    threads: int,
    inputs: dict[str, Artifact],
    out: Path,
) -> None:
    settings = {**vars(recipe), "backbone": network.backbone, "input_size": network.input_size, "threads": threads}
    step = str(about["stage"])
    name = f"{step} {about['tl_source'] or about['init']} {network.backbone}"
    with artifacts.writing(out, "model", step=step, settings=settings, inputs=inputs) as (folder, content):
        outcome = train(network, store, recipe, name)
        state = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
        save_file(state, folder / "weights.safetensors")
        if step == "pretrain":
            seen = sorted(set(store.manifest["sha256"]))
            (folder / reuse.SEEN).write_text("\n".join(seen) + "\n", encoding="ascii")
        pd.DataFrame(outcome.history).to_csv(folder / "history.csv", index=False)
        content.update(
            about,
            backbone=network.backbone,
            feature_dim=network.feature_dim,
            input_size=network.input_size,
            store_size=store.size,
            best_epoch=outcome.best_epoch,
            validation_auroc=outcome.validation_auroc,
            source_steps=source_steps if step == "finetune" else outcome.steps,
            target_steps=outcome.steps if step == "finetune" else 0,
            seed=recipe.seed,
            precision="float32",
            threads=threads,
            positive_class=store.content["positive_class"],
        )
