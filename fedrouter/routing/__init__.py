"""Tasks in the embedding space: clustering, the transform for distances, the router."""
