"""Grad-CAM: where a network's last feature map speaks for the positive class.

Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget
from torch import Tensor, nn
from torch.nn import functional

from radtransfer.errors import RadtransferError
from radtransfer.training.network import Network
from radtransfer.training.runtime import device

DESCRIPTION = (
    "Grad-CAM of the positive-class logit at each backbone's last feature map, whatever the prediction was: it shows "
    "what speaks for the positive class. Each backbone's map is scaled to [0, 1] on its own, then the maps are "
    "averaged, so that every backbone weighs the same. The classifier behind the fused features has no part in it."
)


def gradcam(networks: Sequence[Network], images: NDArray[np.uint8], batch_size: int = 16) -> NDArray[np.float32]:
    """Grad-CAM of the positive-class logit, averaged over networks, and over the views that each one's logit is of.

    Args:
        networks: at least one; each one's map is scaled to [0, 1] before the mean, so that all weigh the same.
        images: uint8 [N, S, S].
        batch_size: images per forward and backward pass.

    Returns:
        float32 [N, S, S] in [0, 1]; 0 where nothing speaks for the positive class. A network whose last feature map
        has a single cell locates nothing and adds 0.

    Raises:
        RadtransferError: the last feature map of a backbone cannot be found.
    """
    total = np.zeros(images.shape, np.float32)
    for network in networks:
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            views = (slice(None), slice(None, None, -1)) if network.mirror else (slice(None),)
            for view in views:
                total[rows] += _of_network(network, images[rows, :, view])[:, :, view] / len(views)
    return total / np.float32(len(networks))


class _Exposed(nn.Module):
    """A network from prepared images on, whose last feature map goes through a module that can be hooked."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.last = nn.Identity()

    def forward(self, prepared: Tensor) -> Tensor:
        with self.network.arithmetic():
            maps = cast(Any, self.network.body).forward_features(prepared)
        return self.network.head(self.network.pooled(self.last(maps)))


def _of_network(network: Network, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    exposed = _Exposed(network)
    prepared = network.prepare(torch.from_numpy(np.ascontiguousarray(images)).to(device()))
    layer, as_map = _target(exposed, prepared[:1])
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learnt:  # only the feature map's gradient is wanted: the weights' gradients would cost as much
        parameter.requires_grad_(False)
    cam = GradCAM(model=exposed, target_layers=[layer], reshape_transform=as_map)
    try:
        small = cam(input_tensor=prepared.detach().requires_grad_(), targets=[RawScoresOutputTarget()] * len(images))
    finally:
        cam.activations_and_grads.release()
        for parameter in learnt:
            parameter.requires_grad_(True)
    resized = functional.interpolate(
        torch.from_numpy(small).unsqueeze(1), size=images.shape[1:], mode="bilinear", align_corners=False
    )
    return cast(NDArray[np.float32], resized.squeeze(1).clamp(0, 1).numpy())


def _target(exposed: _Exposed, prepared: Tensor) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module to hook, and how its output becomes float32 [B, C, h, w] (NumPy, which takes it, has no bfloat16).

    The feature map before pooling where there is one. A transformer that reads its class token gives the other tokens
    of its last output no gradient; so for tokens it is the input of the last block's attention, after its norm.
    """
    body = cast(Any, exposed.network.body)
    with torch.inference_mode():
        last = body.forward_features(prepared)
    shape = tuple(getattr(last, "shape", ()))
    if len(shape) == 4:
        return exposed.last, exposed.network.as_map
    blocks = getattr(body, "blocks", None)
    norm = getattr(blocks[-1], "norm1", None) if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    if isinstance(norm, nn.Module) and len(shape) == 3:
        return norm, exposed.network.as_map
    raise RadtransferError(
        f"Grad-CAM: backbone {exposed.network.backbone!r} ends in {shape or type(last).__name__}, which is neither a "
        "feature map nor tokens behind a list of blocks with norm1; leave it out of backbones"
    )
