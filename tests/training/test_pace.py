"""What a training is estimated to take."""

from __future__ import annotations

import pytest

from radtransfer.training.pace import Pace, pace


def test_a_pace_is_measured() -> None:
    small, large = (pace("test_resnet", side, 4, 1, "float32") for side in (32, 256))
    assert 0 < small.train < large.train and 0 < large.forward < large.train
    assert (small.side, small.resizable) == (32, True) and not pace("test_vit", 0, 4, 1, "bfloat16").resizable


@pytest.mark.parametrize(("resizable", "shares"), [(False, 1 + 1 + 1 + 1), (True, 0.25 + 0.25 + 0.49 + 1)])
def test_small_images_cost_less(resizable: bool, shares: float) -> None:
    """Four epochs at 320 px begin, where they may, at 160, 160 and 224 px."""
    assert Pace(0.3, 0.1, 320, resizable).training(4, 100, 40) == pytest.approx(shares * (100 * 0.3 + 40 * 0.1))
