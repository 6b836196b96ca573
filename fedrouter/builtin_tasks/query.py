"""A customer's wish in words -> a query for the shop's search."""

import numpy as np

from fedrouter.builtin_tasks.words import BRANDS, ITEMS, pick, price

BOUNDS = {
    "under {} euros": "<",
    "for less than {} euros": "<",
    "below {} euros": "<",
    "over {} euros": ">",
    "for more than {} euros": ">",
    "above {} euros": ">",
}
WISHES = (
    "Do you have a {item} by {brand} {bound}?",
    "Can you show me a {brand} {item} {bound}?",
    "Is there any {brand} {item} {bound}?",
    "Where can I find a {item} from {brand} {bound}?",
)


def draw_query(rng: np.random.Generator) -> tuple[str, str]:
    """The wish, and the query, such as "item=lamp brand=Alto price<40"."""
    brand, item, euros = pick(rng, BRANDS), pick(rng, ITEMS), price(rng)
    bound = pick(rng, tuple(BOUNDS))
    wish = pick(rng, WISHES).format(item=item, brand=brand, bound=bound.format(euros))
    return wish, f"item={item} brand={brand} price{BOUNDS[bound]}{euros}"
