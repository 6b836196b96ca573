"""``python -m fedrouter.config > docs/configuration.md`` writes the documentation of all keys."""

from fedrouter.config.reference import page

print(page(), end="")
