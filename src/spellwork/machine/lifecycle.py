"""Owns the reference chart: the life of an agent.
It must never hold anything of a particular agent; what an agent does hangs on these states from outside.
"""

from __future__ import annotations

from spellwork.machine.builder import ChartBuilder
from spellwork.machine.chart import Chart


def agent_lifecycle() -> Chart:
    """Uninitialized, Initializing, Active{Ready, Running, Paused}, Error{Failed, Recovering}, Terminating, Terminated.

    Recovering leads back to where the agent was in Active. `terminate` is understood everywhere before Terminating.
    """
    chart = ChartBuilder("agent").initial("Uninitialized")
    chart.state("Uninitialized").on("initialize", "Initializing").on("terminate", "Terminated")
    chart.state("Initializing").on("initialized", "Active").on("fail", "Error").on("terminate", "Terminating")
    active = chart.state("Active").initial("Ready").on("fail", "Error").on("terminate", "Terminating")
    active.history("Previously", "Ready")
    active.state("Ready").on("run", "Running")
    active.state("Running").on("finish", "Ready").on("pause", "Paused")
    active.state("Paused").on("resume", "Running").on("cancel", "Ready")
    error = chart.state("Error").initial("Failed").on("terminate", "Terminating")
    error.state("Failed").on("recover", "Recovering")
    error.state("Recovering").on("recovered", "Previously").on("fail", "Failed")
    chart.state("Terminating").on("terminated", "Terminated")
    chart.final("Terminated")
    return chart.build()
