"""Properties of Dockerfile and compose.yaml that are visible in the files."""

import importlib.util
import json
import re
import runpy
import shlex
import tomllib

import pytest
from sqlalchemy import make_url

from tests.docker.service_files import COMPOSE, ROOT, SECRETS, dockerfile, fill

STEPS = dockerfile()
SERVICES = COMPOSE["services"]
SETTINGS = [
    pytest.param(name, key, str(value), id=f"{name}-{key}")
    for name, service in SERVICES.items()
    for key, value in service["environment"].items()
]


def steps(*keywords):
    return [step.text for step in STEPS if step.keyword in keywords]


def test_base_images_are_pinned_to_a_full_version():
    images = [steps("ARG")[0].partition("=")[2], SERVICES["postgres"]["image"]]
    assert [image for image in images if not re.search(r":\d+\.\d+(\.\d+)?-", image)] == []


def test_image_runs_as_an_ordinary_user_and_has_a_health_check():
    keywords = [step.keyword for step in STEPS]
    assert keywords.index("USER") < keywords.index("CMD")
    assert steps("USER") == ["app"]
    assert len(steps("HEALTHCHECK")) == 1


def test_image_contains_no_secret():
    assert not re.search(r"TOKEN|PASSWORD|SECRET|AUTH", "".join(steps("ARG", "ENV")))


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder():
    ignore = (ROOT / "docker/Dockerfile.dockerignore").read_text().splitlines()
    for name in (word for text in steps("COPY") for word in text.split()[:-1]):
        assert (ROOT / name).exists(), name
        assert f"!{name}" in ignore, name


def test_image_contains_every_package_and_the_program_it_starts():
    copied = {word for text in steps("COPY") for word in text.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    assert {name for name in packages if "/" not in name} <= copied
    assert json.loads(steps("CMD")[0])[1] in copied


def test_server_uses_the_database_that_compose_starts():
    filled = {
        key: fill(value, SECRETS)
        for name in ("postgres", "server")
        for key, value in SERVICES[name]["environment"].items()
    }
    url = make_url(filled["PREFECT_SERVER_DATABASE_CONNECTION_URL"])
    assert url.drivername == "postgresql+asyncpg"
    assert url.host in SERVICES
    assert (url.username, url.password, url.database) == tuple(
        filled[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB")
    )
    assert "asyncpg==" in (ROOT / "docker/requirements.lock").read_text()


def test_constraints_contain_no_url():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []


def test_every_volume_is_declared():
    mounts = [mount for service in SERVICES.values() for mount in service["volumes"]]
    assert {fill(mount, {}).split(":")[0] for mount in mounts} == set(COMPOSE["volumes"])


def test_the_worker_is_healthy_only_with_a_usable_gpu():
    """The check runs the module's own program, and the first half of the image's check."""
    kind, text = SERVICES["worker"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    answers, gpu = text.split(" && ")
    image = json.loads(steps("HEALTHCHECK")[0].partition("CMD ")[2])
    assert shlex.split(answers) == image
    assert gpu.removeprefix("python -m ") == "alignment.execution.device"
    assert importlib.util.find_spec(gpu.removeprefix("python -m "))


def test_a_user_mounts_data_and_configurations_of_their_own_read_only():
    mounts = [mount for mount in SERVICES["worker"]["volumes"] if mount.endswith(":ro")]
    assert [fill(mount, {}) for mount in mounts] == [
        "inbox:/app/inbox:ro",
        "configs:/app/configs:ro",
    ]


def test_services_wait_until_their_dependency_is_healthy():
    waits = {
        (name, other, condition["condition"])
        for name, service in SERVICES.items()
        for other, condition in service.get("depends_on", {}).items()
    }
    assert waits == {
        ("server", "postgres", "service_healthy"),
        ("worker", "server", "service_healthy"),
    }
    assert all("healthcheck" in SERVICES[other] for _, other, _ in waits)


def test_only_the_server_is_published_and_only_to_this_machine():
    published = {name: s["ports"] for name, s in SERVICES.items() if "ports" in s}
    assert list(published) == ["server"]
    assert all(port.startswith("127.0.0.1:") for port in published["server"])


def test_worker_gets_one_nvidia_device():
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert len(device["device_ids"]) == 1


def test_container_stops_later_than_a_run_may_take_to_save():
    program = runpy.run_path(str(ROOT / "docker/worker.py"))
    minutes = re.fullmatch(r"(\d+)m", SERVICES["worker"]["stop_grace_period"])
    assert minutes
    assert program["GRACE"] + program["WORKER_TIMEOUT"] < int(minutes[1]) * 60


@pytest.mark.parametrize(("service", "key", "value"), SETTINGS)
def test_setting_is_known_to_prefect(service, key, value):
    """Prefect ignores unknown settings, so a typo would go unnoticed."""
    from prefect.settings.legacy import _get_settings_fields
    from prefect.settings.models.root import Settings

    assert not key.startswith("PREFECT_") or key in _get_settings_fields(Settings), service
    if key.endswith("LEASE_STORAGE"):
        assert importlib.import_module(value)


@pytest.mark.parametrize(("service", "key", "value"), SETTINGS)
def test_secret_comes_from_outside_or_the_service_refuses_to_start(service, key, value):
    if key != "HF_TOKEN" and re.search(r"PASSWORD|AUTH|TOKEN|CONNECTION_URL", key):
        assert ":?" in value, service
