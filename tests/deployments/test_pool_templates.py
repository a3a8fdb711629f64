"""The base job templates of Docker and Kubernetes pools, rendered as Prefect's workers do it.

Without a container engine and a cluster, docker-py and the published schemas of Kubernetes check
what the two would be asked to start.
"""

import asyncio
import importlib
import json
import re
import runpy
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.workers.base import BaseWorker
from prefect_docker.worker import DockerWorker
from prefect_kubernetes.worker import KubernetesWorker
from ruamel.yaml import YAML

from flows.deploying import TEMPLATES, base_job_template
from tests.docker.service_files import COMPOSE, ROOT, dockerfile, fill

DOCKER = importlib.import_module("docker.models.containers")
"""docker-py, which type checkers take for our folder of that name."""
WORKERS: dict[str, type[BaseWorker[Any, Any, Any]]] = {
    "docker": DockerWorker,
    "kubernetes": KubernetesWorker,
}
FIXED = {
    "docker": {"memswap_limit", "network_mode", "privileged", "container_create_kwargs"}
    | {"registry_credentials"},
    "kubernetes": {"backoff_limit", "cpu_limit"},
}
"""Variables of Prefect's own templates that ours leaves out on purpose."""
DEPLOYMENTS = YAML(typ="safe").load(ROOT / "deployments/prefect.yaml")["deployments"]
CLUSTER = list(YAML(typ="safe").load_all(TEMPLATES / "kubernetes-worker.yaml"))
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def job_variables(name):
    """The job variables of a deployment, e.g. `a100`, of the flow `sft-dpo`."""
    return next(d["work_pool"]["job_variables"] for d in DEPLOYMENTS if d["name"] == name)


def rendered(pool_type, values):
    """The configuration that a worker makes for a run from the template and job variables."""
    build = WORKERS[pool_type].job_configuration.from_template_and_values
    made = asyncio.run(build(base_job_template(pool_type), values, client=object()))
    made.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="noble-fox"))
    return made


def pod(manifest):
    return manifest["spec"]["template"]["spec"]


def container_arguments(values):
    """What docker-py would send to the engine."""
    made = rendered("docker", values)
    given = made.container_create_kwargs or {}
    return DOCKER._create_container_args(
        {"image": made.image, "volumes": made.volumes, "version": "1.50", **given}
    )


@pytest.mark.parametrize("pool_type", WORKERS)
def test_each_placeholder_is_a_variable_and_each_variable_is_used(pool_type):
    """Prefect drops a misspelt placeholder without a word."""
    template = base_job_template(pool_type)
    used = re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"]))
    assert set(used) == set(template["variables"]["properties"])


@pytest.mark.parametrize("pool_type", WORKERS)
def test_no_variable_of_prefects_own_template_is_missing(pool_type):
    theirs = WORKERS[pool_type].get_default_base_job_template()["variables"]["properties"]
    ours = base_job_template(pool_type)["variables"]["properties"]
    assert set(theirs) - set(ours) == FIXED[pool_type]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["cpu", "a100"])
def test_a_job_has_no_unknown_key_and_no_wrong_type(name, version):
    manifest = rendered("kubernetes", job_variables(name)).job_manifest
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_worker_in_the_cluster_has_no_unknown_key_and_no_wrong_type(version):
    for manifest in CLUSTER:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_only_prefect_retries_and_only_after_a_checkpoint_is_saved():
    manifest = rendered("kubernetes", job_variables("a100")).job_manifest
    assert manifest["spec"]["backoffLimit"] == 0
    assert pod(manifest)["restartPolicy"] == "Never"
    grace = runpy.run_path(str(ROOT / "docker/worker.py"))["GRACE"]
    assert pod(manifest)["terminationGracePeriodSeconds"] > grace
    environment = pod(manifest)["containers"][0]["env"]
    assert {"name": "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR", "value": "reschedule"} in (
        environment
    )


@pytest.mark.parametrize(("name", "gpus"), [("a100", 1), ("cpu", 0)])
def test_a_job_asks_for_the_gpus_of_its_deployment(name, gpus):
    resources = pod(rendered("kubernetes", job_variables(name)).job_manifest)["containers"][0][
        "resources"
    ]
    assert resources["limits"]["nvidia.com/gpu"] == gpus


def test_a_job_takes_what_a_person_changes():
    changes = {"gpus": 2, "runtime_class": "nvidia", "node_selector": {"gpu": "a100"}}
    spec = pod(rendered("kubernetes", job_variables("a100") | changes).job_manifest)
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert (spec["runtimeClassName"], spec["nodeSelector"]) == ("nvidia", {"gpu": "a100"})


def test_a_job_runs_as_the_user_of_the_image_and_writes_to_its_folders():
    spec = pod(rendered("kubernetes", {}).job_manifest)
    text = " ".join(step.text for step in dockerfile())
    assert f"--uid {spec['securityContext']['runAsUser']} " in text
    mounted = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert {path for path in mounted if f"{path} " in text} >= {"/app/runs", "/var/cache/hub"}


def test_jobs_use_the_volume_and_the_secret_of_the_cluster():
    spec = pod(rendered("kubernetes", {}).job_manifest)
    (claim,) = (m["metadata"]["name"] for m in CLUSTER if m["kind"] == "PersistentVolumeClaim")
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    (worker,) = (m for m in CLUSTER if m["kind"] == "Deployment")
    assert pod(worker)["containers"][0]["envFrom"] == spec["containers"][0]["envFrom"]


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("a100", [{"Driver": "nvidia", "DeviceIDs": ["0"], "Capabilities": [["gpu"]]}]),
        ("cpu", []),
    ],
)
def test_a_container_gets_its_devices_memory_and_an_init(name, devices):
    host = container_arguments(job_variables(name))["host_config"]
    asked = [
        {key: request[key] for key in request if request[key]} for request in host["DeviceRequests"]
    ]
    assert asked == devices
    assert host["ShmSize"] == 16 * 2**30
    assert (host["Init"], host["CapDrop"]) == (True, ["ALL"])


def test_a_container_has_the_volumes_and_the_network_of_the_service():
    made = rendered("docker", job_variables("a100"))
    service = COMPOSE["services"]["worker"]
    project = COMPOSE["name"]
    theirs = {f"{project}_{fill(mount, {})}" for mount in service["volumes"]}
    assert set(made.volumes) <= theirs
    assert made.networks == [f"{project}_default"]
    assert made.image == fill(service["image"], {})
