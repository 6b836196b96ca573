"""Prompts into tasks: clustering, the space distances are taken in, the router."""
