"""Owns how the help of a verb looks: its examples under its options.
It must never know any verb.
"""

from __future__ import annotations

from typing import Any

import click


class Verb(click.Command):
    """A command whose help ends with `examples`, line by line as they are typed."""

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **options: Any):
        super().__init__(*args, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
