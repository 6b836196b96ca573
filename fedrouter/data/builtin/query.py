"""A customer's wish in words -> a query for the shop's search."""

import numpy as np

from fedrouter.data.builtin.words import BRANDS, ITEMS, pick, price

BOUNDS = {
    "under {} euros": "<",
    "for less than {} euros": "<",
    "below {} euros": "<",
    "over {} euros": ">",
    "for more than {} euros": ">",
    "above {} euros": ">",
}
WISHES = (
    "I would like to buy a {item} by {brand} {bound}. Do you have one in your shop?",
    "I would like to see a {brand} {item} {bound}. Is there one in your shop?",
    "I would like to order a {item} from {brand} {bound}. Can I find one in your shop?",
    "I would like to have a {brand} {item} {bound}. Would there be one in your shop?",
)


def draw_query(rng: np.random.Generator) -> tuple[str, str]:
    """The wish, and the query, such as "item=lamp brand=Alto price<40"."""
    brand, item, euros = pick(rng, BRANDS), pick(rng, ITEMS), price(rng)
    bound = pick(rng, tuple(BOUNDS))
    wish = pick(rng, WISHES).format(item=item, brand=brand, bound=bound.format(euros))
    return wish, f"item={item} brand={brand} price{BOUNDS[bound]}{euros}"
