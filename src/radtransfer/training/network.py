"""A backbone with one output, from stored grey images to features and a logit."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional

from radtransfer import artifacts
from radtransfer.config import MAX_SIDE, Precision
from radtransfer.errors import RadtransferError
from radtransfer.training.runtime import device

HEAD_STD = 0.01
WEIGHTS = "weights.safetensors"


class Network(nn.Module):
    """A timm backbone with a single-logit head, fed with stored images.

    Grey images are repeated over the three input channels: for the first convolution this equals summing its filters
    over the channels, so that ImageNet filters keep what they learnt, and every backbone is treated alike.

    Args:
        backbone: name of a timm classification model.
        input_size: side in px of what the backbone sees; 0: the size it was published with.
        precision: arithmetic of its layers.
        mirror: whether a mirrored image means the same to it.

    Attributes:
        backbone: its name.
        input_size: side in px of what the backbone sees.
        precision, mirror: see above; who trains or asks it keeps to them.
        resizable: whether ``input_size`` may be changed later on.
        feature_dim: D, the length of the pooled features before the head.
        body: the timm model (``num_classes=1``).

    Raises:
        RadtransferError: unknown backbone.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str, input_size: int = 0, *, precision: Precision = "float32", mirror: bool = True
    ) -> None:
        super().__init__()
        check_backbones([backbone])
        self.backbone, self.precision, self.mirror = backbone, precision, mirror
        published = timm.get_pretrained_cfg(backbone) or timm.models.PretrainedCfg()
        self.input_size = input_size or int(published.input_size[-1])
        self.resizable = not published.fixed_input_size
        fixed: dict[str, Any] = {} if self.resizable else {"img_size": self.input_size}
        self.body = timm.create_model(backbone, pretrained=False, num_classes=1, **fixed)
        self.feature_dim = int(cast(int, self.body.head_hidden_size))
        self.reset_head()
        normalisation = resolve_model_data_config(self.body)  # type: ignore[no-untyped-call]
        self.register_buffer("mean", torch.tensor(normalisation["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation["std"]).view(1, 3, 1, 1), persistent=False)

    def reset_head(self) -> None:
        """Start the head anew, small: timm draws some one-class heads so wide that training has to undo them first."""
        head: Any = self.body.get_classifier()  # type: ignore[operator]
        nn.init.trunc_normal_(head.weight, std=HEAD_STD)
        nn.init.zeros_(head.bias)

    def prepare(self, images: Tensor) -> Tensor:
        """Stored images as the backbone wants them; the one place where they are resized and normalised.

        Args:
            images: [B, S, S], uint8 or float in 0..255.

        Returns:
            float32 [B, 3, side, side], normalised with the backbone's published mean and standard deviation.
        """
        side = self.input_size
        x = images.to(torch.float32).unsqueeze(1) / 255.0
        if x.shape[-1] != side:
            x = functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        x = (x - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)

    def arithmetic(self) -> torch.autocast:
        """The context in which the body computes, in the network's precision.

        Under bfloat16 convolutions and matrix products round their inputs, and so does the way back; parameters, their
        gradients, features and loss stay float32. Gradients need no scaling: bfloat16 has the exponents of float32, so
        that none is lost as in float16.
        """
        place = self.mean.device.type
        return torch.autocast(place, torch.bfloat16, enabled=self.precision == "bfloat16")

    def features(self, images: Tensor) -> Tensor:
        """Pooled features float32 [B, D] of stored images [B, S, S]."""
        body: Any = self.body
        prepared = self.prepare(images)
        with self.arithmetic():
            found = body.forward_head(body.forward_features(prepared), pre_logits=True)
        return cast(Tensor, found.float())

    def head(self, features: Tensor) -> Tensor:
        """Logits [B] of the positive class from features [B, D]."""
        return cast(Tensor, self.body.get_classifier()(features)).squeeze(1)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B] of the positive class for stored images [B, S, S]."""
        return self.head(self.features(images))


def check_backbones(names: Sequence[str]) -> None:
    """Check that timm knows every name.

    Raises:
        RadtransferError: names the first unknown one, with near matches.
    """
    for name in names:
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else "list them with timm.list_models()"
            raise RadtransferError(f"backbones: timm has no model {name!r}; {hint}")


def load_network(model_dir: Path, fit: str = "") -> Network:
    """A trained network in evaluation mode, on the device of this process.

    Args:
        model_dir: the model artifact.
        fit: which of its fits, see :func:`radtransfer.artifacts.fits`.

    Raises:
        RadtransferError: not a model artifact, or its weights do not fit its backbone.
    """
    model = artifacts.read(model_dir, "model")
    backbone, side = model.content.get("backbone"), model.content.get("input_size")
    if not isinstance(backbone, str) or type(side) is not int or not 0 < side <= MAX_SIDE:
        raise RadtransferError(f"{model_dir}: model.json names no backbone or input size; make this model again")
    # Models that say neither were made before there was a choice.
    precision, mirror = model.content.get("precision", "float32"), model.content.get("mirror", True)
    if precision not in get_args(Precision) or not isinstance(mirror, bool):
        raise RadtransferError(
            f"{model_dir}: model.json has precision {precision!r} and mirror {mirror!r}; expected one of "
            f"{', '.join(get_args(Precision))}, and true or false; make this model again"
        )
    network = Network(backbone, side, precision=precision, mirror=mirror)
    path = model_dir / f"{fit}{WEIGHTS}"
    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise RadtransferError(f"{path}: not weights of {network.backbone}: {error}") from None
    return network.to(device()).to(memory_format=torch.channels_last).eval()
