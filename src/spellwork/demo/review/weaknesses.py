"""The security and robustness checks over one file, and which kind of node each one looks at.

It must never decide anything itself: every rule lives beside its kind in the modules it lists.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from spellwork.demo.review import calls, expiry, settings, sql, statements
from spellwork.demo.review.source import Hit, Source

CALL_CHECKS = (
    calls.weak_hash,
    calls.eval_exec,
    calls.shell_true,
    calls.pickle_load,
    calls.yaml_load,
    settings.tls_verify_off,
    settings.jwt_unverified,
    settings.debug_call,
    sql.sql_format,
    expiry.jwt_without_expiry,
)
FUNCTION_CHECKS = (
    statements.mutable_default,
    statements.guessable_return,
    expiry.ticket_without_expiry,
)
ASSIGNMENT_CHECKS = (
    settings.tls_setting_off,
    settings.debug_setting,
    statements.guessable_value,
    expiry.payload_without_expiry,
)


def weakness_hits(source: Source) -> Iterator[Hit]:
    """Yield everything that the checks see; in a test file, where it guards nothing, as low."""
    for hit in _hits(source):
        yield hit._replace(severity="low") if source.is_test else hit


def _hits(source: Source) -> Iterator[Hit]:
    for node in source.nodes:
        match node:
            case ast.Call():
                call = calls.Call.of(source, node)
                for call_check in CALL_CHECKS:
                    yield from call_check(source, call)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for function_check in FUNCTION_CHECKS:
                    yield from function_check(source, node)
            case ast.Assign() | ast.AnnAssign() | ast.keyword():
                for assignment_check in ASSIGNMENT_CHECKS:
                    yield from assignment_check(source, node)
            case ast.ExceptHandler():
                yield from statements.swallowed_exception(source, node)
            case ast.Assert():
                yield from statements.assert_in_code(source, node)
            case _:
                pass
