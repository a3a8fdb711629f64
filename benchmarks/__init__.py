"""How fast the pipeline is, measured; run from a checkout, not installed."""
