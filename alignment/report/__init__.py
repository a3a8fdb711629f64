"""Tables, figures and the single-file HTML page of a run: presentation only."""
