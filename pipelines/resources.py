"""What each task needs, in one table, and how a task gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from radtransfer.datasets.pseudonym import VARIABLE
from radtransfer.errors import RadtransferError
from radtransfer.provenance import IMAGE as IMAGE_VARIABLE
from radtransfer.registry.notify import VARIABLE as WEBHOOK

Target = Literal["cluster", "local"]
"""Where a pipeline is to run: a cluster, or this machine by ``kfp.local``."""


@dataclass(frozen=True)
class Resources:
    """What one task needs on a cluster.

    Attributes:
        cpu: request and limit, cores; of a task that takes GPUs the default of ``training_cpu``.
        memory: request and limit, GiB; likewise of ``training_memory``.
        disk: request and limit of ephemeral storage, GiB: the inputs that the pod downloads, its caches and outputs.
            KFP 2.17 has no setting for it (kubeflow/pipelines 11137): it is an annotation of the pod, which
            ``manifests/components/ephemeral-storage`` makes a request and a limit of.
        gpu: runs in the GPU pool, if the run names one.
        retries: how often a failed task is tried again. Only what may fail by the network (the data, the registry):
            what fails by its data would fail again, and inside a loop KFP ignores retries altogether.
        cached: where a finished task of the same inputs answers for it. On no cluster where the inputs do not say all:
            the data volume may hold other images under the same path. Nowhere where a task looks at how things are now.
        volume: reads or writes folders of the data volume: the data root, ``weights_mirror``,
            ``pretrained_models``, ``registry``.
        pseudonyms: gets the key that makes pseudonyms of patient ids.
        storage: gets the credentials of the object storage that data, checkpoints and models may lie in.
        names_image: is told its image, which it notes.
        webhook: gets the URL to tell of what was decided.
    """

    cpu: int
    memory: int
    disk: int
    gpu: bool = False
    retries: int = 0
    cached: Literal["everywhere", "locally", "nowhere"] = "everywhere"
    volume: bool = False
    pseudonyms: bool = False
    storage: bool = False
    names_image: bool = False
    webhook: bool = False


_TRAINING = Resources(4, 8, 30, gpu=True, volume=True, storage=True)
RESOURCES: dict[str, Resources] = {
    "resolve": Resources(1, 2, 5, cached="nowhere", volume=True, storage=True),
    "preflight": Resources(1, 4, 10, cached="nowhere", volume=True, pseudonyms=True, storage=True, names_image=True),
    "preprocess": Resources(2, 4, 50, retries=2, cached="locally", volume=True, pseudonyms=True, storage=True),
    "pretrain": _TRAINING,
    "finetune": _TRAINING,
    "extract": Resources(2, 4, 30),
    "fuse": Resources(1, 2, 10),
    "classify": Resources(2, 4, 10),
    "stress": Resources(2, 8, 30),
    "evaluate": Resources(2, 4, 30),
    "external": Resources(2, 8, 50, retries=2, cached="locally", volume=True, pseudonyms=True, storage=True),
    "explain": Resources(2, 4, 30),
    "register": Resources(1, 2, 30, retries=2, volume=True, storage=True, names_image=True),
    "report": Resources(1, 2, 30),
    "drift": Resources(2, 4, 30, retries=2, cached="nowhere", volume=True, storage=True),
    "notify": Resources(1, 1, 5, cached="nowhere", webhook=True),
    "gate": Resources(2, 4, 30, retries=2, cached="nowhere", volume=True, storage=True, names_image=True),
}
DISK = "radtransfer/ephemeral-storage"
"""Annotation of a pod: what it asks for by :attr:`Resources.disk`."""
# Names in manifests/base, and where the volume appears in a task.
VOLUME_CLAIM = "radtransfer-data"
DATA_ROOT = "/data"
SECRET = "radtransfer-s3"  # noqa: S105 - a name
PSEUDONYM_KEY = "pseudonym-key"
WEBHOOK_KEY = "webhook"
STORAGE = {
    "access-key": "AWS_ACCESS_KEY_ID",
    "secret-key": "AWS_SECRET_ACCESS_KEY",
    "endpoint": "AWS_ENDPOINT_URL_S3",
    "region": "AWS_DEFAULT_REGION",
}
GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
PARAMETERS: dict[str, tuple[type, Any, str]] = {
    "secret": (
        str,
        SECRET,
        "Kubernetes Secret with the pseudonym key, the credentials of the object storage and a webhook; its keys are "
        "those of manifests/base/secret.example.yaml. One that is not there counts as empty",
    ),
    "gpu_resource": (
        str,
        "",
        f"GPU pool: the resource that each training asks for, on NVIDIA's GPUs {GPU}; empty: trainings run on CPUs",
    ),
    "gpu_count": (str, "1", "GPU pool: how many of them, of one node; a training runs one process on each"),
    "gpu_node_selector": (
        dict,
        {},
        'GPU pool: labels of its nodes, {"LABEL": "VALUE", ...}; empty: any node that has the resource',
    ),
    "gpu_tolerations": (
        list,
        [],
        'GPU pool: its taints, [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, ...]; empty: '
        "none",
    ),
    "training_cpu": (str, str(_TRAINING.cpu), "cores of each training, request and limit; per GPU as many again"),
    "training_memory": (
        str,
        f"{_TRAINING.memory}Gi",
        "memory of each training, request and limit, which /dev/shm takes its room from; per GPU as much again",
    ),
}
"""Parameters that a run on a cluster has beside those of its configuration: type, default and meaning.

Counts and sizes are text: KFP's driver reads what it fills into a pod's resources as text, and a number as nothing.
"""


def on_gpus(count: int) -> dict[str, Any]:
    """Parameters of a run whose trainings take so many GPUs of NVIDIA's, by the names and taint that these have."""
    return {
        "gpu_resource": GPU,
        "gpu_count": str(count),
        "gpu_tolerations": [TAINT],
        "training_cpu": str(count * _TRAINING.cpu),
        "training_memory": f"{count * _TRAINING.memory}Gi",
    }


def settle(task: Any, step: str, *, image: str, target: Target, given: Mapping[str, Any], looped: bool) -> Any:
    """Give a task its image, and on a cluster what :data:`RESOURCES` says.

    Locally there is nothing else to set: ``kfp.local`` ignores resources and would repeat a failed task at once.

    Args:
        task: a ``kfp.dsl.PipelineTask``.
        step: its row in the table.
        image: image to run in.
        target: where the pipeline is to run.
        given: the run's parameters, those of :data:`PARAMETERS` among them where it is a cluster.
        looped: whether it stands in a loop, where KFP ignores retries.
    """
    need = RESOURCES[step]
    task.set_container_image(image)
    if target == "local":
        # By what the run's folder holds; `data_version` is part of the key.
        return task.set_caching_options(need.cached != "nowhere")
    task.set_caching_options(need.cached == "everywhere")
    if need.retries and not looped:
        task.set_retry(num_retries=need.retries, backoff_duration="30s", backoff_factor=2)
    settings = kubernetes()
    settings.add_pod_annotation(task, DISK, f"{need.disk}Gi")
    settings.set_security_context(task, run_as_non_root=True)
    if need.volume:
        # KFP cannot mount a claim read-only: what must not change is kept so by the volume behind the claim.
        settings.mount_pvc(task, pvc_name=VOLUME_CLAIM, mount_path=DATA_ROOT)
    if need.pseudonyms:
        # Optional: data without patient ids need no key, and where one is needed the task itself says so.
        settings.use_secret_as_env(task, given["secret"], {PSEUDONYM_KEY: VARIABLE}, optional=True)
    if need.storage:
        # Optional too: a service account may have the rights, and data on the volume needs none.
        settings.use_secret_as_env(task, given["secret"], STORAGE, optional=True)
    if need.webhook:
        settings.use_secret_as_env(task, given["secret"], {WEBHOOK_KEY: WEBHOOK}, optional=True)
    if need.names_image:
        task.set_env_variable(IMAGE_VARIABLE, image)
    if need.gpu:
        return on_gpu(task, given)
    task.set_cpu_request(str(need.cpu)).set_cpu_limit(str(need.cpu))
    return task.set_memory_request(f"{need.memory}Gi").set_memory_limit(f"{need.memory}Gi")


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


def on_gpu(task: Any, given: Mapping[str, Any]) -> Any:
    """Put a task into the GPU pool that a run names by its parameters; where it names none, it runs on CPUs."""
    resources = {name: given[name] for name in ("gpu_resource", "gpu_count", "training_cpu", "training_memory")}
    # Inside a loop KFP 2.17 writes parameters into a task's resources without handing them into the loop.
    task.register_pipeline_channels(list(resources.values()))
    task.set_accelerator_type(resources["gpu_resource"]).set_accelerator_limit(resources["gpu_count"])
    task.set_cpu_request(resources["training_cpu"]).set_cpu_limit(resources["training_cpu"])
    task.set_memory_request(resources["training_memory"]).set_memory_limit(resources["training_memory"])
    settings = kubernetes()
    settings.add_node_selector_json(task, given["gpu_node_selector"])
    settings.add_toleration_json(task, given["gpu_tolerations"])
    # DataLoader workers share batches, and NCCL's processes gradients, through /dev/shm, 64 MiB by default. Without a
    # size, which KFP takes no parameter for, its bound is the memory limit of the pod, which it counts towards.
    return settings.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory")  # noqa: S108
