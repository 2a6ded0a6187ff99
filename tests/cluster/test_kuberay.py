"""What `distaug manifest` renders; python -m tests.cluster.test_kuberay records it anew."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distaug.cli import main
from distaug.cluster.kuberay import manifest
from distaug.errors import JobError
from distaug.spec.load import parse_job

MANIFESTS = Path(__file__).parent / "manifests"
JOB = "name: digits\nruns_dir: s3://bucket/runs\ndata: {source: digits}\nmodel: {name: smallnet}\n"
CPU = "cluster={workers: 2, gpus_per_worker: 0, cpus_per_worker: 2}"
ELASTIC = (
    "cluster={workers: [2, 8], gpus_per_worker: 1, cpus_per_worker: 8, accelerator: H100, retries: 1, "
    "start_timeout_min: 30, node_labels: {pool: training}, env: {NCCL_DEBUG: INFO, NCCL_IB_DISABLE: '1'}}"
)
RECORDED: dict[str, tuple[list[str], dict[str, Any]]] = {
    "cpu": ([CPU], {}),
    "elastic-gpu": ([ELASTIC], {"workers_per_pod": 2}),
    "volumes": (
        [CPU, "runs_dir=/mnt/runs", "data={source: folder, path: /data/birds}"],
        {"volumes": {"/mnt/runs": "runs", "/data": "sets"}},
    ),
}


def rendered(*sets: str, **options: Any) -> str:
    return manifest(parse_job(JOB, sets=[CPU, *sets]), image="registry.example/distaug:1", **options)


def spec(*sets: str, **options: Any) -> Any:
    return list(yaml.safe_load_all(rendered(*sets, **options)))[1]["spec"]


def cluster(*sets: str, **options: Any) -> Any:
    return spec(*sets, **options)["rayClusterSpec"]


def workers(*sets: str, **options: Any) -> Any:
    (group,) = cluster(*sets, **options)["workerGroupSpecs"]
    return group


def container(group: Any) -> Any:
    (only,) = group["template"]["spec"]["containers"]
    return only


def pods(*sets: str, **options: Any) -> list[Any]:
    whole = spec(*sets, **options)
    groups = [whole["rayClusterSpec"]["headGroupSpec"], *whole["rayClusterSpec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups] + [whole["submitterPodTemplate"]["spec"]]


def recorded(name: str) -> str:
    sets, options = RECORDED[name]
    return rendered(*sets, **options)


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_manifests(name: str) -> None:
    assert recorded(name) == (MANIFESTS / f"{name}.yaml").read_text()


def test_the_pods_get_the_job_as_it_is() -> None:
    asked = parse_job(JOB, sets=[ELASTIC, "train.epochs=3"])
    config_map, ray_job = yaml.safe_load_all(manifest(asked, image="i"))
    assert parse_job(config_map["data"]["job.yaml"]) == asked
    head = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = [volume for volume in head["volumes"] if "configMap" in volume]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    (mount,) = [mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] == volume["name"]]
    assert ray_job["spec"]["entrypoint"] == f"distaug run {mount['mountPath']}/job.yaml"
    assert ray_job["spec"]["jobId"] == ray_job["metadata"]["name"] == asked.name


def test_as_many_pods_as_workers() -> None:
    group, whole = workers("cluster.workers=4"), cluster("cluster.workers=4")
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (4, 4, 4)
    assert "enableInTreeAutoscaling" not in whole


def test_a_range_is_scaled_by_ray() -> None:
    group, whole = workers("cluster.workers=[2, 4]"), cluster("cluster.workers=[2, 4]")
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (2, 2, 4)
    assert whole["enableInTreeAutoscaling"] is True


def test_cores_and_gpus() -> None:
    group = workers("cluster.cpus_per_worker=6", "cluster.gpus_per_worker=1")
    resources = container(group)["resources"]
    assert resources["limits"] == resources["requests"] == {"cpu": "6", "memory": "24Gi", "nvidia.com/gpu": "1"}
    assert group["rayStartParams"]["num-cpus"] == "6"
    assert "nvidia.com/gpu" not in container(workers())["resources"]["limits"]
    assert cluster()["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_workers_that_share_a_pod() -> None:
    group = workers("cluster.workers=[2, 4]", "cluster.gpus_per_worker=1", workers_per_pod=2)
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (1, 1, 2)
    assert container(group)["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "2"}
    assert group["rayStartParams"]["num-cpus"] == "4"
    with pytest.raises(JobError, match="cluster.workers: 4 cannot be dealt out to pods of 3"):
        rendered("cluster.workers=4", workers_per_pod=3)


def test_an_accelerator_is_promised_to_the_autoscaler_alone() -> None:
    accelerator = "cluster.accelerator=H100"
    told = workers(accelerator, "cluster.workers=[1, 2]")["rayStartParams"]["resources"]
    assert told == '"{\\"accelerator_type:H100\\": 1}"'  # as KubeRay wants it: JSON within quotes of the shell
    assert "resources" not in workers(accelerator)["rayStartParams"]


def test_labels_choose_machines_and_reach_ray() -> None:
    group = workers("cluster.node_labels={pool: training, ray.io/accelerator-type: H100}")
    assert group["template"]["spec"]["nodeSelector"] == group["labels"] == {"pool": "training"}


def test_the_environment_of_the_workers() -> None:
    assert container(workers("cluster.env={NCCL_DEBUG: INFO}"))["env"] == [{"name": "NCCL_DEBUG", "value": "INFO"}]


def test_the_wait_for_machines() -> None:
    assert spec("cluster.start_timeout_min=2.5")["preRunningDeadlineSeconds"] == 150


def test_a_failed_job_keeps_no_machines() -> None:
    made = spec("cluster.retries=5")
    assert made["backoffLimit"] == 1, "retries are of lost workers; KubeRay would repeat what nothing can mend"
    assert made["shutdownAfterJobFinishes"] and made["ttlSecondsAfterFinished"] <= 60


@pytest.mark.parametrize(("group", "notice"), [("headGroupSpec", None), ("workerGroupSpecs", 30)])
def test_a_pod_that_goes_has_the_time_to_tell_ray(group: str, notice: int | None) -> None:
    found = cluster()[group]
    only = found[0] if isinstance(found, list) else found
    *_, script = container(only)["lifecycle"]["preStop"]["exec"]["command"]
    assert "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION" in script
    subprocess.run(["bash", "-n", "-c", script], check=True, timeout=10)
    told, deadline, waited = (
        int(script.split(word)[1].split()[0].strip("};")) for word in ("timeout ", "-seconds ", "{1..")
    )
    assert waited == deadline
    assert told + waited < only["template"]["spec"]["terminationGracePeriodSeconds"]
    assert notice is None or deadline < notice


@pytest.mark.parametrize("together", [1, 4])
def test_shared_memory_is_for_all_workers_of_a_pod(together: int) -> None:
    head, worker, submitter = pods("cluster.workers=4", workers_per_pod=together)
    sizes = [[v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "shm"] for pod in (head, worker)]
    assert sizes == [["2Gi"], [f"{2 * together}Gi"]]
    assert not [volume for volume in submitter["volumes"] if volume["name"] == "shm"]


def test_claims_are_mounted_in_head_and_workers() -> None:
    both = {"/mnt/runs": "one", "/data": "one", "/more": "other"}
    *trains, submitter = pods("runs_dir=/mnt/runs", volumes=both)
    for pod in trains:
        claims = {
            v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        }
        mounts = {
            m["mountPath"]: claims[m["name"]] for m in pod["containers"][0]["volumeMounts"] if m["name"] in claims
        }
        assert mounts == both and len(claims) == 2
    assert not [volume for volume in submitter["volumes"] if "persistentVolumeClaim" in volume]


def test_no_pod_has_more_rights_than_it_needs() -> None:
    for pod in pods(ELASTIC):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        (only,) = pod["containers"]
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert {"/tmp", "/home/distaug"} <= {mount["mountPath"] for mount in only["volumeMounts"]}
    assert cluster()["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(
    ("sets", "volumes", "message"),
    [
        (["cluster.workers=auto"], {}, "cluster.workers: auto, and Kubernetes must know"),
        (["cluster={}"], {}, "cluster.workers, cluster.gpus_per_worker, cluster.cpus_per_worker: auto"),
        (["name=My_run"], {}, "name: My_run cannot be a RayJob's; allowed are up to 47"),
        ([f"name={'a' * 48}"], {}, "allowed are up to 47"),
        (["runs_dir=runs"], {}, "runs_dir: runs is relative, .* --set runs_dir=/runs or s3://"),
        (["data={source: folder, path: pictures}"], {}, "data.path: pictures is relative"),
        (["runs_dir=/runs"], {}, r"runs_dir: /runs is on no volume \(mounted: none\), .* --volume CLAIM:/runs"),
        (["runs_dir=file:///runs/mine"], {}, "runs_dir: /runs/mine is on no volume .* --volume CLAIM:/runs,"),
        (["runs_dir=/runs/../tmp"], {"/runs": "claim"}, "runs_dir: /tmp is on no volume"),
        (["runs_dir=http://host/runs"], {}, "runs_dir: a URL has the unknown scheme http"),
        (["model.weights=old.pt"], {}, "model.weights: old.pt is relative"),
        (["model.weights=/w/old.pt"], {}, "model.weights: /w/old.pt is on no volume .* CLAIM:/w,"),
        (["train.distill={teacher: runs/big}"], {}, "train.distill.teacher: runs/big is relative"),
        (["train.distill={teacher: ~/big}"], {}, "train.distill.teacher: ~/big is relative"),
        (["runs_dir=/runs-2"], {"/runs": "claim"}, r"/runs-2 is on no volume \(mounted: /runs\)"),
        ([], {"runs": "claim"}, "the volume claim is to be mounted at runs; give an absolute path"),
        (["cluster.node_labels={pool: '!spot'}"], {}, "cluster.node_labels.pool: found !spot; .* only plain values"),
    ],
    ids="auto all-auto name long-name runs data no-volume file-url parent scheme weights weights-volume teacher home "
    "other-volume mount label".split(),
)
def test_what_is_refused(sets: list[str], volumes: dict[str, str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        rendered(*sets, volumes=volumes)


def test_paths_on_volumes_in_buckets_and_names_are_taken() -> None:
    rendered(
        "runs_dir=file:///mnt/runs",
        "model={name: resnet18, weights: IMAGENET1K_V1}",
        "train.distill={teacher: /mnt/teachers/big}",
        volumes={"/mnt": "claim"},
    )
    rendered("model.weights=s3://bucket/old.safetensors", "train.distill={teacher: s3://bucket/runs/big}")


def test_the_command_line_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    sets, options = RECORDED["elastic-gpu"]
    asked = ["--image", "registry.example/distaug:1", *(word for line in (CPU, *sets) for word in ("--set", line))]
    assert main(["manifest", str(file), *asked, "--workers-per-pod", str(options["workers_per_pod"])]) == 0
    assert capsys.readouterr().out == recorded("elastic-gpu")
    assert main(["manifest", str(file), *asked, "--workers-per-pod", "3"]) != 0
    assert "cannot be dealt out to pods of 3" in capsys.readouterr().err


def test_rendering_starts_without_ray() -> None:
    script = "import sys, distaug.cluster.kuberay; print('ray' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


if __name__ == "__main__":
    for name in RECORDED:
        (MANIFESTS / f"{name}.yaml").write_text(recorded(name))
