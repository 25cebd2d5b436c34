"""Measures Spellwork beside DBOS and LangGraph: one workload and durability, in turns, on one disk.

It owns the peers' environment and the comparison; it must never import Spellwork or a peer, so that
each run is a process of its own.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LOCK = HERE / "requirements.lock"
STEPS = 10
TRIES = 3
# Deeper than any sane run, so that a hung one is a failure and not a wait.
TIMEOUT_SECONDS = 300


class Failed(Exception):
    """A run that gave no figure, or one that may not be compared; the message says why."""


@dataclass(frozen=True)
class Figure:
    """What one process measured."""

    steps_per_second: float
    cpu_us_per_step: float
    syncs_per_step: float | None
    durability: str
    version: str


@dataclass(frozen=True)
class Run:
    """One turn of one contender: its figure, or the error in its place."""

    contender: str
    round: int
    workflows: int
    load: tuple[float, float, float]
    figure: Figure | None
    error: str | None


@dataclass(frozen=True)
class Contender:
    """A command with `--concurrency`, `--workflows` and `--json`, and how to read its answer."""

    name: str
    command: tuple[str, ...]
    read: Callable[[Any, int], Figure]
    probe_workflows: int


def number(entry: Mapping[str, Any], key: str) -> float:
    """The value as a float, or `Failed` where it is no number above zero."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise Failed(f"{key} is {value!r}, expected a number above 0")
    return float(value)


def read_peer(report: Any, concurrency: int) -> Figure:
    """The figure in a peer's report, refused unless it ran at WAL and synchronous=FULL."""
    if not isinstance(report, dict) or report.get("concurrency") != concurrency:
        raise Failed(f"the report is not about {concurrency} workflows at a time")
    mode = (report.get("journal_mode"), report.get("synchronous"))
    if mode != ("wal", 2):
        raise Failed(f"ran at journal_mode, synchronous = {mode}, expected ('wal', 2)")
    return Figure(
        number(report, "steps_per_second"),
        number(report, "cpu_us_per_step"),
        None,
        "SQLite, journal_mode=wal, synchronous=2 (FULL), read back",
        str(report.get("version", "?")),
    )


def read_ours(report: Any, concurrency: int) -> Figure:
    """The figure in Spellwork's report, refused where it says that it synced less than fully."""
    results = report.get("results") if isinstance(report, dict) else None
    if not isinstance(results, list):
        raise Failed("the report has no list `results`")
    entries = [
        {**report, **entry} for entry in results if isinstance(entry, dict) and str(entry.get("concurrency")) == str(concurrency)
    ]
    full = [entry for entry in entries if str(entry.get("durability", "full")).lower() == "full"]
    if not full:
        raise Failed(f"{len(entries)} results at {concurrency} at a time, none of them at durability full")
    entry = full[0]
    syncs = number(entry, "syncs_per_step") if "syncs_per_step" in entry else None
    stated = [f"{key}={entry[key]}" for key in ("store", "durability") if key in entry]
    stated += [f"{key}={entry[key]}" for key in ("journal_mode", "synchronous") if key in entry]
    return Figure(
        number(entry, "steps_per_second"),
        number(entry, "cpu_us_per_step"),
        syncs,
        ", ".join(stated) or "not stated by the command (its default is full)",
        str(entry.get("version", "?")),
    )


def ready(home: Path) -> Path:
    """The Python of the peers' environment, made anew when missing or its lock has changed."""
    python, stamp = home / "bin" / "python", home / ".locked"
    identity = f"{hashlib.sha256(LOCK.read_bytes()).hexdigest()} {sys.version}"
    if python.exists() and stamp.exists() and stamp.read_text() == identity:
        return python
    note(f"installing {LOCK.name} into {home.name}")
    venv.create(home, clear=True, with_pip=True)
    (home / ".gitignore").write_text("*\n")
    install = [str(python), "-m", "pip", "install", "-qq", "--require-hashes", "-r", str(LOCK)]
    for attempt in range(1, TRIES + 1):
        if subprocess.run(install, check=False).returncode == 0:
            stamp.write_text(identity)
            return python
        note(f"installing failed, try {attempt} of {TRIES}")
        # A registry that hiccups needs a moment; after the last try nobody is waiting for it.
        time.sleep(10 * attempt if attempt < TRIES else 0)
    sys.exit("the peers could not be installed; see the messages of pip above")


def filesystem(folder: Path) -> str:
    """The type of the file system the folder is on, `?` where the system does not tell."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "?"
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    above = [(len(point), kind) for point, kind in found if folder.resolve().is_relative_to(point)]
    # Of two mounts on the same point the later one hides the earlier.
    return max(reversed(above), key=lambda pair: pair[0])[1] if above else "?"


def environment(scratch: Path) -> dict[str, str]:
    """Ours, less what would trace a peer or move its data, with every store on the same disk."""
    dropped = ("LANGSMITH_", "LANGCHAIN_", "DBOS_", "OTEL_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return {**kept, "TMPDIR": str(scratch), "LANGSMITH_TRACING": "false"}


def parse(output: str) -> Any:
    """The one JSON object in the output, also where log lines stand before it."""
    start = 0 if output.startswith("{") else output.find("\n{") + 1
    try:
        return json.loads(output[start:])
    except ValueError as error:
        raise Failed(f"printed no JSON: {output[-200:].strip()!r}") from error


def measure(contender: Contender, workflows: int, concurrency: int, scratch: Path) -> Figure:
    """Runs one process and reads its figure."""
    flags = ("--concurrency", str(concurrency), "--workflows", str(workflows), "--json")
    try:
        done = subprocess.run(
            [*contender.command, *flags],
            check=False,
            capture_output=True,
            text=True,
            cwd=scratch,
            env=environment(scratch),
            timeout=TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-400:]
        raise Failed(f"exit code {done.returncode}: {said}")
    return contender.read(parse(done.stdout), concurrency)


def turn(contender: Contender, at: int, workflows: int, concurrency: int, folder: Path) -> Run:
    """One run in a scratch folder of its own, told as it happens; round 0 is the sizing run."""
    load = os.getloadavg()
    what = f"round {at}" if at else "sizing "
    note(f"{what}  load {load[0]:5.2f} {load[1]:5.2f} {load[2]:5.2f}  {contender.name:<10}", end="")
    figure, error = None, None
    with tempfile.TemporaryDirectory(dir=folder, prefix="peers-") as scratch:
        try:
            figure = measure(contender, workflows, concurrency, Path(scratch))
        except Failed as failure:
            error = str(failure)
    note(f"{figure.steps_per_second:12,.0f} steps/s" if figure else f"FAILED: {error}")
    return Run(contender.name, at, workflows, load, figure, error)


def sized(run: Run, seconds: float, concurrency: int) -> int:
    """How many workflows last about so many seconds, judged by the sizing run."""
    rate = run.figure.steps_per_second if run.figure else 0.0
    return max(concurrency, round(rate * seconds / STEPS))


def compare(contenders: Sequence[Contender], options: argparse.Namespace) -> list[Run]:
    """The sizing runs, then the rounds; who fails at sizing sits the rounds out."""
    where = (options.concurrency, options.dir)
    sizing = [turn(each, 0, each.probe_workflows, *where) for each in contenders]
    entered = [
        (contender, sized(run, options.seconds, options.concurrency))
        for contender, run in zip(contenders, sizing, strict=True)
        if run.figure
    ]
    return sizing + [
        turn(contender, at, workflows, *where) for at in range(1, options.rounds + 1) for contender, workflows in entered
    ]


def summarize(name: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    """The spread of a contender's counted runs, `None` where it has none."""
    figures = [run.figure for run in runs if run.contender == name and run.round and run.figure]
    if not figures:
        return None
    rates = [figure.steps_per_second for figure in figures]
    syncs = [figure.syncs_per_step for figure in figures if figure.syncs_per_step is not None]
    return {
        "contender": name,
        "version": figures[-1].version,
        "runs": len(figures),
        "steps_per_second": {
            "min": min(rates),
            "median": statistics.median(rates),
            "max": max(rates),
        },
        "cpu_us_per_step": statistics.median(figure.cpu_us_per_step for figure in figures),
        "syncs_per_step": statistics.median(syncs) if syncs else None,
        "durability": figures[-1].durability,
    }


def ratios(summaries: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times each peer's median ours is, in steps per second and in CPU saved."""
    ours = next((each for each in summaries if each["contender"] == "spellwork"), None)
    if ours is None:
        return {}
    return {
        f"spellwork / {peer['contender']}": {
            "steps_per_second": ours["steps_per_second"]["median"] / peer["steps_per_second"]["median"],
            "cpu_us_per_step": peer["cpu_us_per_step"] / ours["cpu_us_per_step"],
        }
        for peer in summaries
        if peer is not ours
    }


def show(summaries: Sequence[dict[str, Any]], failures: Sequence[Run]) -> None:
    """The table, the ratios, the durability of each, and what failed."""
    print(f"\n{'steps/s':<12}{'runs':>5}{'min':>11}{'median':>11}{'max':>11}{'CPU µs/step':>13}")
    for each in summaries:
        rate = each["steps_per_second"]
        figures = "".join(f"{rate[key]:>11,.0f}" for key in ("min", "median", "max"))
        row = f"{each['contender']:<12}{each['runs']:>5}{figures}"
        print(f"{row}{each['cpu_us_per_step']:>13,.0f}")
    print()
    for name, ratio in ratios(summaries).items():
        rate, cpu = ratio["steps_per_second"], ratio["cpu_us_per_step"]
        print(f"{name}: {rate:.1f} times the steps/s (medians), {cpu:.1f} times less CPU a step")
    print()
    for each in summaries:
        syncs = each["syncs_per_step"]
        counted = "" if syncs is None else f"; {syncs:.3f} syncs a step"
        print(f"{each['contender']} {each['version']}: {each['durability']}{counted}")
    for run in failures:
        print(f"FAILED: {run.contender}, round {run.round}: {run.error}")


def note(text: str, end: str = "\n") -> None:
    """Tells a person how far it is; the report has standard output to itself."""
    print(text, end=end, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds (default 3)")
    parser.add_argument("--concurrency", type=int, default=16, help="workflows at a time")
    parser.add_argument("--seconds", type=float, default=6.5, help="how long a run should last")
    parser.add_argument("--ours", type=Path, default=ROOT / ".venv" / "bin" / "spellwork")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-peers")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    options = parser.parse_args()
    if min(options.rounds, options.concurrency) < 1 or options.seconds <= 0:
        parser.error("--rounds, --concurrency and --seconds must be above 0")
    if (kind := filesystem(options.dir)) in {"tmpfs", "ramfs"}:
        parser.error(f"{options.dir} is on {kind}, where a sync is free; name a disk by --dir")
    return options


def main() -> int:
    """Installs the peers, compares, reports; 1 where any run failed."""
    options = arguments()
    python = str(ready(options.venv.absolute()))
    ours = (str(options.ours.absolute()), "bench", "steps")
    contenders = (
        Contender("spellwork", ours, read_ours, 3_000),
        Contender("dbos", (python, str(HERE / "dbos_steps.py")), read_peer, 150),
        Contender("langgraph", (python, str(HERE / "langgraph_steps.py")), read_peer, 150),
    )
    runs = compare(contenders, options)
    summaries = [each for one in contenders if (each := summarize(one.name, runs))]
    failures = [run for run in runs if run.error]
    if options.json:
        report = {
            "steps_per_workflow": STEPS,
            "concurrency": options.concurrency,
            "cpus": os.cpu_count(),
            "python": sys.version.split()[0],
            "filesystem": filesystem(options.dir),
            "ok": not failures,
            "summary": summaries,
            "ratios": ratios(summaries),
            "runs": [asdict(run) for run in runs],
        }
        print(json.dumps(report, indent=2))
    else:
        show(summaries, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
