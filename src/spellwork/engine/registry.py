"""Owns which workflows and activities an engine knows, by name and version.
It must never import anything by a name that comes from the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spellwork.errors import DefinitionError, UnknownWorkflow
from spellwork.workflow import Activity, Workflow

_MACHINES = "machine:"


class Registry:
    """Definitions by name. The version registered last is the one that new runs take."""

    def __init__(self, workflows: Iterable[Workflow[Any, Any]] = (), activities: Iterable[Activity[Any, Any]] = ()):
        self._workflows: dict[str, dict[str, Workflow[Any, Any]]] = {}
        self.activities: dict[str, Activity[Any, Any]] = {}
        for workflow in workflows:
            self.add(workflow)
        for activity in activities:
            if not isinstance(activity, Activity):
                raise DefinitionError(f"activities= takes @activity functions, not {activity!r}")
            self.activities[activity.name] = activity

    def add(self, workflow: Workflow[Any, Any]) -> None:
        """Register a workflow; two different ones under one name and version are refused."""
        if not isinstance(workflow, Workflow):
            raise DefinitionError(f"workflows= takes @workflow functions, not {workflow!r}")
        versions = self._workflows.setdefault(workflow.name, {})
        known = versions.get(workflow.version)
        if known is not None and not known.same_as(workflow):
            raise DefinitionError(
                f"two workflows are named {workflow.name} with version {workflow.version}; rename one, or give it version="
            )
        versions[workflow.version] = workflow

    def versions(self, name: str) -> list[Workflow[Any, Any]]:
        """Every version of this name that is registered, the newest last."""
        return list(self._workflows.get(name, {}).values())

    def _missing_machine(self, name: str, version: str | None, versions: dict[str, Workflow[Any, Any]] | None) -> None:
        if name.startswith(_MACHINES):
            chart = name.removeprefix(_MACHINES)
            wanted = f"version {version!r} of machine {chart!r}" if version is not None else f"machine {chart!r}"
            if not versions:
                raise UnknownWorkflow(
                    f"{wanted} is not registered; pass its chart in Engine(machines=[...]), also a client's", name=name
                )
            known = ", ".join(versions)
            raise UnknownWorkflow(
                f"{wanted} is not registered; pass its chart in Engine(machines=[MachineType(chart, version=...)]), "
                f"beside the newer ones until no machine of it is left. Registered versions: {known}",
                name=name,
            )

    def find(self, name: str, version: str | None = None) -> Workflow[Any, Any]:
        """The workflow of this name (and version, else the newest); raises `UnknownWorkflow`."""
        versions = self._workflows.get(name)
        if not versions or (version is not None and version not in versions and name.startswith(_MACHINES)):
            self._missing_machine(name, version, versions)
            known = ", ".join(sorted(self._workflows)) or "none"
            raise UnknownWorkflow(
                f"workflow {name!r} is not registered; pass it in Engine(workflows=[...]). Registered: {known}",
                name=name,
            )
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            raise UnknownWorkflow(
                f"workflow {name!r} has no version {version!r}; register it beside the versions {', '.join(versions)}, "
                "until no run of it is left",
                name=name,
            )
        return versions[version]
