"""Proximal terms: penalties on the distance of adapters from reference weights (anchors)."""

from collections.abc import Mapping

import torch

from fedrouter.adapters.bank import AdapterBank
from fedrouter.types import AdapterWeights


class ProximalTerms:
    """The terms mu / 2 * ||w - anchor||^2 in the losses of a bank's adapters.

    The sum runs over the matrices that are trained. FedProx (https://arxiv.org/abs/1812.06127,
    section 3.2) and Ditto (https://arxiv.org/abs/2012.04221, equation 2) use this term.

    Args:
        bank: the adapters. The constructor loads the anchors into it, to bring them into the
            layout of its weights; load the adapters themselves afterwards.
        anchors: slot -> (mu, a complete adapter). Slots that are missing have no term.

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
        """Add the gradients of the terms to those of the bank's weights."""
        for weights, anchor, mus in self._terms:
            (mus / 2 * (weights - anchor).square()).sum().backward()
