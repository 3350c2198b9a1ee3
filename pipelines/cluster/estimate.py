"""About what a run on a cluster will take: hours of cores and GPUs, and room in object storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from radtransfer.config import TL_SOURCES, RunConfig
from radtransfer.datasets.records import IMAGE_SUFFIXES
from radtransfer.datasets.roots import S3Root, parse
from radtransfer.storage import Bucket
from radtransfer_pipelines.plan import Work, timed
from radtransfer_pipelines.resources import RESOURCES

FLOAT32 = 4
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """Of a backbone: its parameters, and the length D of its features."""

    parameters: int
    features: int


@dataclass(frozen=True)
class Estimate:
    """What a run will take, but for classifiers, evaluation, explanations and the start of each pod.

    Attributes:
        core_hours: that tasks hold cores, by the requests in :data:`radtransfer_pipelines.resources.RESOURCES`, at the
            speed of this machine.
        gpu_hours: that trainings would hold GPUs that are no faster than this machine: the most that it can be, since
            they are faster. None: the pipeline asks for none.
        stored: bytes of artifacts by what they are.
    """

    core_hours: float
    gpu_hours: float | None
    stored: dict[str, int]

    def lines(self) -> list[str]:
        """In words."""
        gib = ", ".join(f"{what} {count / GIB:.2f}" for what, count in self.stored.items())
        said = [
            f"training and extraction: about {self.core_hours:.1f} core-hours at the speed of this machine; "
            "classifiers, evaluation and explanations come on top",
            f"artifacts: about {sum(self.stored.values()) / GIB:.2f} GiB in object storage ({gib})",
        ]
        if self.gpu_hours is not None:
            said.insert(
                1, f"of these trainings: at most {self.gpu_hours:.1f} GPU-hours, were a GPU no faster than this CPU"
            )
        return said


def estimate(config: RunConfig, target: int, source: int, gpus: bool) -> Estimate:
    """Estimate a run; imports PyTorch and tries every backbone for a moment.

    Args:
        config: the run.
        target, source: images of the two sides, before any is opened.
        gpus: whether trainings take GPUs.

    Raises:
        RadtransferError: an unknown backbone.
    """
    from radtransfer.training.network import Network

    sizes = {}
    for name in config.backbones:
        network = Network(name, config.input_size)
        count = sum(each.numel() for each in network.body.parameters())
        sizes[name] = Size(count, network.feature_dim)
    cap = config.max_images
    target, source = (min(count, cap) if cap else count for count in (target, source))
    return priced(config, timed([config], target, source)[0], sizes, target, source, gpus)


def priced(
    config: RunConfig, rows: Sequence[Work], sizes: Mapping[str, Size], target: int, source: int, gpus: bool
) -> Estimate:
    """The estimate by what each step takes here and by the sizes of the backbones; arguments as of :func:`estimate`."""
    core_seconds = sum(row.seconds * RESOURCES[row.step].cpu for row in rows)
    gpu_seconds = sum(row.seconds for row in rows if RESOURCES[row.step].gpu)
    fits, sources = 2 if config.refit else 1, len(TL_SOURCES)
    parameters = FLOAT32 * sum(size.parameters for size in sizes.values())
    features = FLOAT32 * sum(size.features for size in sizes.values())
    stored = {
        "images": (target + source) * config.image_size**2,
        "models": parameters * (sources * fits + 1),  # the one is pre-trained, or taken up
        "features": 2 * sources * fits * target * features,  # of each model, and fused
        "bundle": parameters,
    }
    return Estimate(core_seconds / 3600, gpu_seconds / 3600 if gpus else None, stored)


def counted(config: RunConfig, data_root: str) -> tuple[int, int] | None:
    """Images of target and source at most, by the names in a bucket; None: the data root is in none.

    Of a data set whose files are of several body parts it counts all.

    Raises:
        RadtransferError: the bucket cannot be listed.
    """
    root = parse(data_root)
    if not isinstance(root, S3Root):
        return None
    bucket = Bucket(root.bucket)

    def count(folder: str) -> int:
        last = root.prefix.rpartition("/")[2]
        place = root.prefix if last == folder else "/".join(filter(None, (root.prefix, folder)))
        return sum(each.key.lower().endswith(IMAGE_SUFFIXES) for each in bucket.list(f"{place}/"))

    return count(config.target_path), count(config.source_path)
