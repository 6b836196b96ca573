"""A product's record -> a sentence about it."""

import numpy as np

from fedrouter.data.builtin.words import BRANDS, COLOURS, ITEMS, MATERIALS, pick, price


def draw_facts(rng: np.random.Generator) -> tuple[str, str]:
    """The record as "key: value; ..." in any order, and its sentence."""
    brand, item, material = pick(rng, BRANDS), pick(rng, ITEMS), pick(rng, MATERIALS)
    euros = price(rng)
    fields = [
        f"brand: {brand}",
        f"item: {item}",
        f"material: {material}",
        f"price: {euros} euros",
    ]
    if rng.random() < 0.5:
        fields.append(f"colour: {pick(rng, COLOURS)}")
    record = "; ".join(fields[i] for i in rng.permutation(len(fields)))
    return (
        "{" + record + "}",
        f"The {brand} {item} is made of {material} and costs {euros} euros.",
    )
