"""Training of many adapters in one pass over the base model."""
