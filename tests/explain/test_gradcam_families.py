"""Grad-CAM through a classifier into one member of each family of backbones, at real input sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from radtransfer.explain.gradcam import contribution, gradcam
from radtransfer.fusion.calibration import Calibration
from radtransfer.fusion.predictor import Predictor
from radtransfer.training.network import Network

PLANTED = 48
PLACES = ((8, 64), (64, 168))  # neither is where the other, mirrored or transposed, lies
MARGIN = 32  # px, a cell of the coarsest maps
FAMILIES = {
    "EfficientNet-Lite": "tf_efficientnet_lite0",
    "EfficientNet": "efficientnet_b0",
    "ResNet": "resnet10t",
    "DenseNet": "densenet121",
    "Xception": "legacy_xception",
    "Xception, aligned": "xception41",
    "ConvNeXt": "convnext_atto",
    "MobileNet v2": "mobilenetv2_035",
    "MobileNet v3": "mobilenetv3_small_050",
    "MobileNet v4": "mobilenetv4_conv_small_035",
    "ViT": "vit_tiny_patch16_224",
    "DeiT": "deit_tiny_patch16_224",
    "Swin": "swin_tiny_patch4_window7_224",
    "Swin v2": "swinv2_tiny_window8_256",
}
LONG = {"DenseNet", "Xception", "Xception, aligned", "Swin", "Swin v2"}


def network_of(backbone: str) -> Network:
    """With random weights; the filters of convolutional networks that keep the size see their own place alone.

    As drawn, deep ones of 32 px a cell see all of the image from everywhere, so that nothing could be said of where a
    map should lie. Gates, which see all of it too, stand still.
    """
    torch.manual_seed(0)
    network = Network(backbone, 256 if backbone.endswith("256") else 224).eval()
    with torch.no_grad():
        for module in network.body.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1 and module.stride[0] == 1:
                side = module.kernel_size[0]
                centre = torch.zeros(side, side)
                centre[side // 2, side // 2] = side
                module.weight *= centre
            elif type(module).__name__ in ("SqueezeExcite", "SEModule"):
                for parameter in module.parameters():
                    parameter.zero_()
    return network


def images(side: int) -> NDArray[np.uint8]:
    """Faint noise, and the same with strong noise planted at each of the places."""
    rng = np.random.default_rng(0)
    faint = np.clip(128 + rng.normal(0, 6, (side, side)), 0, 255).astype(np.uint8)
    found = np.stack([faint] * (1 + len(PLACES)))
    for image, (y, x) in zip(found[1:], PLACES, strict=True):
        image[y : y + PLANTED, x : x + PLANTED] = rng.integers(0, 256, (PLANTED, PLANTED))
    return found


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=pytest.mark.slow if one in LONG else ()) for one in FAMILIES]
)
def test_the_map_lies_where_the_image_was_changed(family: str) -> None:
    """By a classifier that weighs features as the change moved them.

    Of the square of what the change adds to a map, at least half lies at the planted place, a cell around it included,
    which is a fifth of the image; mirrored, turned or transposed, hardly any would.
    """
    network = network_of(FAMILIES[family])
    given = images(network.input_size)
    bare = Predictor((network,), None, Calibration(1.0, 0.0), 0.5)
    ((features, _),) = bare.passed(given)
    for number, (y, x) in enumerate(PLACES, start=1):
        weights = (features[number] - features[0]).astype(np.float64)
        classifier = LogisticRegression().fit(np.eye(2, len(weights)), [0, 1])
        weights /= np.abs(weights).max()
        classifier.coef_ = weights[None]
        predict = Predictor((network,), classifier, Calibration(1.0, 0.0), 0.5)

        changed, before = contribution(network, given[[number, 0]], np.stack([weights, weights]))
        cells = np.linalg.matrix_rank(changed, tol=1e-5 * np.linalg.norm(changed, 2))
        # Enlarging leaves the rank of the small map, at most its side and in rare cases less.
        assert 16 <= network.input_size / cells < 40, "what is enlarged is a map of cells of 16 or 32 px"

        heat = gradcam(predict, given[number : number + 1], predict.passed(given[number : number + 1]))
        expected = changed.clip(0) / changed.max()
        np.testing.assert_allclose(heat.maps[0], expected, atol=1e-3, err_msg="the decision's own map")
        assert heat.fidelity.tolist() == [1]

        added = (changed - before).astype(np.float64) ** 2
        around = added[max(0, y - MARGIN) : y + PLANTED + MARGIN, max(0, x - MARGIN) : x + PLANTED + MARGIN]
        assert around.sum() / added.sum() > 0.5
