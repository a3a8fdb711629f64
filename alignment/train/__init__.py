"""SFT and DPO on the trainer library, and what both share."""
