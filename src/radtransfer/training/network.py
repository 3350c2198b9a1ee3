"""A backbone with one output, from stored grey images to features and a logit."""

from __future__ import annotations

import difflib
import math
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
from radtransfer.training import memory
from radtransfer.training.runtime import device

HEAD_STD = 0.01
WEIGHTS = "weights.safetensors"
MAIN = "abnormality"
NAME_ANOTHER = "name another backbone"


class Network(nn.Module):
    """A timm backbone with a single-logit head, fed with stored images.

    Grey images have one channel. It is repeated over the three input channels, each normalised as published: for the
    first convolution this equals summing its filters over the channels, so that ImageNet filters keep what they learnt,
    and every backbone is treated alike.

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
        map_channels: C of its last feature map.
        heads: what training gives it beside its own head (:mod:`radtransfer.training.objective`); not part of a model.

    Raises:
        RadtransferError: unknown backbone, one that does not take images of that size, or one without what is needed of
            it: one linear layer behind pooled features [B, D].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str, input_size: int = 0, *, precision: Precision = "float32", mirror: bool = True
    ) -> None:
        super().__init__()
        check_backbones([backbone])
        self.backbone, self.precision, self.mirror = backbone, precision, mirror
        published = cast(timm.models.PretrainedCfg, timm.get_pretrained_cfg(backbone))
        self.input_size = input_size or int(published.input_size[-1])
        self.resizable = not published.fixed_input_size
        fixed: dict[str, Any] = {} if self.resizable else {"img_size": self.input_size}
        try:
            self.body = timm.create_model(backbone, pretrained=False, num_classes=1, **fixed)
            self.feature_dim = _head_inputs(self.body, backbone)
            if self.input_size != published.input_size[-1]:
                _try_size(self.body, self.input_size)
        except (AssertionError, ValueError, RuntimeError) as error:
            if memory.exhausted(error):
                raise
            raise RadtransferError(
                f"backbone {backbone} does not take images of {self.input_size} px ({memory.first_line(error)}); it "
                f"was published for {published.input_size[-1]} px: set input_size to 0, or to a size that fits"
            ) from None
        self.map_channels = int(cast(int, self.body.num_features))
        self.heads = nn.ModuleDict()
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

    def train_from(self, *, head_only: bool) -> None:
        """Go into training mode: all of it, or the heads alone, and the body stays as it is, averages and all."""
        head = self.body.get_classifier()  # type: ignore[operator]
        self.train().body.train(not head_only)
        self.body.requires_grad_(not head_only)
        head.train().requires_grad_()

    def maps(self, images: Tensor) -> Tensor:
        """The body's last output before pooling, of stored images [B, S, S]: a feature map or tokens."""
        prepared = self.prepare(images)
        with self.arithmetic():
            return cast(Tensor, cast(Any, self.body).forward_features(prepared))

    def as_map(self, maps: Tensor, channels: int = 0) -> Tensor:
        """What :meth:`maps` gives as a feature map float32 [B, C, h, w].

        Args:
            maps: that, or the output of an earlier stage.
            channels: C; 0: that of the last.

        Raises:
            RadtransferError: it is neither a feature map nor a square of tokens.
        """
        if maps.ndim == 4:
            own = channels or self.map_channels
            nhwc = getattr(self.body, "output_fmt", "") == "NHWC" or maps.shape[-1] == own != maps.shape[1]
            return (maps.permute(0, 3, 1, 2) if nhwc else maps).float()
        prefix = int(getattr(self.body, "num_prefix_tokens", 0) or 0)
        side = math.isqrt(maps.shape[1] - prefix) if maps.ndim == 3 else 0
        if not side or side * side != maps.shape[1] - prefix:
            raise RadtransferError(
                f"backbone {self.backbone!r} ends in {tuple(maps.shape)}, which is neither a feature map nor a square "
                f"of tokens, as pretrain_boxes and Grad-CAM need; {NAME_ANOTHER}"
            )
        return maps[:, prefix:].transpose(1, 2).reshape(len(maps), -1, side, side).float()

    def pooled(self, maps: Tensor) -> Tensor:
        """Features float32 [B, D] of what :meth:`maps` gives.

        Raises:
            RadtransferError: the backbone gives something else.
        """
        with self.arithmetic():
            features = cast(Any, self.body).forward_head(maps, pre_logits=True)
        shape = tuple(getattr(features, "shape", ()))
        if shape != (len(maps), self.feature_dim):
            raise RadtransferError(
                f"backbone {self.backbone} gives features {shape or type(features).__name__} of {len(maps)} images; "
                f"expected one vector of {self.feature_dim} for each; {NAME_ANOTHER}"
            )
        return cast(Tensor, features.float())

    def features(self, images: Tensor) -> Tensor:
        """Pooled features float32 [B, D] of stored images [B, S, S]."""
        return self.pooled(self.maps(images))

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What its own head and each of :attr:`heads` make of stored images [B, S, S]; :data:`MAIN` is its own."""
        maps = self.maps(images)
        features = self.pooled(maps)
        said = {MAIN: self.head(features)}
        for name, head in self.heads.items():
            said[name] = head(self.as_map(maps) if isinstance(head, nn.Conv2d) else features)
        return said

    def head(self, features: Tensor) -> Tensor:
        """Logits [B] of the positive class from features [B, D]."""
        return cast(Tensor, self.body.get_classifier()(features)).squeeze(1)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B] of the positive class for stored images [B, S, S]."""
        return self.head(self.features(images))


def check_backbones(names: Sequence[str]) -> None:
    """Check that timm knows every name, and the tag of its weights behind a dot where there is one.

    Raises:
        RadtransferError: names the first unknown one, with near matches.
    """
    for name in names:
        model, _, tag = name.partition(".")
        if model not in timm.list_models():
            now = timm.models.get_deprecated_models().get(model)
            hint = f"its name there is now {now}" if now else _near(model, timm.list_models())
            raise RadtransferError(f"backbones: timm has no model {name!r}; {hint}")
        tags = timm.models.get_arch_pretrained_cfgs(model)
        if "." in name and name not in tags:
            hint = f"it knows {', '.join(tags)}" if tags else f"it knows none for {model}"
            raise RadtransferError(f"backbones: timm knows no weights {tag!r} of {name!r}; {hint}")


def _near(name: str, known: Sequence[str]) -> str:
    """A hint for an unknown name: what begins with it, the shortest first, else what looks like it."""
    name = name.lower()
    longer = sorted((each for each in known if name and each.startswith(name)), key=lambda each: (len(each), each))
    near = longer[:4] or difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else "list them with timm.list_models()"


def _head_inputs(body: nn.Module, backbone: str) -> int:
    """D, the length of the features that the head takes.

    Raises:
        RadtransferError: the head is not one linear layer with one output.
    """
    head: Any = body.get_classifier() if hasattr(body, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(head, nn.Linear) or head.out_features != 1 or not hasattr(body, "forward_head"):
        found = f"{len(head)} heads" if isinstance(head, tuple) else f"a head of class {type(head).__name__}"
        raise RadtransferError(
            f"backbone {backbone} has {found}; expected one linear layer behind pooled features; {NAME_ANOTHER}"
        )
    return head.in_features


def _try_size(body: nn.Module, side: int) -> None:
    """Pass one image of that side.

    Raises:
        AssertionError, ValueError, RuntimeError: it does not fit; of timm, or because a border would be left out.
    """
    patch = getattr(getattr(body, "patch_embed", None), "patch_size", None) or (1,)
    if side % patch[0]:
        raise ValueError(f"patches of {patch[0]} px do not fill them")
    with torch.inference_mode():
        body.eval()(torch.zeros(1, 3, side, side))
    body.train()


def load_weights(network: Network, path: Path) -> None:
    """Put the weights of a model's file into a network.

    Raises:
        RadtransferError: it cannot be read, or they are those of another backbone or, where it cannot be resized, of
            another input size.
    """
    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, OSError, SafetensorError) as error:
        what = network.backbone if network.resizable else f"{network.backbone} for {network.input_size} px"
        raise RadtransferError(f"{path}: not weights of {what}: {error}") from None


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
    load_weights(network, model_dir / f"{fit}{WEIGHTS}")
    return network.to(device()).to(memory_format=torch.channels_last).eval()
