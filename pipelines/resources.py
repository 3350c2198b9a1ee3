"""What each task needs, in one table, and how a task gets it."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from radtransfer.datasets.pseudonym import VARIABLE
from radtransfer.errors import RadtransferError
from radtransfer.provenance import IMAGE as IMAGE_VARIABLE

Target = Literal["cluster", "cluster-gpu", "local"]
"""Where a pipeline is to run: a cluster's CPUs; a cluster with GPUs for training; this machine by ``kfp.local``."""


@dataclass(frozen=True)
class Resources:
    """What one task needs on a cluster.

    Attributes:
        cpu: request and limit, cores; of a task that takes GPUs, for each of them.
        memory: request and limit, GiB; likewise.
        gpu: takes GPUs where the pipeline is compiled for a cluster that has some.
        retries: how often a failed task is tried again. Only what may fail by the network (the data, the registry):
            what fails by its data would fail again, and inside a loop KFP ignores retries altogether.
        cached: whether a finished task of the same inputs answers for it on a cluster. Not where the inputs do not say
            all: the data volume may hold other images under the same path.
        volume: reads or writes folders of the data volume: the data root, ``weights_mirror``,
            ``pretrained_models``, ``registry``.
        pseudonyms: gets the key that makes pseudonyms of patient ids.
        storage: gets the credentials of the object storage that data, checkpoints and models may lie in.
        names_image: is told its image, which it notes.
    """

    cpu: int
    memory: int
    gpu: bool = False
    retries: int = 0
    cached: bool = True
    volume: bool = False
    pseudonyms: bool = False
    storage: bool = False
    names_image: bool = False


RESOURCES: dict[str, Resources] = {
    "preprocess": Resources(cpu=2, memory=4, retries=2, cached=False, volume=True, pseudonyms=True, storage=True),
    "pretrain": Resources(cpu=4, memory=8, gpu=True, volume=True, storage=True),
    "finetune": Resources(cpu=4, memory=8, gpu=True, volume=True, storage=True),
    "extract": Resources(cpu=2, memory=4),
    "fuse": Resources(cpu=1, memory=2),
    "classify": Resources(cpu=2, memory=4),
    "stress": Resources(cpu=2, memory=8),
    "evaluate": Resources(cpu=2, memory=4),
    "external": Resources(cpu=2, memory=8, retries=2, cached=False, volume=True, pseudonyms=True, storage=True),
    "explain": Resources(cpu=2, memory=4),
    "register": Resources(cpu=1, memory=2, retries=2, volume=True, storage=True, names_image=True),
    "report": Resources(cpu=1, memory=2),
}
GPU = "nvidia.com/gpu"
# Names in manifests/base, and where the volume appears in a task.
VOLUME_CLAIM = "radtransfer-data"
DATA_ROOT = "/data"
SECRET = "radtransfer-s3"  # noqa: S105 - a name
PSEUDONYM_KEY = "pseudonym-key"
STORAGE = {
    "access-key": "AWS_ACCESS_KEY_ID",
    "secret-key": "AWS_SECRET_ACCESS_KEY",
    "endpoint": "AWS_ENDPOINT_URL_S3",
    "region": "AWS_DEFAULT_REGION",
}


def settle(task: Any, step: str, *, image: str, target: Target, gpus: int = 1, looped: bool) -> Any:
    """Give a task its image, and on a cluster what :data:`RESOURCES` says.

    Locally there is nothing else to set: ``kfp.local`` ignores resources and would repeat a failed task at once.

    Args:
        task: a ``kfp.dsl.PipelineTask``.
        step: its row in the table.
        image: image to run in.
        target: where the pipeline is to run.
        gpus: that a training takes where there are some; it runs one process on each.
        looped: whether it stands in a loop, where KFP ignores retries.
    """
    need = RESOURCES[step]
    task.set_container_image(image)
    if target == "local":
        task.set_caching_options(True)  # what the run's folder holds; `data_version` is part of the key
        return task
    task.set_caching_options(need.cached)
    taken = gpus if need.gpu and target == "cluster-gpu" else 0
    cpu, memory = (str(need.cpu * max(1, taken)), f"{need.memory * max(1, taken)}Gi")
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    if need.retries and not looped:
        task.set_retry(num_retries=need.retries, backoff_duration="30s", backoff_factor=2)
    if need.volume:
        # KFP cannot mount a claim read-only: what must not change is kept so by the volume behind the claim.
        kubernetes().mount_pvc(task, pvc_name=VOLUME_CLAIM, mount_path=DATA_ROOT)
    if need.pseudonyms:
        # Optional: data without patient ids need no key, and where one is needed the task itself says so.
        kubernetes().use_secret_as_env(task, SECRET, {PSEUDONYM_KEY: VARIABLE}, optional=True)
    if need.storage:
        # Optional too: a service account may have the rights, and data on the volume needs none.
        kubernetes().use_secret_as_env(task, SECRET, STORAGE, optional=True)
    if need.names_image:
        task.set_env_variable(IMAGE_VARIABLE, image)
    if taken:
        on_gpu(task, taken)
    return task


def kubernetes() -> ModuleType:
    """kfp's settings for Kubernetes, which only packages for clusters need.

    Raises:
        RadtransferError: they are not installed.
    """
    try:
        from kfp import kubernetes as module
    except ImportError as error:
        raise RadtransferError(
            "packages for clusters need kfp-kubernetes, which is not installed: pip install 'radtransfer[cluster]'"
        ) from error
    return module


def on_gpu(task: Any, count: int) -> Any:
    """Ask for so many GPUs of one node and let the pod onto nodes that are tainted for them."""
    task.set_accelerator_type(GPU).set_accelerator_limit(count)
    kubernetes().add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    # DataLoader workers share batches, and NCCL's processes gradients, through /dev/shm, 64 MiB by default.
    place, size = "/dev/shm", f"{count}Gi"  # noqa: S108
    kubernetes().empty_dir_mount(task, volume_name="shm", mount_path=place, medium="Memory", size_limit=size)
    return task
