"""The GitHub workflow that runs a round and fails unless its gate keeps it.

`github_workflow` gives the text of `.github/workflows/dpo-round.yml`. Not here: writing the file.
"""

import json
from pathlib import Path

from jinja2 import Environment, StrictUndefined

TEMPLATE = Path(__file__).with_name("dpo-round.yml.j2")
WORKFLOW = Path(".github") / "workflows" / "dpo-round.yml"
"""Where GitHub expects it, from the root of a repository."""


def github_workflow(
    config: str,
    *,
    install: str = "python3 -m pip install '.[train]'",
    runner: str = "[self-hosted, gpu]",
    cron: str = "0 2 * * *",
) -> str:
    """The workflow as YAML.

    Args:
        config: path of the configuration in the repository; it has an `inbox`.
        install: shell command that puts `sft-dpo` on the PATH.
        runner: `runs-on` as YAML; a machine of your own, which keeps the store between runs.
        cron: when it runs, in UTC.
    """
    # GitHub's own expressions are in braces, so the template's are in brackets
    environment = Environment(
        undefined=StrictUndefined, variable_start_string="[[", variable_end_string="]]"
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    quoted = {"config": json.dumps(config), "install": json.dumps(install)}
    return template.render(runner=runner, cron=cron, **quoted) + "\n"
