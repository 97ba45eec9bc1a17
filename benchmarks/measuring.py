"""What every benchmark shares: contestants interleaved in one process, fresh processes for memory, one JSON a claim."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
MEGABYTE = 1e6


def interleaved(contestants: Mapping[str, Callable[[], Any]], repeats: int = 5) -> dict[str, dict[str, float]]:
    """Smallest wall and CPU time in seconds of each contestant, taking turns after one round that warms up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: {"wall": min(w for w, _ in t), "cpu": min(c for _, c in t)} for name, t in times.items()}


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def in_fresh_process(script: str, **arguments: Any) -> Any:
    """Run ``script --child '{arguments}'`` and read what it prints as JSON."""
    command = [sys.executable, script, "--child", json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child_arguments() -> dict[str, Any] | None:
    """What :func:`in_fresh_process` passed; ``None`` in the parent."""
    return json.loads(sys.argv[2]) if sys.argv[1:2] == ["--child"] else None


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def report(script: str, holds: bool, **results: Any) -> None:
    """Write ``results/<claim>.json`` and print it; ``holds`` says whether the claim was met."""
    claim = Path(script).stem
    plain = {
        "claim": claim.replace("_", " "),
        "holds": holds,
        **results,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(plain, indent=2) + "\n"
    (RESULTS / f"{claim}.json").write_text(text)
    print(text)
