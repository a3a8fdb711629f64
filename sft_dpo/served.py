"""The flows as deployments name them: importable wherever the distribution is installed."""

from flows.dpo_round import dpo_round
from flows.promote import promote
from flows.sft_dpo import sft_dpo

__all__ = ["dpo_round", "promote", "sft_dpo"]
