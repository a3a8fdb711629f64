"""Tables, figures and the one-file HTML page of a run: drawing only, no arithmetic."""
