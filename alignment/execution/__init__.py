"""One step in a process of its own, and the record of what ran."""
