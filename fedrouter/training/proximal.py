"""Proximal terms: adapters that are held close to where they should not stray from."""

from collections.abc import Mapping

import torch

from fedrouter.adapters.bank import AdapterBank
from fedrouter.types import AdapterWeights


class ProximalTerms:
    """The terms mu / 2 * ||w - anchor||^2 of the losses of a bank's adapters (FedProx, Li et al.
    2020, section 3.2; Ditto, Li et al. 2021, equation 2), over the matrices that are trained.

    Args:
        bank: the adapters; the anchors are laid out as its weights are by loading them into it, so
            load the adapters themselves afterwards.
        anchors: slot -> mu and a complete adapter; slots that are missing have no term.

    Raises:
        AdapterError: an anchor does not fit the bank.
    """

    def __init__(
        self, bank: AdapterBank, anchors: Mapping[int, tuple[float, AdapterWeights]]
    ) -> None:
        mus = torch.zeros(bank.size, 1, 1)
        for slot, (mu, weights) in anchors.items():
            bank.load(slot, weights)
            mus[slot] = mu
        stacks = bank.parameters() if anchors else []
        self._terms = [(stack, stack.detach().clone(), mus.to(stack.device)) for stack in stacks]

    def accumulate_gradients(self) -> None:
        """Add the terms' gradients to those of the bank's weights."""
        for weights, anchor, mus in self._terms:
            (mus / 2 * (weights - anchor).square()).sum().backward()
