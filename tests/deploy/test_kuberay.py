"""What is for Kubernetes says the same as what is elsewhere, and KubeRay's schema knows every field of it."""

import gzip
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any

import jsonschema
import pytest
import yaml

from distaug.cluster.kuberay import manifest
from distaug.spec.load import load_job
from tests.deploy.queries import DASHBOARDS, DEPLOY, RULES

KUBERAY = DEPLOY / "kuberay"
SCHEMA = Path(__file__).parent / "schemas" / "rayjob.json.gz"
MANIFESTS = sorted((DEPLOY.parent / "tests" / "cluster" / "manifests").glob("*.yaml"))
BASES = {"cluster": "RayCluster", "job": "RayJob"}
COMPONENTS = sorted(folder.name for folder in (KUBERAY / "components").iterdir())
PLAIN = ["runs_dir=/runs", "cluster={workers: 2, gpus_per_worker: 0, cpus_per_worker: 4}"]


def snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: "_" + letter.group().lower(), name)


def load(name: str) -> Any:
    return yaml.safe_load((KUBERAY / name).read_text())


def kustomize(folder: Path) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return made.stdout


def built(folder: Path, base: str, *components: str) -> list[Any]:
    """Build a base with components, as a user's own kustomization does."""
    copy = folder / "kuberay"
    if not copy.exists():
        shutil.copytree(KUBERAY, copy)
    own = folder / "own"
    own.mkdir(exist_ok=True)
    lines = {
        "resources": [f"../kuberay/{base}"],
        "components": [f"../kuberay/components/{c}" for c in components],
        "images": [{"name": "distaug", "newName": "registry.example/distaug", "newTag": "1"}],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    return list(yaml.safe_load_all(kustomize(own)))


def of_ray(parts: list[Any]) -> tuple[Any, Any, Any]:
    """Return the RayCluster or RayJob among them, and the pods of its head and its workers."""
    (made,) = [part for part in parts if part["apiVersion"] == "ray.io/v1"]
    cluster = made["spec"].get("rayClusterSpec", made["spec"])
    (workers,) = cluster["workerGroupSpecs"]
    return made, cluster["headGroupSpec"]["template"]["spec"], workers["template"]["spec"]


def check_gpu(made: Any, head: Any, worker: Any) -> None:
    resources = worker["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu.product" in worker["nodeSelector"]
    assert [t["key"] for t in worker["tolerations"]] == ["nvidia.com/gpu"]


def check_spot(made: Any, head: Any, worker: Any) -> None:
    (key,) = worker["nodeSelector"]
    assert [t["key"] for t in worker["tolerations"]] == [key]
    assert "nodeSelector" not in head and "tolerations" not in head, "the driver stays on a lasting machine"
    assert worker["terminationGracePeriodSeconds"] >= 30 and "preStop" in worker["containers"][0]["lifecycle"]


def check_volume(made: Any, head: Any, worker: Any) -> None:
    for pod in (head, worker):
        (name,) = [v["name"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
        assert [m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] == name] == ["/runs"]


def check_s3(made: Any, head: Any, worker: Any) -> None:
    for pod in (head, worker):
        assert pod["serviceAccountName"] == "distaug"
        assert "AWS_REGION" in {entry["name"] for entry in pod["containers"][0]["env"]}


def check_secrets(made: Any, head: Any, worker: Any) -> None:
    for pod in (head, worker):
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "distaug-secrets"}}]


def check_kueue(made: Any, head: Any, worker: Any) -> None:
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "distaug"
    assert made["spec"].get("suspend", False) is (made["kind"] == "RayJob")


def test_the_cluster_has_the_pods_of_a_job() -> None:
    cluster = load("cluster/raycluster.yaml")["spec"]
    job = load_job(DEPLOY.parent / "jobs" / "digits.yaml", [*PLAIN, "runs_dir=s3://bucket/runs"])
    _, made = yaml.safe_load_all(manifest(job, image="distaug"))
    head = made["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    for part in (head["volumes"], head["containers"][0]["volumeMounts"]):
        part[:] = [entry for entry in part if entry["name"] != "job"]
    assert cluster == made["spec"]["rayClusterSpec"]


def test_the_job_is_what_its_first_lines_say() -> None:
    text = (KUBERAY / "job" / "job.yaml").read_text()
    job = load_job(DEPLOY.parent / "jobs" / "digits.yaml", PLAIN)
    made = manifest(job, image="distaug", volumes={"/runs": "distaug-runs"})
    head, found, rest = text.partition("apiVersion")
    assert found + rest == made
    assert all(word in head for word in ("--image distaug", "--volume distaug-runs:/runs", *PLAIN))


@pytest.mark.deploy
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_does_what_it_is_for(component: str, base: str, tmp_path: Path) -> None:
    made, head, worker = of_ray(built(tmp_path, base, component))
    assert made["kind"] == BASES[base]
    globals()[f"check_{component}"](made, head, worker)


@pytest.mark.deploy
@pytest.mark.parametrize("base", BASES)
def test_the_image_is_named_in_one_place(base: str, tmp_path: Path) -> None:
    made, head, worker = of_ray(built(tmp_path, base))
    pods = [head, worker] + ([made["spec"]["submitterPodTemplate"]["spec"]] if base == "job" else [])
    assert {pod["containers"][0]["image"] for pod in pods} == {"registry.example/distaug:1"}


@pytest.mark.deploy
def test_what_the_components_refer_to_comes_with_them(tmp_path: Path) -> None:
    kinds = {part["kind"]: part["metadata"]["name"] for part in built(tmp_path, "cluster", "volume", "s3")}
    assert kinds == {"RayCluster": "distaug", "PersistentVolumeClaim": "distaug-runs", "ServiceAccount": "distaug"}


def closed(schema: Any) -> Any:
    """Refuse every field that a schema does not name."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    named = {"additionalProperties": False} if "properties" in schema else {}
    return named | {key: closed(part) for key, part in schema.items()}


@cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    if kind == "RayCluster":
        schema["properties"]["spec"] = schema["properties"]["spec"]["properties"]["rayClusterSpec"]
    return jsonschema.Draft202012Validator(closed(schema))


def wrong(parts: list[Any]) -> list[str]:
    """Return what KubeRay's schema says against the RayCluster or RayJob among them."""
    made, _, _ = of_ray(parts)
    return [f"{error.json_path}: {error.message}" for error in validator(made["kind"]).iter_errors(made)]


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_kuberay_knows_every_field_of_a_manifest(file: Path) -> None:
    assert wrong(list(yaml.safe_load_all(file.read_text()))) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.tollerations", [], "'tollerations' was unexpected"),
        ("spec.containers.0.imagePolicy", "Always", "'imagePolicy' was unexpected"),
        ("spec.terminationGracePeriodSeconds", "90", "'90' is not of type 'integer'"),
        ("spec.containers.0.resources.limits.memory", "8 GB", "'8 GB' does not match"),
    ],
)
@pytest.mark.parametrize("base", BASES)
def test_the_schema_refuses_mistakes(base: str, path: str, value: Any, message: str) -> None:
    parts = list(yaml.safe_load_all((KUBERAY / base / f"{'ray' * (base == 'cluster')}{base}.yaml").read_text()))
    made, _, _ = of_ray(parts)
    *inner, last = path.split(".")
    node = made["spec"].get("rayClusterSpec", made["spec"])["headGroupSpec"]["template"]
    for key in inner:
        node = node[int(key) if isinstance(node, list) else key]
    node[last] = value
    (found,) = wrong(parts)
    assert message in found and path.split(".")[1] in found


@pytest.mark.deploy
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("components", [[], *([name] for name in COMPONENTS), COMPONENTS], ids="+".join)
def test_kuberay_knows_every_field_of_components(components: list[str], base: str, tmp_path: Path) -> None:
    assert wrong(built(tmp_path, base, *components)) == []


def test_the_pod_monitor_relabels_as_the_configuration_does() -> None:
    (endpoint,) = load("podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (scrape,) = [job for job in config["scrape_configs"] if job["job_name"] == "distaug-ray"]
    ours = [{snake(key): value for key, value in step.items()} for step in endpoint["metricRelabelings"]]
    assert ours == scrape["metric_relabel_configs"]
    assert [{snake(key): value for key, value in step.items()} for step in endpoint["relabelings"]] == [
        step for step in scrape["relabel_configs"] if step.get("target_label") == "job"
    ]
    assert endpoint["port"] == "metrics"
    assert endpoint["interval"] == config["global"]["scrape_interval"]


def test_the_operator_gets_the_same_rules() -> None:
    head, _, below = (KUBERAY / "prometheusrule.yaml").read_text().partition("\nspec:\n")
    assert yaml.safe_load(head)["kind"] == "PrometheusRule"
    assert below == indent(RULES.read_text(), "  "), "after `spec:` put what sed 's/^./  &/' makes of rules.yml"


def test_the_dashboards_carry_the_label_that_the_sidecar_looks_for() -> None:
    made = yaml.safe_load((DEPLOY / "grafana" / "kustomization.yaml").read_text())
    assert made["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}
    (generator,) = made["configMapGenerator"]
    assert {DEPLOY / "grafana" / file for file in generator["files"]} == set(DASHBOARDS)


def test_the_sidecar_gets_the_same_dashboards() -> None:
    parts = {part["kind"]: part for part in yaml.safe_load_all(kustomize(KUBERAY))}
    assert parts.keys() == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert parts["ConfigMap"]["metadata"]["labels"] == {"grafana_dashboard": "1"}
    shown = {name: json.loads(text) for name, text in parts["ConfigMap"]["data"].items()}
    assert shown == {file.name: json.loads(file.read_text()) for file in DASHBOARDS}
