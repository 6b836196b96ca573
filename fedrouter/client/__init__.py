"""One client: profiling, training, choice of adapters, evaluation."""
