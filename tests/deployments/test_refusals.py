"""How mistakes are reported, before a run is created or by the run."""

import pytest

from tests.prefect_service import overrides


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("conifg=practice", "were specified but not found on the deployment"),
        ("overrides=7", "7 is not of type 'array'"),
        (
            "rounds=0",
            "Validation failed for field 'rounds'. Failure reason: 0 is less than the minimum",
        ),
        (
            "config=a10",
            "Validation failed for field 'config'. Failure reason: 'a10' does not match",
        ),
        ('overrides=["seed"]', "Validation failed for field 'overrides"),
    ],
)
def test_bad_parameter_is_refused_before_a_run_is_created(service, parameter, reason):
    count = service.ask("/flow_runs/count", deployments={"name": {"any_": ["cpu"]}})
    done = service.submit("sft-dpo/cpu", parameter)
    assert done.returncode == 1
    assert reason in " ".join((done.stdout + done.stderr).split())
    assert service.ask("/flow_runs/count", deployments={"name": {"any_": ["cpu"]}}) == count


def test_mistake_in_the_config_fails_the_run_with_one_line(service, config):
    run = service.start("sft-dpo/cpu", f"config={config}", overrides("dpo.learning_rat=1"))
    state = service.finish(run, seconds=300)
    assert state["type"] == "FAILED"
    assert state["message"].startswith("ConfigError: --set 'dpo.learning_rat=1': ")
    assert state["message"].endswith("unknown key dpo.learning_rat; did you mean 'learning_rate'?")
    assert len(state["message"].splitlines()) == 1
    assert "Traceback" not in service.whole_log(run)


def test_missing_config_file_suggests_existing_ones(service):
    run = service.start("sft-dpo/cpu", "config=deployments/configs/a10.yaml")
    state = service.finish(run, seconds=300)
    assert state["type"] == "FAILED"
    assert "no config file" in state["message"]
    assert "Did you mean a100.yaml, a100-stack.yaml?" in state["message"]
