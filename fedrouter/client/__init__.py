"""Everything a client does, next to its data."""
