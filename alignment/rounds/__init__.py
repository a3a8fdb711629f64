"""Rounds from an inbox: new batches, the champion, the ledger."""
