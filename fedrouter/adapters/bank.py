"""Several LoRA adapters on one copy of the frozen base model, trained or run in one pass.

The bank registers forward hooks on the target modules: a module's own forward computes its output,
whatever kind of module it is, and the hook adds each row's ``alpha / rank * B A dropout(x)`` (LoRA,
https://arxiv.org/abs/2106.09685), or the weighted sum of several such terms. The model's module
tree and state dict do not change. Its outputs change only within `AdapterBank.active`.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from transformers import PreTrainedModel

from fedrouter.adapters.lora import LoraSpec, adapter_layout, check_weights
from fedrouter.adapters.targets import Target
from fedrouter.errors import AdapterError
from fedrouter.types import AdapterWeights, FloatArray, LoraMatrices

NO_ADAPTER = -1  # stands in for a slot number where a row has no adapter


class AdapterBank:
    """Several LoRA adapters of one shape, attached to a model. All weights are zero until loaded.

    Several threads may use the bank at the same time: each is in `active` blocks of its own.

    The weights of slot k are row k of stacked float32 parameters: A of shape (size, rank, in) and
    B of shape (size, out, rank) for each target module. AdamW works element by element, so one
    optimizer over `parameters` is equivalent to one optimizer for each adapter, provided that each
    adapter has rows in every step.

    A context manager: leaving it takes the adapters off the model.

    Args:
        model: the base model.
        spec: the shape of all adapters.
        size: the number of adapters.
        trained: the LoRA matrices that get gradients.

    Raises:
        AdapterError: the targets do not fit the model (see `find_targets`).
    """

    def __init__(
        self, model: PreTrainedModel, spec: LoraSpec, size: int, trained: LoraMatrices = "AB"
    ) -> None:
        self.size = size
        self._spec = spec
        self._device = model.device
        self._passes = threading.local()  # a thread's pass, so that threads do not mix adapters
        self._layout = adapter_layout(model, spec)
        self._layers = [
            _Layer(target, spec, size, trained, index=index, device=self._device)
            for index, target in enumerate(self._layout.targets)
        ]
        self._hooks = [
            model.get_submodule(layer.target.name).register_forward_hook(self._hook(layer))
            for layer in self._layers
        ]

    def __enter__(self) -> "AdapterBank":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the hooks, so that the model is as it was before."""
        for hook in self._hooks:
            hook.remove()

    def parameters(self) -> list[nn.Parameter]:
        """The stacked weights that are trained, A and B module by module."""
        stacks = [weights for layer in self._layers for weights in (layer.a, layer.b)]
        return [weights for weights in stacks if weights.requires_grad]

    @torch.no_grad()
    def load(self, slot: int, weights: AdapterWeights) -> None:
        """Put an adapter's weights into a slot.

        Raises:
            AdapterError: names, shapes or dtype do not fit.
        """
        check_weights(weights, self._layout.shapes)
        for layer in self._layers:
            name_a, name_b = layer.target.shapes(self._spec.rank)
            layer.a[slot].copy_(torch.tensor(weights[name_a]))
            layer.b[slot].copy_(torch.tensor(weights[name_b]))

    def dump(self, slot: int) -> dict[str, FloatArray]:
        """A copy of a slot's weights, under PEFT's names."""
        weights: dict[str, FloatArray] = {}
        for layer in self._layers:
            name_a, name_b = layer.target.shapes(self._spec.rank)
            weights[name_a] = layer.a[slot].detach().cpu().numpy().copy()
            weights[name_b] = layer.b[slot].detach().cpu().numpy().copy()
        return weights

    @contextmanager
    def active(
        self,
        slots: Tensor,
        weights: Tensor | None = None,
        lengths: Tensor | None = None,
        dropout: Sequence[int] | None = None,
    ) -> Iterator[None]:
        """Within the block, row i of every batch that the model sees uses adapter slots[i].

        With k columns of slots, row i uses the sum over k of weights[i, k] times the adapter in
        slots[i, k]. In training only the adapters of the first column get gradients. The others
        are constants, through which gradients flow to the module's input. All adapters of a row
        see the same dropout(x).

        Args:
            slots: int64, shape (rows,) or (rows, k), in any order; NO_ADAPTER adds nothing.
            weights: float32, of the same shape; None: 1 each.
            lengths: int64, shape (rows,): number of tokens of each right-padded row; required with
                `dropout`.
            dropout: a seed for each row, to train with dropout; None: no dropout. A row's mask in
                a module depends on its own seed and length and on the module alone, not on the
                rows that share the pass; a forward pass that is repeated has the same masks.

        Raises:
            AdapterError: a slot is not in the bank; or, from the model, a target module sees
                inputs of another shape than (rows, tokens, features).
            ValueError: `weights` has another shape than `slots`, or `lengths` is missing.
        """
        self._check(slots, weights, lengths, dropout)
        slots = _columns(slots.to(self._device))
        weights = None if weights is None else _columns(weights.to(self._device))
        with self._using(_Pass(slots, weights, self._masks(slots, lengths, dropout))):
            yield

    def checkpoint_contexts(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The `context_fn` of torch's `checkpoint`, for a forward pass within `active`.

        The pass is repeated by the backward pass: after the block, and on a GPU in a thread of its
        own. It uses the same adapters there.
        """
        return nullcontext(), self._using(self._current)

    @contextmanager
    def _using(self, current: "_Pass | None") -> Iterator[None]:
        """Within the block, `current` is this thread's pass."""
        outer = self._current
        self._passes.current = current
        try:
            yield
        finally:
            self._passes.current = outer

    @property
    def _current(self) -> "_Pass | None":
        """The pass of this thread, if it is in an `active` block."""
        current: _Pass | None = getattr(self._passes, "current", None)
        return current

    def _check(
        self,
        slots: Tensor,
        weights: Tensor | None,
        lengths: Tensor | None,
        dropout: Sequence[int] | None,
    ) -> None:
        """Refuse arguments that `active` cannot use; it documents the errors."""
        if slots.numel() and not NO_ADAPTER <= int(slots.min()) <= int(slots.max()) < self.size:
            raise AdapterError(f"slots {slots.tolist()}: this bank has slots 0 to {self.size - 1}")
        if weights is not None and weights.shape != slots.shape:
            raise ValueError(f"{tuple(weights.shape)} weights, {tuple(slots.shape)} slots")
        if dropout is not None and self._spec.dropout > 0 and lengths is None:
            raise ValueError("dropout masks need the rows' lengths")

    def _masks(
        self, slots: Tensor, lengths: Tensor | None, dropout: Sequence[int] | None
    ) -> "_Dropout | None":
        """The dropout masks of the rows that use an adapter; None without dropout."""
        if dropout is None or lengths is None or self._spec.dropout <= 0:
            return None
        rows = zip(slots.amax(1).tolist(), dropout, lengths.tolist(), strict=True)
        adapted = tuple((seed, length) for slot, seed, length in rows if slot >= 0)
        return _Dropout(self._spec.dropout, adapted)

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale each adapter's gradient down to `max_norm`, as torch's `clip_grad_norm_` would.

        Returns:
            The norms before clipping, each over all tensors of an adapter; shape (size,).
        """
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        parts = torch.stack([vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        norms: Tensor = vector_norm(parts, dim=0)
        factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, 1, 1))
        return norms

    def _hook(self, layer: "_Layer") -> Any:
        def add_adapters(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            current = self._current
            return output if current is None else current.add(layer, inputs[0], output)

        return add_adapters


def _columns(values: Tensor) -> Tensor:
    """Values of shape (rows,) or (rows, k) as (rows, k)."""
    return values.unsqueeze(1) if values.dim() == 1 else values


class _Layer:
    """The stacked weights of one target module, the `index`-th of the bank."""

    def __init__(
        self,
        target: Target,
        spec: LoraSpec,
        size: int,
        trained: LoraMatrices,
        *,
        index: int,
        device: torch.device,
    ) -> None:
        self.index = index
        self.target = target
        self.scale = spec.scale
        shape_a, shape_b = target.shapes(spec.rank).values()
        self.a = nn.Parameter(torch.zeros(size, *shape_a, device=device), "A" in trained)
        self.b = nn.Parameter(torch.zeros(size, *shape_b, device=device), "B" in trained)

    def product(self, x: Tensor, slots: Tensor, constant: bool) -> Tensor:
        """B A x with the matrices of each row's adapter, shape (rows, tokens, out).

        Gathering each row's matrices was as fast as or faster than one product per adapter, views
        grouped by adapter, and products with all adapters at once (8 adapters of rank 8, 96 tokens,
        256 features, one core; forward and backward of the module, including its own 9.8 and 37 ms,
        at 4 and 16 rows each: 14/50 ms against 15/54, 14/53 and 20/77), and needs no sorted rows.

        Args:
            x: float32, shape (rows, tokens, in).
            slots: shape (rows,).
            constant: whether A and B get no gradients.
        """
        a, b = (self.a.detach(), self.b.detach()) if constant else (self.a, self.b)
        down = torch.bmm(x, a.index_select(0, slots).mT)
        return torch.bmm(down, b.index_select(0, slots).mT)


class _Pass:
    """Which adapters each row of the batches uses.

    Attributes:
        rows: number of rows in a batch.
        adapted: indices of the rows that use at least one adapter.
        columns: the first adapter of each of these rows, then the second, and so on; none is empty.
        masks: their dropout masks; None: no dropout.
    """

    def __init__(self, slots: Tensor, weights: Tensor | None, masks: "_Dropout | None") -> None:
        self.rows = len(slots)
        self.adapted = (slots >= 0).any(1).nonzero()[:, 0]
        slots = slots[self.adapted]
        weights = None if weights is None else weights[self.adapted]
        columns = [_Column.of(slots, weights, k) for k in range(slots.shape[1])]
        self.columns = [column for column in columns if len(column.slots)]
        self.masks = masks

    def add(self, layer: _Layer, x: Tensor, output: Tensor) -> Tensor:
        """The module's output plus the adapters' terms, in the output's dtype."""
        if len(self.adapted) == 0:
            return output
        if x.dim() != 3 or len(x) != self.rows:
            raise AdapterError(
                f"{layer.target.name!r} sees inputs of shape {tuple(x.shape)}, not "
                f"({self.rows} rows, tokens, features); leave it out of adapter.targets"
            )
        if len(self.adapted) == self.rows:
            return self._added(layer, x, output)
        changed = self._added(layer, x[self.adapted], output[self.adapted])
        return output.index_copy(0, self.adapted, changed)

    def _added(self, layer: _Layer, x: Tensor, output: Tensor) -> Tensor:
        x, scale = x.float(), layer.scale
        if self.masks is not None:
            x = self.masks.drop(x, layer.index)
            scale /= 1 - self.masks.probability  # here, not on x: half the cost of dropout
        total = output
        for column in self.columns:
            total = column.add(layer, x, scale, total)
        return total.to(output.dtype)


@dataclass(frozen=True)
class _Column:
    """The k-th adapter of each row that has at least k adapters.

    Attributes:
        row_indices: indices of these n rows; None: all rows.
        slots: shape (n,).
        weights: shape (n, 1, 1); None: 1 each.
        constant: whether the adapters get no gradients.
    """

    row_indices: Tensor | None
    slots: Tensor
    weights: Tensor | None
    constant: bool

    @classmethod
    def of(cls, slots: Tensor, weights: Tensor | None, k: int) -> "_Column":
        """Column k of slots and weights, both of shape (rows, columns)."""
        indices = (slots[:, k] >= 0).nonzero()[:, 0]
        return cls(
            row_indices=None if len(indices) == len(slots) else indices,
            slots=slots[indices, k],
            weights=None if weights is None else weights[indices, k].view(-1, 1, 1),
            constant=k > 0,
        )

    def add(self, layer: _Layer, x: Tensor, scale: float, total: Tensor) -> Tensor:
        """`total`, shape (rows, tokens, out), with scale * weight * B A x added; float32."""
        factor = scale if self.weights is None else scale * self.weights
        if self.row_indices is None:
            return total + factor * layer.product(x, self.slots, self.constant)
        term = factor * layer.product(x[self.row_indices], self.slots, self.constant)
        return total.float().index_add(0, self.row_indices, term)


@dataclass(frozen=True)
class _Dropout:
    """Dropout in which each row has its own seed.

    Attributes:
        probability: the probability that an element is dropped.
        rows: (seed, number of tokens) of each row that uses an adapter.
    """

    probability: float
    rows: tuple[tuple[int, int], ...]

    def drop(self, x: Tensor, index: int) -> Tensor:
        """x, shape (rows, tokens, features), with dropped elements set to zero. The masks of
        different modules differ by `index`.

        The caller scales the other elements up. Tokens beyond a row's length are padding, and are
        dropped.
        """
        keep = torch.zeros(x.shape, dtype=torch.bool)
        draws = torch.Generator()
        for row, (seed, length) in enumerate(self.rows):
            draws.manual_seed(seed + index)
            keep[row, :length] = _draw((length, x.shape[2]), self.probability, draws)
        return x * keep.to(x.device)


def _draw(shape: tuple[int, ...], probability: float, generator: torch.Generator) -> Tensor:
    """A random mask on the CPU whose elements are False with the probability (to 16 bits).

    Four elements are taken from each 64-bit draw: 1.1 ns an element on one core, where torch.rand
    takes 4.1, bernoulli_ 5.7 and torch's own dropout 7.3.
    """
    count = torch.Size(shape).numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64)
    draws.random_(-(2**63), None, generator=generator)
    threshold = round(probability * 2**16) - 2**15
    return (draws.view(torch.int16)[:count] >= threshold).view(shape)
