"""A finished run behind OpenAI's HTTP API: every prompt is answered by its task's adapter."""
