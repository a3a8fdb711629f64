"""The Prefect flows, which put the stages in order, and the command line."""
