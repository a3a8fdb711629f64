"""Rounds from an inbox: new batches, the champion and the ledger."""
