"""Safety that is switched off by a setting: TLS and signature checks, and debug modes left on.

It must never report a switch that is set from a variable, for its value is not known here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from spellwork.demo.review.calls import Call
from spellwork.demo.review.source import Hit, Source, name_of

_CLIENTS = ("requests.", "httpx.", "aiohttp.")
_REQUESTS = frozenset({"get", "post", "put", "patch", "delete", "head", "options", "request", "send"})
_DEBUGGABLE = frozenset({"Flask", "FastAPI", "Starlette", "Sanic", "Quart", "Litestar", "create_app"})
_TLS_MESSAGE = "TLS certificates are not checked, so anyone on the way can read and change the traffic"


def tls_verify_off(_source: Source, call: Call) -> Iterator[Hit]:
    """`tls-verify-off`: an HTTP call or context that does not check certificates."""
    client = call.target.startswith(_CLIENTS)
    off = call.says("verify", value=False) and (client or call.name in _REQUESTS)
    off = off or (call.says("ssl", value=False) and client) or call.says("verify_ssl", value=False)
    if off or call.target == "ssl._create_unverified_context":
        yield Hit(call.node.lineno, "tls-verify-off", "high", _TLS_MESSAGE)


def tls_setting_off(source: Source, node: ast.Assign | ast.AnnAssign | ast.keyword) -> Iterator[Hit]:
    """`tls-verify-off`: `session.verify = False`, `check_hostname = False` or `verify_mode = CERT_NONE`."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
        return
    name = node.targets[0].attr
    false = isinstance(node.value, ast.Constant) and node.value.value is False
    unchecked = name == "verify_mode" and source.resolve(node.value) == "ssl.CERT_NONE"
    session = name == "verify" and "session" in name_of(node.targets[0].value).lower()
    if unchecked or (false and (name == "check_hostname" or session)):
        yield Hit(node.lineno, "tls-verify-off", "high", _TLS_MESSAGE)


def jwt_unverified(_source: Source, call: Call) -> Iterator[Hit]:
    """`jwt-unverified`: a token that is decoded without checking who signed it."""
    if call.target not in {"jwt.decode", "jose.jwt.decode"}:
        return
    options = call.keywords.get("options")
    off = call.says("verify", value=False)
    if isinstance(options, ast.Dict):
        for key, value in zip(options.keys, options.values, strict=True):
            named = isinstance(key, ast.Constant) and key.value == "verify_signature"
            off = off or (named and isinstance(value, ast.Constant) and value.value is False)
    if off:
        message = "the token's signature is not checked, so anyone can write one"
        yield Hit(call.node.lineno, "jwt-unverified", "high", message)


def debug_call(_source: Source, call: Call) -> Iterator[Hit]:
    """`debug-true`: a web application run or made with debug=True (asyncio's own debug mode is harmless)."""
    if not call.says("debug", value=True) or call.target.startswith("asyncio."):
        return
    runs = call.name == "run" and isinstance(call.node.func, ast.Attribute)
    if runs or call.name in _DEBUGGABLE:
        message = "debug=True shows visitors the program's insides, often with a console"
        yield Hit(call.node.lineno, "debug-true", "medium", message)


def debug_setting(source: Source, node: ast.Assign | ast.AnnAssign | ast.keyword) -> Iterator[Hit]:
    """`debug-true`: a module-level `DEBUG = True`, `app.debug = True` or `config["DEBUG"] = True`."""
    if isinstance(node, ast.keyword) or not isinstance(node.value, ast.Constant):
        return
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if node.value.value is True and _is_debug_switch(target, at_top=node not in source.scopes):
        message = "debug mode is on in the code; read it from the environment"
        yield Hit(node.lineno, "debug-true", "medium", message)


def _is_debug_switch(target: ast.expr, *, at_top: bool) -> bool:
    match target:
        case ast.Name(id="DEBUG"):
            return at_top
        case ast.Attribute(attr="debug", value=owner):
            return name_of(owner) in {"app", "application"}
        case ast.Subscript():
            return name_of(target) == "DEBUG"
        case _:
            return False
