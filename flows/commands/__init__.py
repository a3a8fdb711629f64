"""The commands, imported when called, so that `--help` and usage errors respond immediately."""
