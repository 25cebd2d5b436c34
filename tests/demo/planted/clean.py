"""The same login done well, in which the review must find nothing; nothing imports it."""

import hashlib
import os
import secrets
import time

TOKEN_TTL_SECONDS = 900

_sessions: dict[str, tuple[str, float]] = {}


def hash_password(password: str, salt: bytes) -> bytes:
    """Return what is stored of a password."""
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def signing_key() -> bytes:
    """Return the key that the environment gives."""
    return os.environ["JWT_SECRET"].encode()


def create_session(username: str) -> str:
    """Return the id of a new session for a user."""
    session_id = secrets.token_urlsafe(32)
    _sessions[session_id] = (username, time.time() + TOKEN_TTL_SECONDS)
    return session_id
