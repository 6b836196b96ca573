"""The frozen base model: prompts, embeddings, losses, generation."""
