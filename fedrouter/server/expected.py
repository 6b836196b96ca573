"""What the arrays of a run look like."""

from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import ResolvedConfig
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.strategies import make_strategy


def expected_arrays(
    shared_model: SharedModel, spec: LoraSpec, config: ResolvedConfig
) -> ExpectedArrays:
    """The shapes of the arrays in clients' replies, from the run's initial adapter."""
    initial = shared_model.initial(spec, config.seed)
    return ExpectedArrays(
        {name: array.shape for name, array in initial.items()},
        shared_model.base.embed([], EmbeddingSpec.from_config(config.model)).shape[1],
        config.clustering.n_local,
        make_strategy(config).private_sums,
    )
