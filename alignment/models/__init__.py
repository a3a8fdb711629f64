"""Base models and adapters: fetching, loading, generating, merging, stacking, GGUF."""
