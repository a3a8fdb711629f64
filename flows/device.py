"""What a run says before anything else: its device; and the refusal where that is missing."""

from collections.abc import Callable

from alignment.config.pipeline import PipelineConfig
from alignment.execution.device import (
    check_device,
    device_facts,
    device_line,
    devices_to_use,
)


def state_device(settings: PipelineConfig, say: Callable[[str], object]) -> None:
    """Say what the run will use and what its config expects.

    Raises:
        DeviceError: the config asks for a GPU, and none can be used.
    """
    facts = device_facts()
    say(device_line(facts, settings))
    check_device(facts, settings.device)
    devices_to_use(facts, settings.device, settings.devices)  # refuses more than there are
