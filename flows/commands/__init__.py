"""What the commands do, imported when one is called: `--help` and mistakes answer at once."""
