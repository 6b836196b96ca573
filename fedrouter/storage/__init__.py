"""Writes that are whole or do not happen: files, checkpoints, run folders."""
