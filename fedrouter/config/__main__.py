"""``python -m fedrouter.config > docs/configuration.md`` writes the documentation of all keys."""

from fedrouter.config.describe import page

print(page(), end="")
