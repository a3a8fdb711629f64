"""SFT and DPO with TRL's trainers, and what both share."""
