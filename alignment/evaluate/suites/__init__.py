"""Suites: prompts beside a run's own rows, each with a program that checks its reply.

Not here: tasks of lm-eval (`harness.py`).
"""

from typing import Annotated

from pydantic import Field

from alignment.evaluate.suites.general import GeneralSuite
from alignment.evaluate.suites.prompt_file import PromptFile

Suite = Annotated[GeneralSuite | PromptFile, Field(discriminator="name")]
