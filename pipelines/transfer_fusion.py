"""Does in-domain transfer learning, and fusing several networks, help on one body part's X-rays?"""

from __future__ import annotations

from kfp.dsl.base_component import BaseComponent

from radtransfer_components.support import IMAGE
from radtransfer_pipelines.graph import build
from radtransfer_pipelines.resources import Target

DESCRIPTION = (
    "Compares transfer learning from related X-rays, from ImageNet and none, single networks and their fusion, on the "
    "X-rays of one body part; registers the best model."
)
DEFAULTS = {
    "name": "fracatlas-hand",
    "target_layout": "fracatlas",
    "target_path": "FracAtlas",
    "target_part": "hand",
    "source_layout": "fracatlas",
    "source_path": "FracAtlas",
}


def transfer_fusion(*, image: str = IMAGE, target: Target = "cluster") -> BaseComponent:
    """Build the pipeline; see :func:`radtransfer_pipelines.graph.build`."""
    return build("transfer_fusion", DESCRIPTION, DEFAULTS, image=image, target=target)
