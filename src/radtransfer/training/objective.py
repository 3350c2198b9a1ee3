"""What a network is asked to learn: whether an image is abnormal, the body part it shows, where its lesions are."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from radtransfer.errors import RadtransferError
from radtransfer.evaluation import metrics
from radtransfer.preprocess.store import Store, taken
from radtransfer.training.augment import augment
from radtransfer.training.inference import batches
from radtransfer.training.network import Network
from radtransfer.training.runtime import device

Task = Literal["abnormality", "body_part", "both"]
LABEL_SMOOTHING = 0.05
PART_WEIGHT = 0.5
BOX_WEIGHT = 0.5
_PART, _BOXES = "body_part", "boxes"


class Objective:
    """The loss of a training, and the score by which its epochs are chosen.

    Cross-entropy on softened labels, weighted so that every class counts alike. What is learnt beside the abnormality
    (Caruana 1997, multitask learning) has heads of its own, which are no part of the model that is left.

    Args:
        store: the images.
        rows: of its training images.
        task: learn what is abnormal, the body part, or both.
        boxes: learn from the lesion boxes too: which cells of the last feature map touch one. Abnormal images without
            a box say nothing of where.

    Raises:
        RadtransferError: the store has one body part only, or no box, and is asked for them.
    """

    def __init__(
        self, store: Store, rows: NDArray[np.intp], task: Task = "abnormality", *, boxes: bool = False
    ) -> None:
        self._store, self._task, self._boxes = store, task, boxes
        self._labels = store.manifest["label"].to_numpy(np.float32)
        self._class_weight = _balanced(self._labels[rows].astype(np.intp))
        if task != "abnormality":
            parts, self._part = np.unique(store.manifest["body_part"].to_numpy(str), return_inverse=True)
            self._part_weight = _balanced(self._part[rows], len(parts))
            if len(set(self._part[rows].tolist())) < 2:
                raise RadtransferError(
                    f"pretrain_task: {task}: all training images of {store.artifact.path} show the body part "
                    f"{str(parts[0])!r}; set it to abnormality, or name more source_parts"
                )
        if boxes and not any(map(len, store.manifest["boxes"].iloc[rows])):
            raise RadtransferError(
                f"pretrain_boxes: no training image of {store.artifact.path} has a lesion box; set it to false"
            )

    def attach(self, network: Network) -> None:
        """Give a network the heads that it needs beside its own."""
        if self._task != "abnormality":
            network.heads[_PART] = nn.Linear(network.feature_dim, len(self._part_weight))
        if self._boxes:
            network.heads[_BOXES] = nn.Conv2d(network.map_channels, 1, 1)

    def loss(self, network: Network, batch: NDArray[np.intp], generator: torch.Generator) -> Tensor:
        """Mean loss over a batch of rows, augmented, with its graph."""
        place = device()
        images = torch.from_numpy(taken(self._store.images, batch)).to(place)
        masks = torch.from_numpy(self._masks(batch)).to(place) if self._boxes else None
        images, masks = augment(images, generator, masks)
        maps = network.maps(images)
        features = network.pooled(maps)
        loss = torch.zeros((), device=place)
        if self._task != _PART:
            loss = loss + self._abnormality(network.head(features), batch)
        if self._task != "abnormality":
            said = self._parts(network.heads[_PART](features), batch)
            loss = loss + (said if self._task == _PART else PART_WEIGHT * said)
        if masks is not None:
            cells = network.heads[_BOXES](network.as_map(maps)).squeeze(1)
            loss = loss + BOX_WEIGHT * self._located(cells, masks, batch)
        return loss

    def validate(self, network: Network, rows: NDArray[np.intp], what: str) -> tuple[float, float]:
        """AUROC and loss on rows that nothing is learnt from.

        Of the abnormality, if it is learnt; else of the body parts, the mean over them of each against the rest.

        Raises:
            FloatingPointError: the network's scores are no longer numbers.
        """
        scores = self._scores(network, rows, what)
        if not torch.isfinite(scores).all():
            raise FloatingPointError("a validation score is not a number")
        if self._task != _PART:
            return _auroc(self._labels[rows] == 1, scores), self._abnormality(scores, rows).item()
        truth = self._part[rows]
        seen = [part for part in range(scores.shape[1]) if 0 < (truth == part).sum() < len(truth)]
        auroc = np.mean([_auroc(truth == part, scores[:, part]) for part in seen])
        return float(auroc), self._parts(scores, rows).item()

    def _scores(self, network: Network, rows: NDArray[np.intp], what: str) -> Tensor:
        """Logits [N] of the abnormality, or scores [N, P] of the body parts."""
        scores = []
        for _, ((features, logits),) in batches([network], self._store.images, what=what, of=rows):
            if self._task != _PART:
                scores.append(torch.from_numpy(logits))
            else:
                with torch.inference_mode():
                    scores.append(network.heads[_PART](torch.from_numpy(features).to(device())).cpu())
        return torch.cat(scores)

    def _abnormality(self, logits: Tensor, rows: NDArray[np.intp]) -> Tensor:
        target = torch.from_numpy(self._labels[rows]).to(logits.device)
        soft = target * (1 - LABEL_SMOOTHING) + 0.5 * LABEL_SMOOTHING
        weight = self._class_weight.to(logits.device)[target.long()]
        return functional.binary_cross_entropy_with_logits(logits, soft, weight=weight)

    def _parts(self, scores: Tensor, rows: NDArray[np.intp]) -> Tensor:
        target = torch.from_numpy(self._part[rows]).to(scores.device)
        each = functional.cross_entropy(scores, target, reduction="none", label_smoothing=LABEL_SMOOTHING)
        return (each * self._part_weight.to(scores.device)[target]).mean()

    def _masks(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """255 inside the lesion boxes [B, S, S]."""
        masks = np.zeros((len(rows), self._store.size, self._store.size), np.uint8)
        for mask, boxes in zip(masks, self._store.manifest["boxes"].iloc[rows], strict=True):
            for x0, y0, x1, y1 in boxes:
                mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = 255
        return masks

    def _located(self, cells: Tensor, masks: Tensor, rows: NDArray[np.intp]) -> Tensor:
        """Cross-entropy of the cells; those that touch a box and those that touch none count alike in a batch."""
        height, width = cells.shape[1:]
        touched = functional.adaptive_max_pool2d(masks, (height, width)) > 127
        each = functional.binary_cross_entropy_with_logits(cells, touched.float(), reduction="none")
        boxed = self._store.manifest["boxes"].iloc[rows].map(len).to_numpy() > 0
        known = torch.from_numpy(boxed | (self._labels[rows] == 0)).to(cells.device)[:, None, None]
        kinds = [touched & known, ~touched & known]
        return torch.stack([(each * kind).sum() / kind.sum().clamp(min=1) for kind in kinds]).mean()


def _balanced(classes: NDArray[np.intp], count: int = 2) -> Tensor:
    """Weight of each class under which all count alike, 1 on average over the images."""
    images = np.bincount(classes, minlength=count)
    weights = len(classes) / (np.count_nonzero(images) * np.maximum(images, 1))
    return torch.tensor(weights, dtype=torch.float32)


def _auroc(positive: NDArray[np.bool_], scores: Tensor) -> float:
    return float(metrics.auroc(positive, scores.numpy().astype(np.float64), np.ones((1, len(positive))))[0])
