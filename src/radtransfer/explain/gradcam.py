"""Grad-CAM of a decision: which places speak for the positive class, through fusion and classifier into the networks.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017; place by
place as in Draelos and Carin, Use HiResCAM instead of Grad-CAM, arXiv 2011.08891. Read at a map that still tells places
apart: the last one of a network has cells of 32 px, each of which sees most of a small image, see
:data:`LARGEST_CELL`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import HiResCAM
from torch import Tensor, nn
from torch.nn import functional

from radtransfer.errors import RadtransferError
from radtransfer.fusion.gradient import Gradient, gradient
from radtransfer.fusion.predictor import Predictor
from radtransfer.training.inference import Passed
from radtransfer.training.network import Network
from radtransfer.training.runtime import device

DESCRIPTION = (
    "Grad-CAM of the decision: the gradient of the classifier's score, before calibration, by the fused features, led "
    "on into the last feature map of every backbone whose cells are of 16 px or less, and multiplied with it place by "
    "place (HiResCAM). It shows what speaks for the positive class, whatever the "
    "prediction was. Every backbone's map counts as much as it moves the score; what speaks against is left out of the "
    "sum of them, which is then scaled to a peak of 1. The gradient is exact for logistic regression, LDA, support "
    "vector machines, MLP and the networks' own heads; of nearest neighbours, random forest and gradient boosting it "
    "is that of the linear function that comes nearest around the image, and fidelity is the share of the "
    "classifier's variance there that it explains (R²)."
)

LARGEST_CELL = 16
"""Cells, in px of what a network sees, of the coarsest feature map that is read.

On phantoms a network with an AUROC of .99 peaks in the fracture at its cells of 16 px, and beside it at those of 32 px.
"""


class Heat(NamedTuple):
    """Maps of what speaks for the positive class.

    Attributes:
        maps: float32 [N, S, S] in [0, 1]; all 0 where nothing does.
        fidelity: [N], of the gradient of the decision; 1 where it is exact, see
            :class:`radtransfer.fusion.gradient.Gradient`.
    """

    maps: NDArray[np.float32]
    fidelity: NDArray[np.float64]


def gradcam(predict: Predictor, images: NDArray[np.uint8], passed: Sequence[Passed], batch_size: int = 16) -> Heat:
    """Grad-CAM of a predictor's decision, over all its networks and the views that their features are of.

    Args:
        predict: whose raw score is explained.
        images: uint8 [N, S, S].
        passed: what each of its networks gave for them, see :meth:`radtransfer.fusion.predictor.Predictor.passed`.
        batch_size: images per forward pass.

    Raises:
        RadtransferError: no feature map of a backbone can be found.
    """
    by_network, fidelity = _pulls(predict, passed)
    total = np.zeros(images.shape, np.float32)
    for network, pulls in zip(predict.networks, by_network, strict=True):
        total += contribution(network, images, pulls, batch_size)
    peaks = total.max(axis=(1, 2), initial=0, keepdims=True)
    return Heat(np.divide(total.clip(0), peaks, out=np.zeros_like(total), where=peaks > 0), fidelity)


def contribution(
    network: Network, images: NDArray[np.uint8], pulls: NDArray[np.float64], batch_size: int = 16
) -> NDArray[np.float32]:
    """Activation times gradient of a linear function of a network's features, at each place of its feature map.

    Args:
        network: in evaluation mode.
        images: uint8 [N, S, S].
        pulls: [N, D] weights of the features, for each image.
        batch_size: images per forward pass.

    Returns:
        float32 [N, S, S] of either sign, the mean over the views that features are of. Where features are means over
        that map, its mean over an image is what the features add. A map of a single cell locates nothing and gives 0.

    Raises:
        RadtransferError: no feature map can be found.
    """
    found = np.zeros(images.shape, np.float32)
    views = (slice(None), slice(None, None, -1)) if network.mirror else (slice(None),)
    exposed = _Exposed(network)
    target = _target(exposed, _prepared(network, images[:1]))
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        for view in views:
            found[rows] += _of_view(exposed, target, images[rows, :, view], pulls[rows])[:, :, view] / len(views)
    return found


def _pulls(predict: Predictor, passed: Sequence[Passed]) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Gradient [N, D] of the raw score by the features of each network, and its fidelity [N]."""
    count = len(passed[0][0])
    if predict.estimator is None:
        by_logit = Gradient(np.full((count, len(passed)), 1 / len(passed)), np.ones(count))
    elif predict.on_heads:
        by_logit = gradient(predict.estimator, np.column_stack([logits for _, logits in passed]))
    else:
        whole = gradient(predict.estimator, np.concatenate([features for features, _ in passed], axis=1))
        edges = np.cumsum([features.shape[1] for features, _ in passed])[:-1]
        return np.split(whole.values, edges, axis=1), whole.fidelity
    heads = [_of_head(network, features) for network, (features, _) in zip(predict.networks, passed, strict=True)]
    return [by_logit.values[:, [place]] * own for place, own in enumerate(heads)], by_logit.fidelity


def _of_head(network: Network, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gradient [N, D] of the logit of a network's own head by the features."""
    leaf = torch.from_numpy(features).to(device()).requires_grad_()
    (found,) = torch.autograd.grad(network.head(leaf).sum(), leaf)
    return found.cpu().double().numpy()


class _Exposed(nn.Module):
    """A network from prepared images to features, whose last feature map goes through a module that can be hooked."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.last = nn.Identity()

    def forward(self, prepared: Tensor) -> Tensor:
        with self.network.arithmetic():
            maps = cast(Any, self.network.body).forward_features(prepared)
        return self.network.pooled(self.last(maps))


def _prepared(network: Network, images: NDArray[np.uint8]) -> Tensor:
    return network.prepare(torch.from_numpy(np.ascontiguousarray(images)).to(device()))


def _of_view(
    exposed: _Exposed,
    target: tuple[nn.Module, Callable[[Tensor], Tensor]],
    images: NDArray[np.uint8],
    pulls: NDArray[np.float64],
) -> NDArray[np.float32]:
    layer, as_map = target
    prepared = _prepared(exposed.network, images)
    weights = torch.from_numpy(pulls).to(prepared)
    learnt = [parameter for parameter in exposed.parameters() if parameter.requires_grad]
    for parameter in learnt:  # nothing before the feature map needs a gradient, nor do the weights behind it
        parameter.requires_grad_(False)
    leaf = layer.register_forward_hook(lambda _, given, found: found.detach().requires_grad_())
    cam = HiResCAM(exposed, [layer], as_map)
    own = layer.register_forward_hook(lambda _, given, found: found.clone())  # what comes next may work in place
    try:
        (weights * cam.activations_and_grads(prepared)).sum().backward()
        activations, gradients = (
            getattr(cam.activations_and_grads, name)[0].cpu().numpy() for name in ("activations", "gradients")
        )
    finally:
        leaf.remove()
        own.remove()
        cam.activations_and_grads.release()
        for parameter in learnt:
            parameter.requires_grad_(True)
    cells = activations.shape[2] * activations.shape[3]
    if cells == 1:
        return np.zeros(images.shape, np.float32)
    small = cam.get_cam_image(prepared, layer, [], activations, gradients, eigen_smooth=False) * cells
    resized = functional.interpolate(
        torch.from_numpy(small).unsqueeze(1), size=images.shape[1:], mode="bilinear", align_corners=False
    )
    return cast(NDArray[np.float32], resized.squeeze(1).numpy())


def _target(exposed: _Exposed, prepared: Tensor) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module to hook, and how its output becomes float32 [B, C, h, w] (NumPy, which takes it, has no bfloat16).

    Of networks that end in a feature map the last stage with cells of at most :data:`LARGEST_CELL`, as timm lists them,
    or that last map where it lists none. A transformer that reads its class token gives the other tokens of its last
    output no gradient; so for tokens it is the input of the last block's attention, after its norm.
    """
    body = cast(Any, exposed.network.body)
    with torch.inference_mode():
        last = body.forward_features(prepared)
    shape = tuple(getattr(last, "shape", ()))
    if len(shape) == 4:
        fine = [stage for stage in getattr(body, "feature_info", ()) if stage["reduction"] <= LARGEST_CELL]
        if not fine:
            return exposed.last, exposed.network.as_map
        return body.get_submodule(fine[-1]["module"]), partial(exposed.network.as_map, channels=fine[-1]["num_chs"])
    blocks = getattr(body, "blocks", None)
    norm = getattr(blocks[-1], "norm1", None) if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    if isinstance(norm, nn.Module) and len(shape) == 3:
        return norm, exposed.network.as_map
    raise RadtransferError(
        f"Grad-CAM: backbone {exposed.network.backbone!r} ends in {shape or type(last).__name__}, which is neither a "
        "feature map nor tokens behind a list of blocks with norm1; leave it out of backbones"
    )
