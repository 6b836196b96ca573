"""A finished run in use: routing, answering, evaluating, inspecting."""
