"""Durable, scriptable workflows: `async def` functions that survive crashes by deterministic replay.
The package's face only imports; it must never do anything when it is imported.
"""

try:
    from spellwork.codec import Codec
    from spellwork.engine import Engine, Run, RunInfo
    from spellwork.errors import (
        ActivityFailed,
        ActivityTimeout,
        NonDeterminismError,
        PayloadError,
        QueryFailed,
        RunCancelled,
        RunExists,
        RunFailed,
        RunNotFound,
        RunTerminated,
        SpellworkError,
        UpdateRejected,
    )
    from spellwork.journal import Status
    from spellwork.workflow import (
        Activity,
        Child,
        Retry,
        Signal,
        Workflow,
        activity,
        activity_context,
        continue_as_new,
        heartbeat,
        info,
        now,
        patched,
        query,
        random,
        rng,
        start_child,
        update,
        uuid4,
        workflow,
    )
except ModuleNotFoundError as missing:
    # `spellwork.machine` needs the standard library alone, and importing it comes by here: without third-party packages
    # everything else is reported missing when it is asked for, with the name of what is not installed.
    if (missing.name or "").partition(".")[0] == "spellwork":
        raise
    _missing = missing.name

    def __getattr__(name: str) -> object:
        if name in __all__:
            raise ModuleNotFoundError(f"spellwork.{name} needs the package {_missing!r}, which is not installed", name=_missing)
        raise AttributeError(f"module 'spellwork' has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "Activity",
    "ActivityFailed",
    "ActivityTimeout",
    "Child",
    "Codec",
    "Engine",
    "NonDeterminismError",
    "PayloadError",
    "QueryFailed",
    "Retry",
    "Run",
    "RunCancelled",
    "RunExists",
    "RunFailed",
    "RunInfo",
    "RunNotFound",
    "RunTerminated",
    "Signal",
    "SpellworkError",
    "Status",
    "UpdateRejected",
    "Workflow",
    "activity",
    "activity_context",
    "continue_as_new",
    "heartbeat",
    "info",
    "now",
    "patched",
    "query",
    "random",
    "rng",
    "start_child",
    "update",
    "uuid4",
    "workflow",
]
