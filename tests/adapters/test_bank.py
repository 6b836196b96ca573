from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from support.adapters import broken, frozen, random_weights
from support.tiny_models import KINDS, VOCABULARY
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from fedrouter.adapters.bank import NO_ADAPTER, AdapterBank
from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.errors import AdapterError
from fedrouter.types import AdapterWeights, LoraMatrices

SPEC = LoraSpec(rank=4, alpha=8, dropout=0.0)
DROPOUT = LoraSpec(rank=4, alpha=8, dropout=0.3)
BATCHES = {0: (3, 7), 1: (2, 5), 2: (4, 9)}  # slot: rows and tokens of its batches
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def tokens(slot: int, step: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(1000 * slot + step)
    return torch.randint(3, VOCABULARY, BATCHES[slot], generator=draws)


def fused(batches: dict[int, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right-padded tokens, attention mask, slots and lengths of several adapters' batches."""
    width = max(batch.shape[1] for batch in batches.values())
    parts = [nn.functional.pad(batch, (0, width - batch.shape[1])) for batch in batches.values()]
    rows = torch.tensor([len(batch) for batch in batches.values()])
    slots = torch.tensor(list(batches)).repeat_interleave(rows)
    lengths = torch.tensor([b.shape[1] for b in batches.values()]).repeat_interleave(rows)
    mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
    return torch.cat(parts), mask, slots, lengths


def batch_loss(logits: Tensor, batch: Tensor) -> Tensor:
    length = batch.shape[1]
    return cross_entropy(logits[:, : length - 1].flatten(0, 1), batch[:, 1:].flatten())


def peft_model(
    model: PreTrainedModel, spec: LoraSpec, weights: AdapterWeights, wrap: Callable = get_peft_model
) -> PeftModel:
    judge = wrap(model, spec.resolved(model).peft_config())
    loaded = set_peft_model_state_dict(judge, {k: torch.tensor(v) for k, v in weights.items()})
    assert not loaded.unexpected_keys
    for name, parameter in judge.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return judge


def train_bank(
    model: PreTrainedModel,
    spec: LoraSpec,
    adapters: dict[int, AdapterWeights],
    steps: int = 5,
    weight_decay: float = 0.0,
    trained: LoraMatrices = "AB",
) -> tuple[dict[int, dict[str, np.ndarray]], list[np.ndarray]]:
    """Train the adapters together; returns their weights and the gradient norms of each step."""
    order = {slot: position for position, slot in enumerate(adapters)}
    norms = []
    with AdapterBank(model, spec, len(adapters), trained) as bank:
        for slot, weights in adapters.items():
            bank.load(order[slot], weights)
        optimizer = torch.optim.AdamW(bank.parameters(), lr=0.01, weight_decay=weight_decay)
        for step in range(steps):
            batches = {slot: tokens(slot, step) for slot in adapters}
            ids, mask, slots, lengths = fused({order[slot]: b for slot, b in batches.items()})
            masks = [
                100_000 * (1 + slot) + 1000 * step + 100 * row
                for slot, batch in batches.items()
                for row in range(len(batch))
            ]
            optimizer.zero_grad()
            with bank.active(slots, lengths=lengths, dropout=masks):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            losses = [batch_loss(logits[slots == order[s]], b) for s, b in batches.items()]
            torch.stack(losses).sum().backward()
            norms.append(bank.clip_gradients(0.5).numpy())
            optimizer.step()
        return {slot: bank.dump(order[slot]) for slot in adapters}, norms


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_batch_gives_the_outputs_and_gradients_of_peft(kind: str) -> None:
    model = frozen(kind)
    adapters = {slot: random_weights(model, SPEC, slot) for slot in BATCHES}
    batches = {slot: tokens(slot) for slot in BATCHES}
    ids, mask, slots, _ = fused(batches)
    shuffled = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    ids, mask, slots = ids[shuffled], mask[shuffled], slots[shuffled]
    with AdapterBank(model, SPEC, size=3) as bank:
        for slot, weights in adapters.items():
            bank.load(slot, weights)
        with bank.active(slots):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[shuffled.argsort()]
        own = [logits[slots[shuffled.argsort()] == slot] for slot in BATCHES]
        sum(batch_loss(own[slot], batch) for slot, batch in batches.items()).backward()
        gradients = [parameter.grad for parameter in bank.parameters()]

    for slot, batch in batches.items():
        judge = peft_model(frozen(kind), SPEC, adapters[slot]).eval()
        expected = judge(input_ids=batch, use_cache=False).logits
        torch.testing.assert_close(own[slot][:, : batch.shape[1]], expected, **TOLERANCE)
        batch_loss(expected, batch).backward()
        named = {n: p.grad for n, p in judge.named_parameters() if p.grad is not None}
        assert len(named) == len(gradients)
        for name, found in zip(adapters[slot], gradients, strict=True):
            judged = named[name.replace(".weight", ".default.weight")]
            torch.testing.assert_close(found[slot], judged, **TOLERANCE)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_five_steps_give_the_weights_of_separate_peft_trainings(
    kind: str, weight_decay: float
) -> None:
    model = frozen(kind)
    adapters = {
        slot: initial_weights(model, SPEC, torch.Generator().manual_seed(slot)) for slot in BATCHES
    }
    trained, norms = train_bank(model, SPEC, adapters, weight_decay=weight_decay)
    clipped = False
    for slot in BATCHES:
        judge = peft_model(frozen(kind), SPEC, adapters[slot]).train()
        parameters = [p for p in judge.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=weight_decay)
        judge.eval()  # GPT-2 has dropout of its own, which the frozen base does without
        for step in range(5):
            batch = tokens(slot, step)
            optimizer.zero_grad()
            batch_loss(judge(input_ids=batch, use_cache=False).logits, batch).backward()
            norm = nn.utils.clip_grad_norm_(parameters, 0.5)
            np.testing.assert_allclose(norms[step][slot], norm.item(), rtol=1e-3)
            clipped |= norm.item() > 0.5
            optimizer.step()
        expected = get_peft_model_state_dict(judge, save_embedding_layers=False)
        assert set(expected) == set(trained[slot])
        for name, weights in trained[slot].items():
            np.testing.assert_allclose(weights, expected[name].numpy(), rtol=1e-3, atol=2e-5)
    assert clipped


@pytest.mark.parametrize("part", ["A", "B"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_one_matrix_trains_as_peft_with_the_other_frozen(kind: str, part: LoraMatrices) -> None:
    model = frozen(kind)
    adapters = {slot: random_weights(model, SPEC, slot) for slot in BATCHES}
    found, norms = train_bank(model, SPEC, adapters, trained=part)
    for slot in BATCHES:
        judge = peft_model(frozen(kind), SPEC, adapters[slot]).eval()
        for name, parameter in judge.named_parameters():
            parameter.requires_grad_(f"lora_{part}" in name)
        parameters = [p for p in judge.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
        for step in range(5):
            batch = tokens(slot, step)
            optimizer.zero_grad()
            batch_loss(judge(input_ids=batch, use_cache=False).logits, batch).backward()
            norm = nn.utils.clip_grad_norm_(parameters, 0.5)
            np.testing.assert_allclose(norms[step][slot], norm.item(), rtol=1e-3)
            optimizer.step()
        expected = get_peft_model_state_dict(judge, save_embedding_layers=False)
        for name, weights in found[slot].items():
            if f"lora_{part}" in name:
                np.testing.assert_allclose(weights, expected[name].numpy(), rtol=1e-3, atol=2e-5)
                assert np.abs(weights - adapters[slot][name]).max() > 0.01
            else:
                np.testing.assert_array_equal(weights, adapters[slot][name])


MIXES = [  # slots and weights of a row's adapters
    ((0, 1), (0.3, 0.7)),
    ((2,), (1.0,)),
    ((), ()),
    ((1, 0, 2), (0.5, -0.2, 1.2)),
    ((NO_ADAPTER, 1), (9.0, 0.25)),
    ((1, 1), (0.5, 0.25)),
]


def padded(mixes: list[tuple[tuple[int, ...], tuple[float, ...]]]) -> tuple[Tensor, Tensor]:
    width = max(len(slots) for slots, _ in mixes)
    short = [width - len(slots) for slots, _ in mixes]
    slots = [[*slots, *[NO_ADAPTER] * n] for (slots, _), n in zip(mixes, short, strict=True)]
    weights = [[*weights, *[0.0] * n] for (_, weights), n in zip(mixes, short, strict=True)]
    return torch.tensor(slots), torch.tensor(weights)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mix_is_pefts_weighted_combination_of_the_products(kind: str) -> None:
    model = frozen(kind)
    adapters = {slot: random_weights(model, SPEC, slot) for slot in range(3)}
    ids = tokens(2)[:1].repeat(len(MIXES), 1)
    with torch.no_grad(), AdapterBank(model, SPEC, size=3) as bank:
        for slot, weights in adapters.items():
            bank.load(slot, weights)
        with bank.active(*padded(MIXES)):
            logits = model(input_ids=ids, use_cache=False).logits
        for row, mix in enumerate(MIXES):
            with bank.active(*padded([mix])):
                alone = model(input_ids=ids[:1], use_cache=False).logits
            torch.testing.assert_close(logits[row], alone[0], **TOLERANCE)
        base = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(logits[2], base[2])

    judge = peft_model(frozen(kind), SPEC, adapters[0]).eval()
    names = ["default", "one", "two"]
    for slot in (1, 2):
        judge.add_adapter(names[slot], SPEC.resolved(model).peft_config())
        tensors = {name: torch.tensor(array) for name, array in adapters[slot].items()}
        set_peft_model_state_dict(judge, tensors, adapter_name=names[slot])
    for row, (slots, weights) in enumerate(MIXES):
        factors: Counter[str] = Counter()
        for slot, weight in zip(slots, weights, strict=True):
            if slot != NO_ADAPTER:
                factors[names[slot]] += weight
        if not factors:
            continue
        chosen, used = [*factors], [*factors.values()]
        judge.add_weighted_adapter(chosen, used, f"mix{row}", combination_type="cat")
        judge.set_adapter(f"mix{row}")
        expected = judge(input_ids=ids[:1], use_cache=False).logits
        torch.testing.assert_close(logits[row], expected[0], **TOLERANCE)


def test_one_column_of_weight_one_is_the_plain_pass_bit_for_bit() -> None:
    model = frozen("llama")
    ids, slots = tokens(2), torch.tensor([1, NO_ADAPTER, 0, 1])
    with torch.no_grad(), AdapterBank(model, SPEC, size=2) as bank:
        for slot in range(2):
            bank.load(slot, random_weights(model, SPEC, slot))
        with bank.active(slots):
            plain = model(input_ids=ids).logits
        with bank.active(slots.unsqueeze(1), torch.ones(4, 1)):
            column = model(input_ids=ids).logits
        with bank.active(torch.stack([slots, torch.full((4,), NO_ADAPTER)], dim=1)):
            columns = model(input_ids=ids).logits
    assert torch.equal(plain, column)
    assert torch.equal(plain, columns)


def test_only_the_first_column_gets_gradients() -> None:
    model = frozen("llama")
    ids = tokens(1)
    with AdapterBank(model, SPEC, size=3) as bank:
        for slot in range(3):
            bank.load(slot, random_weights(model, SPEC, slot))
        with bank.active(torch.tensor([[0, 1], [0, 2]]), torch.full((2, 2), 0.5)):
            batch_loss(model(input_ids=ids, use_cache=False).logits, ids).backward()
        for parameter in bank.parameters():
            assert parameter.grad[0].abs().max() > 0
            assert not parameter.grad[1:].any()


def test_an_adapter_that_is_not_finite_does_not_leak_through_padding_columns() -> None:
    model = frozen("llama")
    with torch.no_grad(), AdapterBank(model, SPEC, size=2) as bank:
        for slot in range(2):
            bank.load(slot, random_weights(model, SPEC, slot))
        bank.parameters()[-1][0] = torch.nan
        slots, weights = padded([((1,), (1.0,)), ((1, 0), (0.5, 0.5)), ((), ())])
        with bank.active(slots, weights):
            logits = model(input_ids=tokens(0)).logits
    assert logits[[0, 2]].isfinite().all()
    assert logits[1].isnan().all()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_dropout_masks_do_not_depend_on_what_shares_the_pass(kind: str) -> None:
    model = frozen(kind)
    adapters = {slot: random_weights(model, DROPOUT, slot) for slot in BATCHES}
    together, _ = train_bank(model, DROPOUT, adapters)
    without, _ = train_bank(model, SPEC, adapters)
    for slot, weights in adapters.items():
        alone, _ = train_bank(model, DROPOUT, {slot: weights})
        for name, array in alone[slot].items():
            np.testing.assert_allclose(together[slot][name], array, rtol=1e-3, atol=2e-5)
        assert any(np.abs(without[slot][n] - a).max() > 1e-3 for n, a in alone[slot].items())


def test_dropout_keeps_the_mean_and_drops_the_asked_share() -> None:
    model = frozen("llama")
    spec = LoraSpec(rank=1, alpha=1, dropout=0.25, targets=("layers.0.self_attn.q_proj",))
    module = model.get_submodule("model.layers.0.self_attn.q_proj")
    weights = {name: np.zeros_like(a) for name, a in random_weights(model, spec, 0).items()}
    for array in weights.values():
        array[0, 0] = 1  # the adapter copies its first input onto its first output
    x, slots = torch.ones(40, 50, 32), torch.zeros(40, dtype=torch.int64)
    with AdapterBank(model, spec, size=1) as bank:
        bank.load(0, weights)
        masks = [100 * row for row in range(40)]
        with bank.active(slots, lengths=slots + 50, dropout=masks), torch.no_grad():
            added = module(x) - module.forward(x)
    kept = added[:, :, 0] > 0.5
    torch.testing.assert_close(added[:, :, 0][kept], torch.full((int(kept.sum()),), 1 / 0.75))
    assert 0.70 < kept.float().mean() < 0.80
    assert not added[:, :, 0][~kept].any()


def test_rows_of_slot_minus_one_and_no_active_rows_are_the_base_exactly() -> None:
    model = frozen("llama")
    ids = tokens(2)
    with torch.no_grad(), AdapterBank(model, SPEC, size=1) as bank:
        bank.load(0, random_weights(model, SPEC, 0))
        base = model(input_ids=ids).logits
        with bank.active(torch.tensor([-1, 0, -1, 0])):
            mixed = model(input_ids=ids).logits
        with bank.active(torch.full((4,), -1)):
            alone = model(input_ids=ids).logits
    assert torch.equal(alone, base)
    assert torch.equal(mixed[[0, 2]], base[[0, 2]])
    assert (mixed[[1, 3]] - base[[1, 3]]).abs().amax((1, 2)).min() > 0.01


def test_one_adapter_that_is_not_finite_leaves_the_others_alone() -> None:
    model = frozen("llama")
    with torch.no_grad(), AdapterBank(model, SPEC, size=2) as bank:
        bank.load(0, random_weights(model, SPEC, 0))
        bank.parameters()[-1][1] = torch.nan  # B of the last layer's v_proj
        with bank.active(torch.tensor([0, 1, 0])):
            logits = model(input_ids=tokens(0)).logits
    assert logits[[0, 2]].isfinite().all()
    assert logits[1].isnan().all()


def test_generation_in_a_mixed_batch_follows_each_row_of_its_own() -> None:
    model = frozen("qwen2")
    ids = tokens(0)[:1].repeat(3, 1)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    mask = torch.ones_like(ids)
    with AdapterBank(model, SPEC, size=2) as bank:
        for slot in range(2):
            bank.load(slot, random_weights(model, SPEC, slot))
        with bank.active(torch.tensor([0, 1, -1])):
            mixed = model.generate(ids, attention_mask=mask, **options)
        for row, slot in enumerate([0, 1, -1]):
            with bank.active(torch.tensor([slot])):
                alone = model.generate(ids[:1], attention_mask=mask[:1], **options)
            assert torch.equal(mixed[row], alone[0])
    assert not torch.equal(mixed[0], mixed[2])


def test_model_is_untouched_during_and_after_the_bank() -> None:
    model = frozen("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = dict(model.named_modules())
    ids = tokens(0)
    expected = model(input_ids=ids).logits
    with AdapterBank(model, SPEC, size=1) as bank:
        bank.load(0, random_weights(model, SPEC, 0))
        assert dict(model.named_modules()) == modules
        assert model.state_dict().keys() == before.keys()
        with pytest.raises(RuntimeError), bank.active(torch.zeros(3, dtype=torch.int64)):
            raise RuntimeError
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert not hasattr(model, "peft_config")


class Int8Linear(nn.Module):
    """A quantized stand-in: no float weight, and a forward of its own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.step = float(linear.weight.abs().max()) / 127
        self.register_buffer("codes", (linear.weight / self.step).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.codes.to(x.dtype)) * self.step


def quantize(model: PreTrainedModel) -> PreTrainedModel:
    for layer in model.model.layers:
        layer.self_attn.q_proj = Int8Linear(layer.self_attn.q_proj)
        layer.self_attn.v_proj = Int8Linear(layer.self_attn.v_proj)
    return model


def dequantize(model: PreTrainedModel) -> PreTrainedModel:
    for module in quantize(model).model.layers:
        for name in ("q_proj", "v_proj"):
            codes = getattr(module.self_attn, name)
            linear = nn.Linear(codes.in_features, codes.out_features, bias=False)
            linear.weight = nn.Parameter(codes.codes.float() * codes.step, requires_grad=False)
            setattr(module.self_attn, name, linear)
    return model


def test_quantized_modules_carry_adapters() -> None:
    model = quantize(frozen("llama"))
    weights = random_weights(model, SPEC, 0)
    ids = tokens(0)
    with AdapterBank(model, SPEC, size=1) as bank:
        bank.load(0, weights)
        with bank.active(torch.zeros(3, dtype=torch.int64)):
            logits = model(input_ids=ids).logits
        logits.sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in bank.parameters())
    judge = peft_model(dequantize(frozen("llama")), SPEC, weights).eval()
    torch.testing.assert_close(logits, judge(input_ids=ids).logits, rtol=1e-3, atol=1e-4)


def test_a_bfloat16_base_computes_adapters_in_float32_as_peft_does() -> None:
    model = frozen("llama").to(torch.bfloat16)
    weights = random_weights(model, SPEC, 0)
    ids = tokens(0)
    with torch.no_grad(), AdapterBank(model, SPEC, size=1) as bank:
        bank.load(0, weights)
        assert all(parameter.dtype == torch.float32 for parameter in bank.parameters())
        with bank.active(torch.zeros(3, dtype=torch.int64)):
            logits = model(input_ids=ids).logits
    judge = peft_model(frozen("llama").to(torch.bfloat16), SPEC, weights).eval()
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits, judge(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "is missing"),
        ("renamed", "unknown|missing"),
        ("transposed", "shape"),
        ("float64", "float64"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(how: str, says: str) -> None:
    model = frozen("llama")
    with AdapterBank(model, SPEC, size=1) as bank:
        with pytest.raises(AdapterError, match=says):
            bank.load(0, broken(random_weights(model, SPEC, 0), how))
        assert not any(array.any() for array in bank.dump(0).values())


def test_slots_and_inputs_that_do_not_fit_are_refused() -> None:
    model = frozen("llama")
    with AdapterBank(model, SPEC, size=2) as bank:
        with pytest.raises(AdapterError, match="slots 0 to 1"), bank.active(torch.tensor([0, 2])):
            pass
        with pytest.raises(AdapterError, match="q_proj"), bank.active(torch.tensor([0, 1])):
            model(input_ids=tokens(0))
        with pytest.raises(ValueError, match=r"\(2, 1\) weights"):
            bank.active(torch.tensor([0, 1]), torch.ones(2, 1)).__enter__()


def test_gradients_are_clipped_one_adapter_at_a_time() -> None:
    model = frozen("llama")
    spec = LoraSpec(rank=1, targets=("layers.0.self_attn.q_proj",))
    with AdapterBank(model, spec, size=2) as bank:
        a, b = bank.parameters()
        a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
        a.grad[0, 0, 0], b.grad[0, 0, 0] = 3.0, 4.0  # norm 5
        a.grad[1, 0, 1] = 0.5
        assert bank.clip_gradients(1.0).tolist() == [5.0, 0.5]
        assert a.grad[0, 0, 0].item() == pytest.approx(0.6)
        assert b.grad[0, 0, 0].item() == pytest.approx(0.8)
        assert a.grad[1, 0, 1].item() == 0.5
