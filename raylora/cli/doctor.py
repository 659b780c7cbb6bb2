"""The command ``doctor``: what of this machine works, tried where that starts nothing."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from raylora.cli.output import Json, out, print_json

SIGNS = {"ok": "[green]ok[/]", "limited": "[yellow]limited[/]", "missing": "[red]missing[/]"}


def doctor(json_: Json = False) -> None:
    """Try what a run may need here: GPU, bfloat16, bitsandbytes, DeepSpeed, Ray, S3, MLflow."""
    from raylora.runtime.checkup import checkup

    findings = checkup()
    if json_:
        print_json({"checks": [vars(finding) for finding in findings]})
        return
    table = Table("part", "", "what was found")
    for finding in findings:
        table.add_row(finding.part, SIGNS[finding.state], escape(finding.text))
    out.print(table)
