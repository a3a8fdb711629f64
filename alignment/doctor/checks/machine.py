"""Whether this machine could run the config: its device, driver and build of torch."""

from alignment.config.pipeline import PipelineConfig
from alignment.doctor.finding import Finding
from alignment.execution.device import DeviceFacts, device_line, obstacle


def check_machine(config: PipelineConfig, facts: DeviceFacts) -> Finding:
    """Whether a run here would get the device that the config is written for.

    Never a failure: the doctor is there to be run before the GPU is rented.
    """
    found = obstacle(facts)
    missed = found is not None and (
        config.device == "cuda" or (config.device == "auto" and config.quantisation is not None)
    )
    refused = "is refused" if config.device == "cuda" else "trains 4-bit weights on the CPU"
    here = f"Here, a run {refused}. " if missed else "This machine: "
    return Finding(
        check="device",
        verdict="warn" if missed else "ok",
        headline=f"{here}{device_line(facts, config)}.",
        figures={"usable_gpus": float(len(facts.driver.gpus) if facts.driver and not found else 0)},
        remedy=f"To run it here, {found.remedy}." if found else "",
    )
