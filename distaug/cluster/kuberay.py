"""The manifest of a job for Kubernetes: one RayJob of KubeRay, and a ConfigMap that holds the job file."""

import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from textwrap import indent
from typing import Any

from distaug.cluster.private import STOP_WITHIN_S
from distaug.errors import JobError
from distaug.spec.conflicts import check
from distaug.spec.document import dump
from distaug.spec.job import JobSpec
from distaug.spec.load import dump_job
from distaug.store.place import is_url, place

__all__ = ["manifest"]

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")
"""Of a RayJob: KubeRay makes the names of services from it."""
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_USER = 1000
"""Of the image."""
_CLUSTERS_AGAIN = 1
"""For a head that was lost: KubeRay repeats every failure, also one that a new cluster cannot mend."""
_CLEAN_UP_S = 30
"""How long the cluster, GPUs included, stays after its job: until the last metrics have been read."""
_TELL_WITHIN_S = 15
_HEAD_DEADLINE_S = 60
_DEADLINE_S = 25
"""What the shortest notice of a spot machine leaves for saving."""
_GRACE_S = 60
_SHM_GIB = 2
"""Of a worker, and of the head."""
_ALIVE = ["wget", "-q", "-T", "5", "-O", "/dev/null", "http://127.0.0.1:52365/api/local_raylet_healthz"]
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_NO_PRIVILEGES = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_OBJECT_STORE = {"object-store-memory": "500000000"}
_JOB_FILE = "/etc/distaug/job.yaml"


def manifest(job: JobSpec, *, image: str, volumes: Mapping[str, str] | None = None, workers_per_pod: int = 1) -> str:
    """Render a job for `kubectl apply`; KubeRay makes a cluster for it, runs it there, and removes the cluster.

    Args:
        job: The job; its section `cluster` says how many pods there are and of what size.
        image: The image of all pods, which has distaug.
        volumes: Persistent volume claims by the path at which all pods mount them.
        workers_per_pod: Workers of one pod: they share its decoded data, and NCCL links their GPUs directly.

    Returns:
        YAML of a ConfigMap and a RayJob.

    Raises:
        JobError: The job leaves open what Kubernetes must know, or has paths that the pods do not share.
    """
    check(job)
    volumes = volumes or {}
    _check_name(job.name)
    _check_numbers(job, workers_per_pod)
    _check_paths(job, volumes)
    _check_labels(job)
    head = {"metadata": {"name": job.name, "labels": {"app.kubernetes.io/name": "distaug"}}}
    config_map = dump({"apiVersion": "v1", "kind": "ConfigMap"} | head)
    config_map += f"data:\n  {PurePosixPath(_JOB_FILE).name}: |\n{indent(dump_job(job), '    ')}"
    ray_job = dump(
        {"apiVersion": "ray.io/v1", "kind": "RayJob"} | head | {"spec": _ray_job(job, image, volumes, workers_per_pod)}
    )
    return f"{config_map}---\n{ray_job}"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise JobError(
            f"name: {name} cannot be a RayJob's; allowed are up to 47 lower-case letters, digits and hyphens, a letter "
            "first; give another one with --name"
        )


def _check_numbers(job: JobSpec, workers_per_pod: int) -> None:
    fields = ("workers", "gpus_per_worker", "cpus_per_worker")
    if undecided := [f"cluster.{field}" for field in fields if getattr(job.cluster, field) == "auto"]:
        raise JobError(
            f"{', '.join(undecided)}: auto, and Kubernetes must know how many pods of what size to find; give numbers, "
            "e.g. --set cluster.workers=2 --set cluster.gpus_per_worker=1 --set cluster.cpus_per_worker=8"
        )
    if any(workers % workers_per_pod for workers in _ends(job)):
        raise JobError(
            f"cluster.workers: {job.cluster.workers} cannot be dealt out to pods of {workers_per_pod}; give numbers "
            f"that {workers_per_pod} divides, or another --workers-per-pod"
        )


def _ends(job: JobSpec) -> tuple[int, int]:
    """Return the least and the most workers."""
    workers = job.cluster.workers
    assert workers != "auto"
    return workers if isinstance(workers, tuple) else (workers, workers)


def _check_paths(job: JobSpec, volumes: Mapping[str, str]) -> None:
    for mount in volumes:
        if not mount.startswith("/"):
            raise JobError(
                f"the volume {volumes[mount]} is to be mounted at {mount}; give an absolute path, e.g. /runs"
            )
    weights, distill = job.model.weights, job.train.distill
    paths = {
        "runs_dir": job.runs_dir,
        "data.path": job.data.path,
        # Otherwise a name of torchvision's, such as IMAGENET1K_V1.
        "model.weights": None if weights is None or weights.isidentifier() else weights,
        "train.distill.teacher": None if distill is None else distill.teacher,
    }
    for field, path in paths.items():
        if path is not None:
            _check_shared(field, path, volumes)


def _check_shared(field: str, path: str, volumes: Mapping[str, str]) -> None:
    try:
        there = place(path)
    except JobError as error:
        raise JobError(f"{field}: {error}") from error
    if not isinstance(there, Path):
        return
    if not is_url(path) and not path.startswith("/"):
        raise JobError(
            f"{field}: {path} is relative, and pods have no working directory in common; give a path on a volume "
            f"that all of them mount, or a URL: --set {field}=/{there.name} or s3://bucket/{there.name}"
        )
    if not any(there.is_relative_to(mount) for mount in volumes):
        mounted = ", ".join(volumes) or "none"
        raise JobError(
            f"{field}: {there} is on no volume (mounted: {mounted}), and pods share nothing else; "
            f"give --volume CLAIM:{Path(*there.parts[:2])}, or a URL"
        )


def _check_labels(job: JobSpec) -> None:
    for name, value in job.cluster.node_labels.items():
        if not _LABEL.fullmatch(value):
            raise JobError(
                f"cluster.node_labels.{name}: found {value}; in a manifest only plain values are allowed, since they "
                "become the pods' nodeSelector; for anything else add an affinity to the manifest"
            )


def _ray_job(job: JobSpec, image: str, volumes: Mapping[str, str], workers_per_pod: int) -> dict[str, Any]:
    return {
        "entrypoint": f"distaug run {_JOB_FILE}",
        "jobId": job.name,
        "backoffLimit": _CLUSTERS_AGAIN,
        "preRunningDeadlineSeconds": round(60 * job.cluster.start_timeout_min),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _CLEAN_UP_S,
        "rayClusterSpec": _ray_cluster(job, image, volumes, workers_per_pod),
        "submitterPodTemplate": {
            "spec": _pod(
                {"name": "submitter", "image": image, "resources": _resources("500m", 1)},
                restartPolicy="Never",
            )
        },
    }


def _ray_cluster(job: JobSpec, image: str, volumes: Mapping[str, str], workers_per_pod: int) -> dict[str, Any]:
    least, most = (workers // workers_per_pod for workers in _ends(job))
    elastic: dict[str, Any] = {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "securityContext": _NO_PRIVILEGES},
    }
    return {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},
        **(elastic if least < most else {}),
        "headGroupSpec": {
            # No ranks on the head: losing a rank's node must not lose the driver.
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", **_OBJECT_STORE},
            "template": {"spec": _head(job, image, volumes)},
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                # KubeRay starts the job when all of them are there; Ray Train asks its autoscaler for the others.
                "replicas": least,
                "minReplicas": least,
                "maxReplicas": most,
                **({"labels": labels} if (labels := _own_labels(job)) else {}),
                "rayStartParams": {"num-cpus": str(_cores(job, workers_per_pod)), **_OBJECT_STORE, **_promised(job)},
                "template": {"spec": _worker(job, image, volumes, workers_per_pod)},
            }
        ],
    }


def _cores(job: JobSpec, workers_per_pod: int) -> int:
    cores = job.cluster.cpus_per_worker
    assert cores != "auto"
    return workers_per_pod * cores


def _promised(job: JobSpec) -> dict[str, str]:
    """Tell the autoscaler which accelerator a pod will have; a running node finds that out itself."""
    if job.cluster.accelerator is None or not isinstance(job.cluster.workers, tuple):
        return {}
    return {"resources": json.dumps(json.dumps({f"accelerator_type:{job.cluster.accelerator}": 1}))}


def _head(job: JobSpec, image: str, volumes: Mapping[str, str]) -> dict[str, Any]:
    container = {
        "name": "ray-head",
        "image": image,
        "env": _env({"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WITHIN_S)}),
        # For Ray's services and the driver, and what comes after the training.
        "resources": _resources("2", 8),
        "volumeMounts": [{"name": "job", "mountPath": str(PurePosixPath(_JOB_FILE).parent), "readOnly": True}],
        "lifecycle": _drain(_HEAD_DEADLINE_S),
        **_probes(),
    }
    pod = _pod(container, volumes=volumes, shm_gib=_SHM_GIB, terminationGracePeriodSeconds=STOP_WITHIN_S)
    pod["volumes"].append({"name": "job", "configMap": {"name": job.name}})
    return pod


def _worker(job: JobSpec, image: str, volumes: Mapping[str, str], workers_per_pod: int) -> dict[str, Any]:
    cores = _cores(job, workers_per_pod)
    gpus = {"nvidia.com/gpu": str(workers_per_pod)} if job.cluster.gpus_per_worker == 1 else {}
    container = {
        "name": "ray-worker",
        "image": image,
        "env": _env(job.cluster.env),
        "resources": _resources(str(cores), max(8, 4 * cores), gpus),
        "lifecycle": _drain(_DEADLINE_S),
        **_probes(),
    }
    return _pod(
        container,
        volumes=volumes,
        shm_gib=workers_per_pod * _SHM_GIB,
        automountServiceAccountToken=False,
        terminationGracePeriodSeconds=_GRACE_S,
        # There also when empty: what deploy/kuberay/components add to.
        nodeSelector=_own_labels(job),
        tolerations=[],
    )


def _drain(deadline_s: int) -> dict[str, Any]:
    """Tell Ray that this node goes, so that the ranks save; the pod stays until they, and with them Ray, have left."""
    script = (
        f"timeout {_TELL_WITHIN_S} ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "
        f"'the pod stops' --deadline-remaining-seconds {deadline_s} && for second in {{1..{deadline_s}}}; do "
        "grep -qsx raylet /proc/[0-9]*/comm || break; sleep 1; done"
    )
    return {"preStop": {"exec": {"command": ["/bin/bash", "-lc", script]}}}


def _own_labels(job: JobSpec) -> dict[str, str]:
    """Return the labels of machines that pods are put on and hand on to Ray, which finds out its own itself."""
    return {name: value for name, value in job.cluster.node_labels.items() if not name.startswith("ray.io/")}


def _pod(
    container: dict[str, Any], *, volumes: Mapping[str, str] | None = None, shm_gib: int = 0, **settings: Any
) -> dict[str, Any]:
    """Return the spec of a pod whose container is no superuser and writes to its volumes alone."""
    claims = volumes or {}
    names = {claim: f"claim-{number}" for number, claim in enumerate(dict.fromkeys(claims.values()))}
    scratch: dict[str, tuple[str, dict[str, str]]] = {"tmp": ("/tmp", {}), "home": ("/home/distaug", {})}
    if shm_gib:
        # For Ray's objects and what loader processes hand over; counts as memory of the pod.
        scratch["shm"] = ("/dev/shm", {"medium": "Memory", "sizeLimit": f"{shm_gib}Gi"})
    mounts = container.get("volumeMounts", [])
    mounts += [{"name": names[claim], "mountPath": mount} for mount, claim in claims.items()]
    mounts += [{"name": name, "mountPath": path} for name, (path, _) in scratch.items()]
    held = [{"name": name, "persistentVolumeClaim": {"claimName": claim}} for claim, name in names.items()]
    held += [{"name": name, "emptyDir": kind} for name, (_, kind) in scratch.items()]
    safe = container | {"volumeMounts": mounts, "securityContext": _NO_PRIVILEGES | {"readOnlyRootFilesystem": True}}
    return settings | {"securityContext": _POD_SECURITY, "containers": [safe], "volumes": held}


def _resources(cpu: str, memory_gib: int, devices: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Ask for as much as may be used, so that a pod is among the last to be evicted."""
    both = {"cpu": cpu, "memory": f"{memory_gib}Gi", **(devices or {})}
    return {"requests": both, "limits": both}


def _env(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _probes() -> dict[str, Any]:
    """Ask Ray's agent for its raylet; a busy node may be late, so only five silent minutes end it."""
    probe = {"exec": {"command": _ALIVE}, "timeoutSeconds": 6, "periodSeconds": 10}
    return {"readinessProbe": probe, "livenessProbe": probe | {"initialDelaySeconds": 60, "failureThreshold": 30}}
