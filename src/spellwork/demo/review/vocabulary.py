"""What the names in a program speak of: credentials, their making and their expiry.

It judges identifiers only and must never look at values or syntax.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Literal

Credential = Literal["password", "secret", "token"]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_ENDINGS: dict[tuple[str, ...], Credential] = {
    ("password",): "password",
    ("passwd",): "password",
    ("pwd",): "password",
    ("passphrase",): "password",
    ("db", "pass"): "password",
    ("smtp", "pass"): "password",
    ("secret",): "secret",
    ("secret", "key"): "secret",
    ("private", "key"): "secret",
    ("signing", "key"): "secret",
    ("encryption", "key"): "secret",
    ("jwt", "key"): "secret",
    ("token",): "token",
    ("apikey",): "token",
    ("api", "key"): "token",
    ("access", "key"): "token",
    ("auth", "key"): "token",
}
_CREDENTIAL_WORDS = frozenset({"password", "passwd", "pwd", "passphrase", "secret", "token", "apikey"})
_PASSWORD_WORDS = frozenset({"password", "passwd", "pwd", "passphrase"})
_RANDOM_WORDS = frozenset({"password", "passwd", "secret", "token", "otp", "csrf", "apikey", "passcode"})
_RANDOM_PAIRS = frozenset({("session", "id"), ("session", "key"), ("api", "key"), ("reset", "code")})
_EXPIRY_WORDS = frozenset(
    {
        "exp",
        "expire",
        "expired",
        "expires",
        "expiry",
        "expiration",
        "expiring",
        "ttl",
        "lifetime",
        "until",
        "timedelta",
    }
)
_EXPIRY_PAIRS = frozenset({("max", "age"), ("not", "after"), ("valid", "for")})
_MAKING = frozenset({"build", "create", "generate", "grant", "issue", "make", "mint", "new", "sign", "start"})
_TICKETS = frozenset({"token", "session", "jwt"})
_HARMLESS = frozenset({"cancel", "cancellation", "fencing", "lock", "next", "page", "version"})


@lru_cache(maxsize=8192)
def words(name: str) -> tuple[str, ...]:
    """Split an identifier, in whatever case convention, into lower-case words."""
    return tuple(word.lower() for word in _WORD.findall(name))


def credential(name: str) -> Credential | None:
    """Return which credential a value of this name is; `TOKEN_URL`, `password_field` are none."""
    spoken = words(name)
    while spoken and (spoken[-1].isdigit() or spoken[-1] == "default"):
        spoken = spoken[:-1]
    return _ENDINGS.get(spoken[-2:]) or _ENDINGS.get(spoken[-1:])


def mentions_credential(name: str) -> bool:
    """Tell whether a credential is spoken of anywhere in the name."""
    spoken = words(name)
    return not _CREDENTIAL_WORDS.isdisjoint(spoken) or any(pair in _ENDINGS for pair in _pairs(spoken))


def mentions_password(name: str) -> bool:
    """Tell whether a password is spoken of anywhere in the name."""
    return not _PASSWORD_WORDS.isdisjoint(words(name))


def must_be_unguessable(name: str) -> bool:
    """Tell whether a value of this name is worth guessing to an attacker."""
    spoken = words(name)
    return not _RANDOM_WORDS.isdisjoint(spoken[-2:]) or not _RANDOM_PAIRS.isdisjoint(_pairs(spoken))


def mentions_expiry(name: str) -> bool:
    """Tell whether the name speaks of a limit in time."""
    spoken = words(name)
    return not _EXPIRY_WORDS.isdisjoint(spoken) or not _EXPIRY_PAIRS.isdisjoint(_pairs(spoken))


def makes_ticket(name: str) -> bool:
    """Tell whether a function of this name makes a token or a session that admits someone.

    Plurals are a lexer's, and a version or page token admits nobody.
    """
    spoken = words(name)
    making = not _MAKING.isdisjoint(spoken) and not _TICKETS.isdisjoint(spoken)
    return making and _HARMLESS.isdisjoint(spoken)


def _pairs(spoken: tuple[str, ...]) -> set[tuple[str, ...]]:
    return set(pairwise(spoken))
