"""Shamir's secret sharing of 32 bytes, by pycryptodome, in halves of 16 bytes."""

from collections.abc import Mapping

HALF = 16  # bytes; pycryptodome shares elements of GF(2^128)


def split_secret(secret: bytes, number: int, threshold: int) -> list[bytes]:
    """The shares of a secret, 32 bytes each, of which `threshold` restore it and fewer say nothing.

    Args:
        secret: 32 bytes.
        number: of shares.
        threshold: at least 2, at most `number`.
    """
    from Crypto.Protocol.SecretSharing import Shamir

    halves = [
        Shamir.split(threshold, number, secret[start : start + HALF], ssss=False)
        for start in (0, HALF)
    ]
    return [first + second for (_, first), (_, second) in zip(*halves, strict=True)]


def combine_shares(shares: Mapping[int, bytes]) -> bytes:
    """The secret.

    Args:
        shares: index in the result of `split_secret` -> share; as many as the threshold. More are
            allowed, fewer give a wrong secret.
    """
    from Crypto.Protocol.SecretSharing import Shamir

    return b"".join(
        Shamir.combine(
            [(i + 1, share[start : start + HALF]) for i, share in shares.items()], ssss=False
        )
        for start in (0, HALF)
    )
