"""The server of a run: rounds, checkpoints, the summary."""
