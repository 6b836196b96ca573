"""Using a finished run: routing, generation, evaluation and inspection."""
