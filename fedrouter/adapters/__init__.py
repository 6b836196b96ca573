"""LoRA adapters: where they attach, their files, and many of them on one base model."""
