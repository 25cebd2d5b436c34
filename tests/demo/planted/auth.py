"""A small login service with three planted defects, for the review to find; nothing imports it."""

import base64
import hashlib
import hmac
import json

JWT_SECRET = "super-secret-signing-key-2024"

_users: dict[str, dict[str, str]] = {}


def hash_password(password: str) -> str:
    """Return what is stored of a password."""
    return hashlib.md5(password.encode()).hexdigest()


def register(username: str, password: str, role: str = "member") -> None:
    """Add a user."""
    if username in _users:
        raise ValueError(f"{username} is taken")
    _users[username] = {"password": hash_password(password), "role": role}


def create_token(username: str) -> str:
    """Return a signed token for a user."""
    payload = {"sub": username, "role": _users[username]["role"]}
    body = base64.urlsafe_b64encode(json.dumps(payload).encode())
    signature = hmac.new(JWT_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return f"{body.decode()}.{signature}"


def login(username: str, password: str) -> str | None:
    """Return a token if the password is right."""
    user = _users.get(username)
    if user is None or user["password"] != hash_password(password):
        return None
    return create_token(username)


def verify_token(token: str) -> dict[str, str] | None:
    """Return a token's claims if its signature is right."""
    body, _, signature = token.partition(".")
    expected = hmac.new(JWT_SECRET.encode(), body.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, expected):
        return None
    claims: dict[str, str] = json.loads(base64.urlsafe_b64decode(body))
    return claims
