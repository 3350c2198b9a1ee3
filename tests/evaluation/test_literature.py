from __future__ import annotations

import pytest

from radtransfer.evaluation.literature import published


@pytest.mark.parametrize(
    ("part", "images", "figures", "accuracy", "kappa"),
    [
        ("humerus", 288, (87.85, 87.63, 75.69), (0.836, 0.911), (0.68, 0.83)),
        ("wrist", 659, (85.58, 82.70, 70.46), (0.827, 0.881), (0.65, 0.76)),
    ],
)
def test_the_published_figures_and_their_intervals(
    part: str, images: int, figures: tuple[float, ...], accuracy: tuple[float, float], kappa: tuple[float, float]
) -> None:
    found = published("mura", part)
    assert found is not None and found.images == images and str(images) in found.test
    values = [found.metrics[metric]["value"] for metric in ("accuracy", "f1", "kappa")]
    assert [round(100 * float(value or 0), 2) for value in values] == list(figures)
    for metric, ends, digits in (("accuracy", accuracy, 3), ("kappa", kappa, 2)):
        one = found.metrics[metric]  # type: ignore[index]
        assert (round(float(one["low"] or 0), digits), round(float(one["high"] or 0), digits)) == ends
    assert found.metrics["f1"]["low"] is None


def test_nothing_was_published_for_other_targets() -> None:
    assert published("mura", "hand") is None and published("fracatlas", "humerus") is None
