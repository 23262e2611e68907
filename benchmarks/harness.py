"""What every benchmark shares: its arguments, its table, its last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def run(name: str, description: str, measure: Callable[[bool], Mapping[str, Any]]) -> None:
    """Parse `--quick` and `--json`, measure, print a table and, if asked, one JSON object as last line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="show in a minute or two that it runs")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    asked = parser.parse_args()
    started = time.monotonic()
    figures = measure(asked.quick)
    seconds = round(time.monotonic() - started, 1)
    table = Table(title=f"{name}{' (quick: not to be quoted)' if asked.quick else ''}, {seconds} s")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in figures.items():
        if not isinstance(value, Mapping):
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console(width=100).print(table)
    if asked.json:
        line = {
            "name": name,
            "machine": machine(),
            "commit": commit(),
            "seconds": seconds,
            "figures": figures,
        }
        print(json.dumps(line))


def machine() -> str:
    """Processor, cores and, if there is one, the GPU."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}"


def commit() -> str:
    """The commit measured, marked when the tree differs from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
