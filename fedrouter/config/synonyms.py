"""Names that other libraries give to configuration keys, to suggest the key that is meant."""

from collections.abc import Mapping

# By the last part of an unknown key, or by the whole key where only that tells.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    # Hugging Face Trainer, PyTorch
    "learning_rate": ("training.lr",),
    "min_lr": ("training.lr_min",),
    "epochs": ("training.steps", "federation.rounds"),
    "num_epochs": ("training.steps", "federation.rounds"),
    "num_train_epochs": ("training.steps", "federation.rounds"),
    "max_steps": ("training.steps",),
    "local_steps": ("training.steps",),
    "local_epochs": ("training.steps",),
    "batch": ("training.batch_size",),
    "per_device_train_batch_size": ("training.batch_size",),
    "grad_clip": ("training.max_grad_norm",),
    "clip_grad_norm": ("training.max_grad_norm",),
    # PEFT
    "r": ("adapter.rank",),
    "lora_r": ("adapter.rank",),
    "lora_rank": ("adapter.rank",),
    "lora_alpha": ("adapter.alpha",),
    "lora_dropout": ("adapter.dropout",),
    "target_modules": ("adapter.targets",),
    "lora": ("adapter",),
    # Transformers
    "model.path": ("model.name",),
    "model_name": ("model.name",),
    "model_name_or_path": ("model.name",),
    "base_model": ("model.name",),
    "torch_dtype": ("model.dtype",),
    "max_seq_length": ("model.max_length",),
    "max_seq_len": ("model.max_length",),
    # Flower
    "num_clients": ("federation.clients",),
    "n_clients": ("federation.clients",),
    "num_rounds": ("federation.rounds",),
    "num_server_rounds": ("federation.rounds",),
    "fraction_fit": ("federation.fraction",),
    "fraction_train": ("federation.fraction",),
    "min_available_clients": ("federation.min_clients",),
    # data
    "data.path": ("data.train",),
    "train_file": ("data.train",),
    "test_file": ("data.test",),
}
