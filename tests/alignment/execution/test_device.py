"""Every reason for which a machine trains on no GPU, from its facts alone."""

import subprocess
import sys

import pytest

from alignment.config.pipeline import PipelineConfig
from alignment.errors import DeviceError
from alignment.execution.device import (
    NOT_INSTALLED,
    DeviceFacts,
    check_device,
    device_facts,
    device_line,
    device_name,
    machine_line,
    obstacle,
)
from alignment.execution.driver import DriverAnswer, Gpu, kernel_driver, kernel_gpus

A100 = Gpu(name="NVIDIA A100-SXM4-40GB", gib=39.4)
ANSWER = DriverAnswer(cuda=(13, 0), error=0, gpus=(A100,))
USABLE = DeviceFacts(
    torch="2.13.0+cu130",
    torch_cuda="13.0",
    kernel_driver="580.65.06",
    kernel_gpus=1,
    driver=ANSWER,
    cores=8,
)
OLD = {"kernel_driver": "550.54.14", "driver": ANSWER.model_copy(update={"cuda": (12, 4)})}
NO_GPU = {"gpus": (), "error": 100}
CPU_BUILD = {"torch": "2.13.0+cpu", "torch_cuda": None}
NO_DRIVER = {"kernel_driver": None, "kernel_gpus": 0, "driver": None}


def facts(**changes):
    return USABLE.model_copy(update=changes)


def answer(**changes):
    return {"driver": ANSWER.model_copy(update=changes)}


OBSTACLES = {
    "CPU build of torch": (
        CPU_BUILD,
        ["torch 2.13.0+cpu is a CPU build", "whl/cu130 torch==2.13.0`"],
    ),
    "CPU build beside an older driver": (
        CPU_BUILD | OLD,
        ["torch 2.13.0+cpu is a CPU build", "whl/cu126 torch==2.13.0`"],
    ),
    "no driver": (
        NO_DRIVER,
        ["there is no NVIDIA driver", "`sudo apt install nvidia-driver-580`"],
    ),
    "no driver for a build that needs an older one": (
        NO_DRIVER | {"torch": "2.11.0+cu126", "torch_cuda": "12.6"},
        ["there is no NVIDIA driver", "`sudo apt install nvidia-driver-525`"],
    ),
    "neither": (
        CPU_BUILD | NO_DRIVER,
        ["is a CPU build, and there is no NVIDIA driver", "torch==2.13.0`; then install a driver"],
    ),
    "driver too old": (
        OLD,
        [
            "driver 550.54.14 is too old: it supports CUDA 12.4, and torch 2.13.0+cu130 is built "
            "for CUDA 13.0, which needs driver 580 or newer",
            "`sudo apt install nvidia-driver-580`",
            "or install a CUDA build: `pip install --force-reinstall --index-url "
            "https://download.pytorch.org/whl/cu126 torch==2.13.0`",
        ],
    ),
    "container without the GPU": (
        {"driver": None},
        ["the machine has driver 580.65.06, but its library is not in here", "--gpus all"],
    ),
    "hidden": (
        answer(**NO_GPU),
        ["the GPUs of this machine (1) are hidden", "`unset CUDA_VISIBLE_DEVICES`"],
    ),
    "no card": (
        answer(**NO_GPU) | {"kernel_gpus": 0},
        ["driver 580.65.06 finds no GPU", "`nvidia-smi`"],
    ),
    "driver fails": (
        answer(gpus=(), error=999),
        ["driver 580.65.06 fails with error 999", "`nvidia-smi`"],
    ),
}


@pytest.mark.parametrize(("changes", "words"), OBSTACLES.values(), ids=OBSTACLES)
def test_a_refusal_names_the_reason_and_the_command_that_mends_it(changes, words):
    with pytest.raises(DeviceError) as refused:
        check_device(facts(**changes), "cuda")
    message = str(refused.value)
    assert message.startswith("the config asks for `device: cuda`, and no GPU can be used: ")
    assert [text for text in words if text not in message] == []
    assert message.endswith("To train on the CPU instead: --set device=cpu")


@pytest.mark.parametrize(("changes", "words"), OBSTACLES.values(), ids=OBSTACLES)
def test_a_run_that_takes_any_device_says_why_it_gets_no_gpu(changes, words):
    machine = facts(**changes)
    check_device(machine, "auto")
    line = device_line(machine, config("auto"))
    assert line.startswith("device: CPU, 8 cores (no GPU: ")
    assert words[0] in line


@pytest.mark.parametrize("driver", [(13, 0), (13, 2), (14, 0)])
def test_a_driver_of_the_same_cuda_or_a_newer_one_will_do(driver):
    assert obstacle(facts(**answer(cuda=driver))) is None
    check_device(facts(**answer(cuda=driver)), "cuda")


def test_a_build_for_an_older_cuda_runs_on_an_older_driver():
    assert obstacle(facts(**OLD, torch="2.11.0+cu128", torch_cuda="12.8")) is None


def config(device, **changes):
    settings = {"model": {"name": "hub", "id": "a/b"}, "sft": {"name": "none"}, "device": device}
    return PipelineConfig.model_validate(settings | changes)


def test_the_first_line_states_device_driver_build_and_what_the_config_expects():
    assert device_line(USABLE, config("cuda")) == (
        "device: NVIDIA A100-SXM4-40GB, 39.4 GiB | driver: 580.65.06, CUDA 13.0 | "
        "torch: 2.13.0+cu130, CUDA 13.0 | the config expects a GPU, nf4 weights, bfloat16"
    )
    full = config("cpu", quantisation=None, dpo={"bf16": False})
    assert device_line(USABLE, full) == (
        "device: CPU, 8 cores (as configured) | driver: 580.65.06, CUDA 13.0 | "
        "torch: 2.13.0+cu130, CUDA 13.0 | the config expects the CPU, full weights, float32"
    )
    bare = facts(torch=NOT_INSTALLED, torch_cuda=None)
    assert machine_line(bare).endswith(" | torch: not installed")


def test_several_gpus_are_counted():
    assert device_name(facts(**answer(gpus=(A100, A100))), "auto") == (
        "2 x NVIDIA A100-SXM4-40GB, 39.4 GiB"
    )


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (dvs)",
    ],
)
def test_the_kernels_driver_is_read_from_its_own_file(tmp_path, line):
    assert kernel_driver(tmp_path) is None
    assert kernel_gpus(tmp_path) == 0
    (tmp_path / "version").write_text(f"{line}\nGCC version: gcc version 12.3.0\n")
    (tmp_path / "gpus" / "0000:00:04.0").mkdir(parents=True)
    assert kernel_driver(tmp_path) == "550.54.14"
    assert kernel_gpus(tmp_path) == 1


def test_the_facts_about_this_machine_agree_with_torch():
    """On a machine with a usable GPU they find one, elsewhere an obstacle."""
    import torch

    found = device_facts()
    assert found.torch == torch.__version__
    assert found.torch_cuda == torch.version.cuda
    assert (obstacle(found) is None) == torch.cuda.is_available()


def test_the_health_check_fails_where_no_gpu_can_be_used_and_says_why():
    command = [sys.executable, "-m", "alignment.execution.device"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = obstacle(device_facts())
    assert done.returncode == (1 if found else 0), done.stderr
    remedy = [f"to mend it, {found.remedy}"] if found else []
    assert done.stdout.splitlines() == [machine_line(device_facts()), *remedy]
