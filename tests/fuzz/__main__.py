"""Fuzzes one target: `python -m tests.fuzz TARGET SECONDS`, by atheris where it is installed, else by plain mutations."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

FOUND = Path("build/fuzz")


def main(name: str, seconds: int) -> None:
    """Fuzz until the time is up; an error that no user should see ends it, and leaves its input behind."""
    place = FOUND / name
    place.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("atheris") is None:
        plain(name, seconds, place)
        return
    import atheris

    with atheris.instrument_imports(include=["spellwork", "msgspec"]):
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.mutate import SEEDS

    options = [
        f"-max_total_time={seconds}",
        "-timeout=20",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={place}/crash-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(place), str(SEEDS / name)], TARGETS[name])
    atheris.Fuzz()


def plain(name: str, seconds: int, place: Path) -> None:
    """Mutations without feedback: far weaker than atheris, and said so."""
    from tests.fuzz.mutate import mutations, seeds
    from tests.fuzz.targets import TARGETS

    print(f"{name}: atheris is not installed for this Python; plain mutations only")
    until, count = time.monotonic() + seconds, 0
    for data in mutations(seeds(name), time.time_ns()):
        try:
            TARGETS[name](data)
        except BaseException:
            (place / "crash-plain").write_bytes(data)
            print(f"the input is kept in {place / 'crash-plain'}")
            raise
        count += 1
        if time.monotonic() > until:
            break
    print(f"{name}: {count} inputs, no untyped error")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(" ".join(path.name for path in sorted((Path(__file__).parent / "seeds").iterdir())))
    else:
        main(sys.argv[1], int(sys.argv[2]))
