"""Memory of an idle node: proportional set size of the whole process tree.

``python -m tests.bench memory``. PSS counts a page that n processes share as 1/n of it in each, so
the sum is what the tree really takes. Measured when the node answers and again after it did a job
and rests with a warm child.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.bench_road import RULES, read_case, renewed, send
from tests.bench.processes import pss_mb, tree
from tests.bench.report import Goal, Report, Row
from tests.support.peers import Node
from tests.support.waiting import wait_for

LIMIT_MB = 400.0
REST_S = 3.0
# what only a model may need; nothing outside its child imports it
HEAVY = ("torch", "monai", "SimpleITK")
_ROLE = re.compile(r"role started role=(.+?) child=(\d+)")


def heavy_imports(module: str) -> list[str]:
    """Which of the heavy libraries the import of a module brings along."""
    code = f"import sys, {module}; print(*(sys.modules.keys() & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def _by_role(node: Node, process_id: int) -> dict[str, float]:
    names = {int(pid): role.strip("'") for role, pid in _ROLE.findall(node.log())}
    names[process_id] = "supervisor"
    # a node at rest: one that ends while it is measured is a failure of the node, and is told
    return {names.get(pid, "model child"): pss_mb(pid) for pid in tree(process_id)}


def measure() -> list[Report]:
    """The table of memory."""
    with TemporaryDirectory(prefix="segnode-bench-") as root:
        node = Node(Path(root), {"rules": RULES})
        with node:
            assert node.process is not None
            time.sleep(REST_S)
            idle = _by_role(node, node.process.pid)
            send(node.dicom_port, renewed(read_case()))
            wait_for("the job", lambda: "job done" in node.log(), 60)
            time.sleep(REST_S)
            warm = _by_role(node, node.process.pid)
    totals = {"sum": (sum(idle.values()), sum(warm.values()))}
    each = {role: (idle.get(role, 0.0), warm[role]) for role in warm}
    rows: list[Row] = [
        {"process": role, "idle MB": before, "after a job MB": after}
        for role, (before, after) in (each | totals).items()
    ]
    heavy = heavy_imports("node.cli.serving")
    goals = [
        Goal(claim="PSS of the idle tree, MB", figure=sum(idle.values()), limit=LIMIT_MB),
        Goal(claim="heavy libraries in every process but the child", figure=len(heavy), limit=0),
    ]
    return [Report(part="memory", title="PSS of segnode serve", rows=rows, goals=goals)]
