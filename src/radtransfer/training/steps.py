"""The two training steps: pre-training on related images, fine-tuning on the target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from safetensors.torch import load_file, save_file

from radtransfer import artifacts
from radtransfer.artifacts import Artifact
from radtransfer.config import Precision, TlSource
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store
from radtransfer.training import loop, reuse
from radtransfer.training.checkpoints import kept
from radtransfer.training.loop import Recipe
from radtransfer.training.network import WEIGHTS, Network, load_network
from radtransfer.training.runtime import device, settle
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
    checkpoints: str,
    out: Path,
    pretrained_models: str = "",
    precision: Precision = "float32",
    mirror: bool = True,
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
        checkpoints: where to leave them, see :func:`radtransfer.training.checkpoints.kept`.
        out: folder to write.
        pretrained_models: folder of an earlier run's pre-trained models, one of which is then written as it is; see
            :mod:`radtransfer.training.reuse`.
        precision: arithmetic of the network, see :meth:`radtransfer.training.network.Network.arithmetic`.
        mirror: whether a mirrored image has the same diagnosis.

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
    start = _Start(backbone, input_size, init, weights_mirror, seed, threads, precision, mirror)
    recipe = Recipe(epochs, batch_size, learning_rate, weight_decay, seed)
    about: dict[str, object] = {"stage": "pretrain", "tl_source": None, "init": init, "pretrained_digest": None}
    _train_and_write(start, store, recipe, about, {"source_store": store.artifact}, checkpoints, out)


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
    out: Path,
    refit: bool = False,
    precision: Precision = "float32",
    mirror: bool = True,
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

    The other arguments are those of :func:`pretrain`.

    Raises:
        RadtransferError: as :func:`pretrain`; or ``pretrained`` is missing, superfluous, or of another backbone.
    """
    store = _open(target_store)
    if (pretrained is not None) != (tl_source == "in_domain"):
        raise RadtransferError(f"finetune: a pre-trained model goes with tl_source in_domain only (got {tl_source})")
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
    recipe = Recipe(epochs, batch_size, learning_rate, weight_decay, seed)
    about: dict[str, object] = {
        "stage": "finetune",
        "tl_source": tl_source,
        "init": init,
        "pretrained_digest": before.digest if before else None,
    }
    _train_and_write(start, store, recipe, about, inputs, checkpoints, out, refit)


def _open(path: Path) -> Store:
    store = Store.open(path)
    for split in ("train", "validation"):
        classes = store.manifest["label"].to_numpy()[store.rows(split)]
        if len(set(classes.tolist())) < 2:
            raise RadtransferError(f"{path}: split {split!r} holds {len(classes)} images of fewer than two classes")
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
            network.load_state_dict(load_file(self.pretrained.path / WEIGHTS))
            network.reset_head()
            return network, {"where": "pre-training step"}
        if self.init == "imagenet":
            return network, load_imagenet(network, self.weights_mirror)
        return network, {"where": "random initialisation"}


def _train_and_write(
    start: _Start,
    store: Store,
    recipe: Recipe,
    about: dict[str, object],
    inputs: dict[str, Artifact],
    checkpoints: str,
    out: Path,
    refit: bool = False,
) -> None:
    network, origin = start()
    settings = {**vars(recipe), "backbone": network.backbone, "input_size": network.input_size}
    settings |= {"threads": start.threads, "refit": refit, "precision": start.precision, "mirror": start.mirror}
    step = str(about["stage"])
    name = f"{step} {about['tl_source'] or about['init']} {network.backbone}"
    with artifacts.writing(out, "model", step=step, settings=settings, inputs=inputs) as (folder, content):
        identity = {**settings, **about, "weights_origin": origin, "device": device().type}
        identity["inputs"] = {key: artifact.digest for key, artifact in inputs.items()}
        with kept(identity, checkpoints) as of:
            outcome = loop.train(network, store, recipe, name, of("train"))
            if refit:
                _save(network, folder / f"{artifacts.SELECTION}{WEIGHTS}")
                network, _ = start()
                loop.refit(network, store, recipe, f"{name} refit", of("refit"), outcome.best_epoch)
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
            seed=recipe.seed,
            precision=start.precision,
            mirror=start.mirror,
            threads=start.threads,
            positive_class=store.content["positive_class"],
        )


def _source_steps(start: _Start) -> int:
    return int(start.pretrained.content["source_steps"]) if start.pretrained else 0


def _save(network: Network, path: Path) -> None:
    save_file({key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}, path)
