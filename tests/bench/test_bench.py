"""That each benchmark runs, small, and that its figures are complete and possible; no figure is judged."""

import json
import sys

import pytest
from click.testing import CliRunner

from spellwork.bench.command import NAMES, bench
from spellwork.bench.events import run_events
from spellwork.bench.hosted import run_hosted
from spellwork.bench.imports import run_import, slowest
from spellwork.bench.latency import run_latency
from spellwork.bench.machine import run_machine
from spellwork.bench.memory import run_memory
from spellwork.bench.parked import run_parked
from spellwork.bench.recovery import run_recovery
from spellwork.bench.steps import run_steps
from spellwork.errors import UsageError

SETTINGS = {"durability": "full", "journal_mode": "wal", "synchronous": "full"}


def invoke(*arguments):
    """Run the command and read its one JSON object."""
    done = CliRunner().invoke(bench, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_steps_tells_rate_cost_and_syncs_for_each_concurrency():
    """One result per concurrency, at full durability as read back, beside the raw limit of the same run."""
    results = run_steps([1, 8], workflows=16, raw_seconds=0.01)
    assert [result["concurrency"] for result in results] == [1, 8]
    for result in results:
        assert SETTINGS.items() <= result.items()
        assert result["steps"] == 160
        assert min(result["steps_per_second"], result["cpu_us_per_step"], result["raw_commits_per_second"]) > 0
        assert result["raw_rows_per_second_at_1000"] > result["raw_commits_per_second"]
    alone, together = results
    # one for each step, and one for the start; the end waits for its own
    assert 1 < alone["syncs_per_step"] <= 1.2
    assert 0 < together["syncs_per_step"] < 1


def test_the_command_prints_what_the_comparison_with_peers_reads():
    """`steps --concurrency 16 --workflows N --json` is one object with the keys that bench/peers expects."""
    report = invoke("steps", "--concurrency", "16", "--workflows", "32")
    (result,) = report["results"]
    needed = {"bench", "concurrency", "workflows", "steps", "steps_per_second", "cpu_us_per_step", "syncs_per_step"}
    assert needed <= result.keys()
    assert SETTINGS.items() <= result.items()
    assert (result["bench"], result["concurrency"], result["workflows"]) == ("steps", 16, 32)
    assert {"version", "python", "sqlite", "cpus", "load"} <= report.keys()


def test_latency_counts_exactly_one_sync_a_step():
    """A sequential step waits for the disk once, and a raw commit of the same moments stands beside it."""
    (result,) = run_latency(100)
    assert SETTINGS.items() <= result.items()
    assert result["syncs_per_step"] == 1
    assert 0 < result["p50_us"] <= result["p99_us"]
    assert result["ratio_to_raw_commit"] == pytest.approx(result["p50_us"] / result["raw_commit_p50_us"])


def test_latency_of_a_few_steps_is_an_error():
    """Too few steps for a percentile are refused with the number that is needed."""
    with pytest.raises(UsageError, match="at least 50 steps, not 3"):
        run_latency(3)


@pytest.mark.slow
def test_parked_runs_are_measured_in_a_fresh_process():
    """Restart, memory, disk, idling and waking of sleeping runs; one that was signalled has its result."""
    (result,) = run_parked(300, idle_seconds=0.05)
    assert SETTINGS.items() <= result.items()
    assert result["workflows"] == 300
    assert 0 < result["ready_seconds"] <= result["settled_seconds"]
    assert result["disk_bytes_per_run"] > 0
    assert result["idle_cpu_percent"] >= 0
    assert 0 < result["signal_to_result_ms"] <= result["signal_to_result_ms_max"]
    assert 0 < result["signal_to_result_other_process_ms"] <= result["signal_to_result_other_process_ms_max"]
    assert "memory_bytes_per_run" in result


@pytest.mark.slow
def test_recovery_finishes_every_run_that_was_in_flight():
    """All runs that the killed process had in flight end with the right result in the next one."""
    (result,) = run_recovery(40)
    assert SETTINGS.items() <= result.items()
    assert result["in_flight"] == result["right"] == 40
    assert 0 < result["ready_seconds"] <= result["finished_seconds"]


def test_memory_tells_the_cost_of_a_run():
    """No disk is in the way, and the result says so."""
    (result,) = run_memory(20)
    assert (result["durability"], result["journal_mode"], result["steps"]) == ("memory", None, 60)
    assert result["us_per_run"] > 0


@pytest.mark.slow
def test_import_is_measured_against_a_bare_python():
    """The difference of the medians, and where it goes."""
    (result,) = run_import(1)
    assert result["import_ms"] == pytest.approx(result["total_ms"] - result["python_ms"])
    assert len(result["slowest"]) == 5


def test_the_slowest_modules_are_those_with_the_most_time_of_their_own():
    """What a module imports does not count for it."""
    report = "import time: self [us] | cumulative | package\nimport time:  10 |  10 |   b\nimport time: 5 | 99 | a\n"
    assert slowest(report, 1) == [{"module": "b", "ms": 0.01}]


def test_a_person_gets_a_table_with_the_conditions_below():
    """Figures in a table; durability, versions and disk in the line under it."""
    done = CliRunner().invoke(bench, ["memory", "--workflows", "5"])
    assert done.exit_code == 0, done.output
    assert "us per run" in done.output
    assert "durability memory" in done.output
    assert "load" in done.output


def test_an_unknown_benchmark_is_refused_with_the_names_there_are():
    """A name that does not exist ends with 2."""
    done = CliRunner().invoke(bench, ["speed"])
    assert done.exit_code == 2
    assert all(name in done.stderr for name in (*NAMES, "all"))


def test_hosted_machines_write_one_row_a_transition():
    """Rows are counted, and the store is a real one."""
    results = run_hosted(400, machines=20, raw_seconds=0.05)
    assert [result["chart"] for result in results] == ["flat", "guarded"]
    for result in results:
        assert (result["events"], result["machines"]) == (400, 20)
        assert result["durable_transitions_per_second"] > 0
        assert 1 <= result["rows_per_transition"] < 1.2
        assert result["synchronous"] == "full"


def test_machine_stands_beside_a_dict_and_whatever_is_installed():
    """The three shapes have a rate here and by hand; a library that is missing is said to be; bytes and instances are there."""
    (result,) = run_machine(200, instances=100)
    for shape in ("flat", "deep", "guarded"):
        assert result[f"{shape}_events_per_second"] > 0
        assert result[f"{shape}_dict_events_per_second"] > 0
    assert result["statemachine_version"]
    assert result["transitions_version"]
    assert 0 < result["bytes_per_instance"] <= 1024
    assert result["seconds_for_100_instances"] > 0


@pytest.mark.slow
def test_events_stand_beside_queues_and_whatever_is_installed(monkeypatch):
    """Each way has a rate to 1, 10 and 100 subscribers; a library that is missing is said to be, and left out."""
    monkeypatch.setitem(sys.modules, "blinker", None)
    (result,) = run_events(600, patterns=50, rounds=1)
    for subscribers in (1, 10, 100):
        for name in ("broadcast", "broadcast_in_batches", "bus", "asyncio_queue", "anyio", "pyee"):
            assert result[f"{name}_to_{subscribers}_deliveries_per_second"] > 0
        assert f"blinker_to_{subscribers}_deliveries_per_second" not in result
        assert result[f"broadcast_to_{subscribers}_ratio_to_asyncio_queue"] > 0
    for name in ("", "janus_", "call_soon_threadsafe_"):
        assert result[f"{name}thread_to_loop_items_per_second"] > 0
    for name in ("bus", "channel", "asyncio_queue"):
        assert 0 < result[f"{name}_latency_p50_us"] <= result[f"{name}_latency_p99_us"]
    assert result["patterns"] == 50
    for what in ("publish_new_topic", "publish_cached_topic", "match_new_topic", "match_cached_topic"):
        assert result[f"{what}_us"] > 0
    assert result["blinker_version"] == "not installed"
    assert result["janus_version"]


@pytest.mark.slow
def test_store_bench_has_each_backend_beside_its_library() -> None:
    """Every figure stands beside that of the raw library, and the ratio is what they say; reopening is timed with keys in it."""
    from spellwork.bench.store import run_store

    results = run_store(rounds=1, keys=3_000)
    assert [result["backend"] for result in results] == ["sqlite", "lmdb", "rocksdb"]
    for result in results:
        for name in ("put", "batch_of_10", "batch_of_100", "batch_of_1000", "get", "get_of_many", "scan_of_100"):
            assert result[f"{name}_ratio"] == pytest.approx(result[f"{name}_us"] / result[f"{name}_raw_us"])
            assert result[f"{name}_us"] > 0
        assert result["keys"] == 3_000
        assert result["reopen_seconds"] > 0
        assert 3_000 * 109 * (1 if result["backend"] != "rocksdb" else 0.1) < result["bytes_on_disk"]
