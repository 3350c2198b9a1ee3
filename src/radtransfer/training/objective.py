"""What a network is asked to learn: whether an image is abnormal, the body part it shows, where its lesions are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from radtransfer.errors import RadtransferError
from radtransfer.evaluation import metrics
from radtransfer.preprocess.store import Store, taken
from radtransfer.training import distributed
from radtransfer.training.augment import augment
from radtransfer.training.inference import batches
from radtransfer.training.network import MAIN, Network
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
        RadtransferError: the store has one body part only, or no box, and is asked for them; so has its validation
            split where epochs are chosen by the body part.
    """

    def __init__(
        self, store: Store, rows: NDArray[np.intp], task: Task = "abnormality", *, boxes: bool = False
    ) -> None:
        self._store, self._task, self._boxes = store, task, boxes
        self._labels = store.manifest["label"].to_numpy(np.float32)
        self._class_weight = _balanced(self._labels[rows].astype(np.intp))
        if task != MAIN:
            parts, self._part = np.unique(store.manifest["body_part"].to_numpy(str), return_inverse=True)
            self._part_weight = _balanced(self._part[rows], len(parts))
            shown = {"training": rows} | ({"validation": store.rows("validation")} if task == _PART else {})
            for what, some in shown.items():
                if len(np.unique(self._part[some])) < 2:
                    raise RadtransferError(
                        f"pretrain_task: {task}: all {what} images of {store.artifact.path} show the body part "
                        f"{str(parts[self._part[some[0]]])!r}; set it to abnormality, or name more source_parts"
                    )
        if boxes and not any(map(len, store.manifest["boxes"].iloc[rows])):
            raise RadtransferError(
                f"pretrain_boxes: no training image of {store.artifact.path} has a lesion box; set it to false"
            )

    def attach(self, network: Network) -> None:
        """Give a network the heads that it needs beside its own."""
        if self._task != MAIN:
            network.heads[_PART] = nn.Linear(network.feature_dim, len(self._part_weight))
        if self._boxes:
            network.heads[_BOXES] = nn.Conv2d(network.map_channels, 1, 1)

    def loss(
        self,
        outputs: Callable[[Tensor], dict[str, Tensor]],
        batch: NDArray[np.intp],
        generator: torch.Generator,
        *,
        flip: bool,
    ) -> Tensor:
        """Mean loss over a batch of rows, augmented, with its graph.

        One of several processes takes its part of the batch, and what it gives is so weighted that their mean is the
        loss over the whole batch; but that cells count alike by kind holds for each part by itself.

        Args:
            outputs: of the network, see :attr:`radtransfer.training.loop.Training.shared`.
            batch: rows of the store.
            generator: of the augmentation.
            flip: mirror half of the images.
        """
        place, part = device(), distributed.part()
        rows = batch[part]
        images = torch.from_numpy(taken(self._store.images, rows)).to(place)
        masks = torch.from_numpy(self._masks(rows)).to(place) if self._boxes else None
        images, masks = augment(images, generator, masks, flip=flip, of=(len(batch), part))
        said = outputs(images)
        losses = []
        if self._task == _PART:
            losses.append(0 * said[MAIN].sum())  # DDP waits for the gradient of whatever had a part in the outputs
        else:
            losses.append(self._abnormality(said[MAIN], rows))
        if self._task != MAIN:
            losses.append(self._parts(said[_PART], rows) * (1.0 if self._task == _PART else PART_WEIGHT))
        if masks is not None:
            losses.append(self._located(said[_BOXES].squeeze(1), masks, rows) * BOX_WEIGHT)
        return distributed.weighted(torch.stack(losses).sum(), len(rows), len(batch))

    def validate(self, network: Network, rows: NDArray[np.intp], what: str) -> tuple[float, float]:
        """AUROC and loss on rows that nothing is learnt from.

        Of the abnormality, if it is learnt; else of the body parts, the mean over them of each against the rest.

        Raises:
            FloatingPointError: the network's scores are no longer numbers.
        """
        scores = distributed.split(lambda part: self._scores(network, part, what), rows)
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
