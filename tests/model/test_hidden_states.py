import threading

import pytest
import torch
from support.tiny_models import random_architecture

from fedrouter.model.hidden_states import HiddenStates

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
KINDS = ("llama", "gpt2", "gemma2", "qwen2", "gpt_neox", "opt", "bloom", "mamba", "qwen2_moe")


@torch.no_grad()
@pytest.mark.parametrize("kind", [*KINDS, "qwen2_vl", "llama4", "gemma3"])
def test_a_layer_is_that_of_a_pass_through_all_layers(kind: str) -> None:
    model = random_architecture(kind)
    states = HiddenStates(model)
    whole = states._decoder(
        input_ids=TOKENS, attention_mask=MASK, use_cache=False, output_hidden_states=True
    )
    first = 0 if kind == "mamba" else 1  # elsewhere the token embeddings come before
    for number in range(1, states.depth):
        expected = whole.hidden_states[number - 1 + first]
        assert torch.equal(states.at(number, TOKENS, MASK), expected)
    assert torch.equal(states.at(states.depth, TOKENS, MASK), whole.last_hidden_state)


@torch.no_grad()
def test_the_layers_above_do_not_run() -> None:
    model = random_architecture("llama", num_hidden_layers=4)
    ran: list[int] = []
    for number, layer in enumerate(model.model.layers, start=1):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    HiddenStates(model).at(3, TOKENS, MASK)
    assert ran == [1, 2, 3]


@torch.no_grad()
def test_other_passes_and_threads_are_not_ended() -> None:
    model = random_architecture("llama")
    states = HiddenStates(model)
    expected = model(input_ids=TOKENS, attention_mask=MASK).logits
    first = states.at(1, TOKENS, MASK)
    assert torch.equal(model(input_ids=TOKENS, attention_mask=MASK).logits, expected)
    wrong: list[int] = []

    def embed() -> None:
        with torch.no_grad():
            wrong.extend(i for i in range(50) if not torch.equal(states.at(1, TOKENS, MASK), first))

    other = threading.Thread(target=embed)
    other.start()
    for _ in range(20):
        assert torch.equal(model(input_ids=TOKENS, attention_mask=MASK).logits, expected)
    other.join()
    assert not wrong


@pytest.mark.parametrize(
    ("layer", "number"), [(1, 1), (3, 3), (99, 4), (1.0, 4), (0.5, 2), (2 / 3, 3), (0.01, 1)]
)
def test_a_layer_is_a_number_or_a_fraction_of_the_depth(layer: float, number: int) -> None:
    states = HiddenStates(random_architecture("llama", num_hidden_layers=4))
    assert states.number(layer) == number
