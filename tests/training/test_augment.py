"""Augmentation changes images within bounds, repeatably, and never what it must not."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer.training.augment import augment


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 5), side=st.sampled_from([32, 48]))
def test_range_shape_and_repeatability(seed: int, batch: int, side: int) -> None:
    images = torch.randint(0, 256, (batch, side, side), dtype=torch.uint8, generator=generator(seed))
    once, again = (augment(images, generator(seed))[0] for _ in range(2))
    assert once.shape == images.shape and once.dtype == torch.float32
    assert once.min() >= 0 and once.max() <= 255
    assert torch.equal(once, again)


def test_every_image_of_a_batch_is_changed_in_its_own_way() -> None:
    one = torch.randint(0, 256, (1, 32, 32), dtype=torch.uint8, generator=generator(0))
    views, _ = augment(one.repeat(8, 1, 1), generator(1))
    assert all(not torch.equal(views[0], view) for view in views[1:])


def test_top_stays_on_top_and_sides_change_places_only_when_allowed() -> None:
    images = torch.zeros(200, 48, 48, dtype=torch.uint8)
    images[:, 8:20, 8:20] = 255  # a bright block up on the left

    def left_share(views: torch.Tensor) -> float:
        left, right = views[:, :24, :24].mean((1, 2)), views[:, :24, 24:].mean((1, 2))
        return (left > right).float().mean().item()

    views, _ = augment(images, generator(2))
    assert (views[:, :24].mean((1, 2)) > views[:, 24:].mean((1, 2))).all()
    assert 0.3 < left_share(views) < 0.7
    assert left_share(augment(images, generator(2), flip=False)[0]) == 1.0
