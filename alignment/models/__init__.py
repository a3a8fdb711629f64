"""Base models and adapters: where they come from, loading, merging."""
