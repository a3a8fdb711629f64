"""How long the random lives of a state machine are: short, or with `--hypothesis-profile=deep`."""

from hypothesis import settings


def lives(*, examples: int, steps: int) -> settings:
    """So many lives of so many steps; 2,000 of 200 where the profile `deep` was asked for."""
    if settings.get_current_profile_name() == "deep":
        return settings.get_profile("deep")
    return settings(max_examples=examples, stateful_step_count=steps, deadline=None)
