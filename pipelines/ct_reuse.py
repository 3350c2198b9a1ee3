"""Are networks pre-trained on X-rays of use on CT slices?"""

from __future__ import annotations

from kfp.dsl.base_component import BaseComponent

from radtransfer_components.support import IMAGE
from radtransfer_pipelines.graph import build
from radtransfer_pipelines.resources import Target

DESCRIPTION = (
    "Pre-trains networks on X-rays (in_domain), fine-tunes them on chest CT slices and compares that with ImageNet "
    "transfer and no transfer; registers the best model."
)
DEFAULTS = {
    "name": "ct-reuse",
    "target_layout": "iqothnccd",
    "target_path": "IQ-OTHNCCD",
    "target_part": "normal-benign",
    "source_layout": "fracatlas",
    "source_path": "FracAtlas",
}


def ct_reuse(*, image: str = IMAGE, target: Target = "cluster") -> BaseComponent:
    """Build the pipeline; see :func:`radtransfer_pipelines.graph.build`."""
    return build("ct_reuse", DESCRIPTION, DEFAULTS, image=image, target=target)
