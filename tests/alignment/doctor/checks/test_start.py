import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.doctor.checks.machine import check_machine
from alignment.doctor.checks.start import check_start
from alignment.execution.device import DeviceFacts
from alignment.execution.driver import DriverAnswer, Gpu
from alignment.pipeline.chain_builder import chain

GPU = DriverAnswer(cuda=(13, 0), error=0, gpus=(Gpu(name="H100", gib=79.2),))
ON_GPU = DeviceFacts(torch="2.13.0+cu130", torch_cuda="13.0", kernel_driver="580.65", driver=GPU)
ON_CPU = DeviceFacts(torch="2.13.0+cpu", torch_cuda=None)


def configured(tiny_settings, **changes):
    return PipelineConfig.model_validate(tiny_settings | changes)


def test_a_missing_adapter_is_a_warning_with_its_path(tiny_settings, make_adapter, tmp_path):
    """There, then gone, then not wanted."""
    make_adapter("given", seed=1)
    for name, verdict, words in (
        ("given", "ok", f"start from the SFT adapter in {tmp_path / 'given'}."),
        ("gone", "warn", f"no SFT adapter in {tmp_path / 'gone'}: the base model takes its place."),
    ):
        sft = {"name": "adapter", "path": str(tmp_path / name)}
        found = check_start(chain(configured(tiny_settings, sft=sft)))
        assert (found.verdict, found.headline.endswith(words)) == (verdict, True)
    found = check_start(chain(configured(tiny_settings, sft={"name": "none"})))
    assert (found.verdict, found.remedy) == ("ok", "")


@pytest.mark.parametrize(
    ("facts", "changes", "verdict"),
    [
        (ON_GPU, {"device": "cuda"}, "ok"),
        (ON_CPU, {"device": "cuda"}, "warn"),
        (ON_CPU, {"quantisation": {"kind": "nf4"}}, "warn"),
        (ON_CPU, {}, "ok"),
        (ON_CPU, {"device": "cpu", "quantisation": {"kind": "nf4"}}, "ok"),
    ],
    ids=["has its GPU", "would be refused", "4-bit weights on a CPU", "full weights", "asked for"],
)
def test_a_machine_without_the_expected_gpu_is_a_warning(tiny_settings, facts, changes, verdict):
    found = check_machine(configured(tiny_settings, **changes), facts)
    assert found.verdict == verdict
    assert ("To run it here, install a CUDA build" in found.remedy) == (verdict == "warn")
    assert found.figures == {"usable_gpus": float(facts is ON_GPU)}
