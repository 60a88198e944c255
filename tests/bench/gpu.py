"""A node's jobs on a graphics card, against MONAI's own evaluator on the same card and image.

``python -m tests.bench gpu``, or ``python -P -m tests.bench.gpu`` with more options; the folder in
SEGNODE_TEST_BUNDLES holds unchanged bundles with weights of any kind. Jobs take the road of the work
process: one warm child, DICOM files in, a verified SEG out. Parts come in the order of what matters;
each has a limit of its own, and one that fails does not end the rest. Without a card it rehearses on
the CPU, if asked to (``--quick``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from node.domain.result import LabelArray
from node.infer.bundle.strict import read_labels as read_nifti
from node.infer.runner import Runner
from tests.bench import gpu_inputs
from tests.bench.gpu_jobs import CHILD, Asked, Bench, Job, NotMeasured, Run, Sheet, differing, told
from tests.bench.report import Goal, Report, machine, shown

WARM = "node.pipeline.execute_job:warm"
LIMIT_S = 460.0
GOAL_S = {"3mm": 3.0, "1.5mm": 3.5}
GOAL_GB, GOAL_DIFFER = 5.0, 1e-5
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

Part = Callable[[Bench, Sheet], None]


def whole_body(variant: str) -> Part:
    """The jobs of one variant, the first one cold where no child is there yet."""

    def part(bench: Bench, sheet: Sheet) -> None:
        job = bench.whole_body(variant)
        runs = _three(bench, job, sheet)
        bench.runs[variant] = runs[-1]
        warm_s = median([run.seconds for run in runs[1:]])
        sheet.goals.append(Goal(claim="warm job, s", figure=warm_s, limit=GOAL_S[variant]))
        if bench.has_card:
            most = max(run.card["reserved GB"] for run in runs)
            sheet.goals.append(Goal(claim="reserved on the card, GB", figure=most, limit=GOAL_GB))

    return part


def other(name: str) -> Part:
    """The jobs of another published model."""

    def part(bench: Bench, sheet: Sheet) -> None:
        model = gpu_inputs.published(name, bench.folder, is_quick=bench.is_quick)
        if name == "brats_mri":
            shape = gpu_inputs.QUICK_HEAD if bench.is_quick else gpu_inputs.HEAD
            inputs = {
                role: gpu_inputs.written(gpu_inputs.head(shape, role), bench.series / role)
                for role in model.spec.inputs
            }
            sheet.notes.append(
                "the series lie on one grid: without skull stripping and registration"
            )
        else:
            inputs = {"image": bench.torso}
        few = {"variant": "CT_BODY_96", "labels": ["Liver"]}  # what a CPU can do
        parameters = few if bench.is_quick and name == "ctmr" else {}
        _three(bench, Job(model=model, inputs=inputs, parameters=parameters), sheet)

    return part


def _three(bench: Bench, job: Job, sheet: Sheet) -> list[Run]:
    runs: list[Run] = []
    kinds = ("first, child started" if bench.child.process_id is None else "first", "warm", "warm")
    for kind in kinds[: 2 if bench.is_quick else 3]:
        runs.append(bench.run(job))
        sheet.rows.append({"job": kind, **runs[-1].row()})
    last = runs[-1]
    (file,) = last.answer["files"]
    found = len(np.unique(last.labels)) - 1
    same = all(np.array_equal(run.labels, last.labels) for run in runs)
    sheet.notes.append(
        f"{found} labels, {last.labels.dtype}; SEG of {file['size_bytes'] / 1e6:.0f} MB"
    )
    sheet.notes.append(f"labels of all jobs are {'equal' if same else 'NOT equal'}")
    sheet.notes += sorted({note for run in runs for note in run.notes})
    if bench.has_card:
        sheet.notes.append(f"on the card as nvidia-smi sees it: {_smi('memory.used')}")
    return runs


def by_monai(variant: str) -> Part:
    """The bundle as published, evaluated twice in one process of MONAI's."""

    def part(bench: Bench, sheet: Sheet) -> None:
        job = bench.whole_body(variant)
        bundle = job.model.weights_dir / job.model.spec.name
        out = bench.folder / f"monai-{variant}"
        out.mkdir()
        overrides = {
            "config_file": str(bundle / "configs" / "inference.json"),
            "bundle_root": str(bundle),
            "dataset_dir": str(bench.nifti.parents[1]),
            "output_dir": str(out / "results"),
            "displayable_configs#highres": variant == "1.5mm",
            "dataloader#num_workers": 0,
        }
        (out / "arguments.json").write_text(json.dumps(overrides))
        command = [sys.executable, "-P", "-m", CHILD, str(out / "arguments.json")]
        command.append("1" if bench.is_quick else "2")
        for line in _lines_of(command, bench):
            sheet.rows.append(
                {"MONAI, as published": "first" if not sheet.rows else "warm", **line}
            )
        ours, theirs = bench.runs.get(variant), float(sheet.rows[-1]["s"])
        if ours is not None:
            sheet.goals.append(
                Goal(claim="our warm job, of MONAI's", figure=ours.seconds / theirs, limit=1)
            )
            labels = read_nifti(out / "results", bench.phantom.grid)
            sheet.notes.append(f"labels against ours: {told(differing(ours.labels, labels))}")

    return part


def _lines_of(command: Sequence[str], bench: Bench) -> Iterator[dict[str, float | str]]:
    """The JSON objects that a program prints, as far as it came."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if not bench.has_card:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    log = bench.folder / "program.log"
    with log.open("wb") as errors:
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                timeout=bench.left_s,
                check=False,
            )
            said, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as ended:
            said, code = ended.stdout or b"", -1
    yield from (json.loads(line) for line in said.splitlines() if line.startswith(b"{"))
    if code:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise NotMeasured(f"MONAI's evaluator ended with {code}: {' '.join(last)}")


def precisions(bench: Bench, sheet: Sheet) -> None:
    """What a precision costs and changes, at 3 mm; a second job of each, so that it is warm."""
    made: dict[str, LabelArray] = {}
    for precision in PRECISIONS:
        job = bench.whole_body("3mm", precision=precision)
        try:
            bench.run(job)
            run = bench.run(job)
        except NotMeasured as refused:
            sheet.notes.append(f"{precision}: {refused}")
            continue
        made[precision] = run.labels
        sheet.rows.append({"precision": precision, **run.row()})
        if precision != "fp32" and "fp32" in made:
            sheet.rows[-1] |= differing(made["fp32"], run.labels)
        ran = sorted(set(run.notes))
        sheet.notes += [f"{precision}: {note}" for note in ran]


def by_cpu(bench: Bench, sheet: Sheet) -> None:
    """The 3 mm variant on the CPU against the card in fp32, TF32 off."""
    with _without_tf32(bench):
        card = bench.run(bench.whole_body("3mm", precision="fp32"))
    with Runner(device="cpu") as child:
        cpu = bench.run(bench.whole_body("3mm", precision="fp32"), child)
    found = differing(cpu.labels, card.labels)
    for name, run in (("cpu", cpu), (bench.device, card)):
        sheet.rows.append({"device": name, **run.row()})
    sheet.rows[-1] |= found
    sheet.goals.append(Goal(claim="differing", figure=found["differing"], limit=GOAL_DIFFER))


def made_bundles(bench: Bench, sheet: Sheet) -> None:
    """Small bundles of every shape on the CPU and on the card, TF32 off; labels beyond a byte."""
    files = gpu_inputs.written(gpu_inputs.SMALL, bench.series / "small")
    with Runner(device="cpu") as child, _without_tf32(bench):
        for name, model in gpu_inputs.made(bench.folder).items():
            job = Job(model=model, inputs=dict.fromkeys(model.spec.inputs, files))
            try:
                cpu, card = bench.run(job, child), bench.run(job)
            except NotMeasured as failed:
                sheet.notes.append(f"{name}: {failed}")
                continue
            sheet.rows.append(
                {
                    "bundle": name,
                    "type": str(card.labels.dtype),
                    "highest": float(card.labels.max()),
                    "cpu s": cpu.seconds,
                    "card s": card.seconds,
                    **differing(cpu.labels, card.labels),
                }
            )
            sheet.notes += [f"{name}: {note}" for note in card.notes]


@contextmanager
def _without_tf32(bench: Bench) -> Iterator[None]:
    """Where ``fp32`` does not turn it off by itself, as in older trees."""
    bench.ask("allow_tf32", allowed=False)
    try:
        yield
    finally:
        bench.ask("allow_tf32", allowed=True)


def less_memory(bench: Bench, sheet: Sheet) -> None:
    """The 3 mm job again while others hold most of the card: its labels should be the same."""
    if not bench.has_card or "3mm" not in bench.runs:
        raise NotMeasured("needs a card, and the 3 mm jobs")
    before = bench.runs["3mm"]
    try:
        for share in (2.0, 0.9, 0.6):
            limit_gb = share * before.card["reserved GB"]
            bench.ask("limit", limit_gb=limit_gb)
            run = bench.run(bench.whole_body("3mm"))
            found = differing(before.labels, run.labels)
            sheet.rows.append({"limit GB": limit_gb, **found, **run.row()})
            sheet.notes += [f"{limit_gb:.2f} GB: {note}" for note in run.notes]
    finally:
        bench.ask("limit", limit_gb=float("1e6"))


def two_workers(bench: Bench, sheet: Sheet) -> None:
    """Two warm children on one device: their jobs one after the other, then at once."""
    small, large = bench.whole_body("3mm"), bench.whole_body("1.5mm")
    with Runner(device=bench.device) as second:
        for job, child in ((small, bench.child), (large, second)):
            bench.run(job, child)
        alone = [bench.run(small), bench.run(large, second)]
        both = bench.run_together([(small, bench.child), (large, second)])
    sheet.rows.append({"jobs": "3 mm, then 1.5 mm", "s": sum(run.seconds for run in alone)})
    sheet.rows.append({"jobs": "both at once", "s": max(run.seconds for run in both)})
    for name, one, other_one in zip(("3 mm", "1.5 mm"), alone, both, strict=True):
        sheet.rows.append({"jobs": f"{name} alone", "s": one.seconds, **one.card})
        sheet.rows.append(
            {"jobs": f"{name} beside the other", "s": other_one.seconds, **other_one.card}
        )
        sheet.notes.append(f"{name}: {told(differing(one.labels, other_one.labels))}")


def warmed_up(bench: Bench, sheet: Sheet) -> None:
    """The first job of a child that was warmed up as the work process does it."""
    job = bench.whole_body("3mm")
    with Runner(device=bench.device) as child:
        given = {"folder": str(job.model.spec.folder), "parameters": dict(job.parameters)}
        request = {
            "models": [given],
            "weights_dir": str(job.model.weights_dir),
            "device": bench.device,
        }
        warming = Asked(child, WARM, request, bench.left_s)
        while not warming.look():
            pass
        warming.result()
        sheet.rows.append({"what": "warming up, child started", "total s": warming.seconds})
        sheet.rows.append({"what": "first job", **bench.run(job, child).row()})
        sheet.rows.append({"what": "second job", **bench.run(job, child).row()})


# part -> its limit in seconds, in the order of what matters
PARTS: Mapping[str, tuple[float, str, Part]] = {
    "3mm": (120, "wholebody_ct 3mm, DICOM files to verified SEG", whole_body("3mm")),
    "1.5mm": (120, "wholebody_ct 1.5mm, DICOM files to verified SEG", whole_body("1.5mm")),
    "monai 3mm": (70, "MONAI's evaluator, 3 mm, NIfTI to NIfTI", by_monai("3mm")),
    "monai 1.5mm": (80, "MONAI's evaluator, 1.5 mm, NIfTI to NIfTI", by_monai("1.5mm")),
    "precisions": (100, "wholebody_ct 3mm in each precision; labels against fp32", precisions),
    "made bundles": (80, "small bundles, CPU against the device, TF32 off", made_bundles),
    "less memory": (60, "wholebody_ct 3mm with less of the card", less_memory),
    "two workers": (80, "wholebody_ct, two children on one device", two_workers),
    "ctmr": (80, "ctmr CT_BODY, DICOM files to verified SEG", other("ctmr")),
    "brats": (60, "brats_mri, DICOM files to verified SEG", other("brats_mri")),
    "cpu": (80, "wholebody_ct 3mm, CPU against the device, TF32 off", by_cpu),
    "warmed up": (60, "wholebody_ct 3mm in a child that was warmed up", warmed_up),
}


# --- what is said --------------------------------------------------------------------------------


def measure(is_quick: bool) -> list[Report]:
    """Every part, for ``python -m tests.bench``; without a card the first, and only if it is quick."""
    has_card = bool(_smi("name"))
    if not (has_card or is_quick):
        note = "not measured: no card; --quick rehearses on the CPU"
        return [Report(part="gpu", title="jobs on a card", rows=[], notes=[note])]
    with TemporaryDirectory(prefix="segnode-bench-") as name:
        return list(reports(list(PARTS) if has_card else ["3mm"], Path(name) / "series", is_quick))


def reports(
    parts: Sequence[str], series: Path, is_quick: bool, limit_s: float = LIMIT_S
) -> Iterator[Report]:
    """One report for each part, as soon as it is measured."""
    began = time.perf_counter()
    series.mkdir(parents=True, exist_ok=True)
    device = "cuda" if _smi("name") else "cpu"
    with TemporaryDirectory(prefix="segnode-gpu-") as name, Runner(device=device) as child:
        bench = Bench(
            folder=Path(name), series=series, device=device, is_quick=is_quick, child=child
        )
        bench.torso  # noqa: B018 - made now, in no part's time
        card = _smi("name,driver_version,memory.total") or "no card"
        yield Report(
            part="gpu",
            title=f"{card}; jobs on {device}",
            rows=[{"step": "series made, or there", "s": time.perf_counter() - began}],
        )
        for part in parts:
            yield _measured(part, bench, began + limit_s)
        bench.ends_at = time.perf_counter() + 60
        libraries = ", ".join(f"{what} {which}" for what, which in bench.ask("machine").items())
        yield Report(part="gpu", title="libraries in the child", rows=[], notes=[libraries])


def _measured(part: str, bench: Bench, ends_at: float) -> Report:
    began = time.perf_counter()
    limit_s, title, work = PARTS[part]
    sheet = Sheet()
    bench.ends_at = inf if bench.is_quick else min(ends_at, began + limit_s)
    if bench.ends_at <= began:
        sheet.notes.append("not measured: no time was left")
    else:
        try:
            work(bench, sheet)
        except Exception as error:  # noqa: BLE001 - the other parts go on
            sheet.notes.append(f"not measured to its end: {type(error).__name__}: {error}")
    sheet.notes.append(f"this part took {time.perf_counter() - began:.0f} s")
    return Report(
        part=f"gpu {part}", title=title, rows=sheet.rows, goals=sheet.goals, notes=sheet.notes
    )


def _smi(fields: str) -> str:
    """What the driver says of the first card; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return next(iter(done.stdout.splitlines()), "").strip()


def markdown(report: Report) -> str:
    """The table of a report as Markdown has it."""
    columns = list(dict.fromkeys(name for row in report.rows for name in row))
    lines = [f"\n### {report.part}: {report.title}\n"]
    if columns:
        lines += [_line(columns), _line(["---"] * len(columns))]
        lines += [_line([shown(row.get(name, "")) for name in columns]) for row in report.rows]
        lines.append("")
    lines += [f"- {goal}" for goal in report.goals]
    return "\n".join([*lines, *(f"- {note}" for note in report.notes)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print as Markdown, and write the figures down after every part."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small series: is all in place?")
    parser.add_argument("--parts", default=",".join(PARTS), help="of them, with commas")
    parser.add_argument("--series", type=Path, default=Path("/tmp/segnode-gpu"))
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="no part begins later")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    parts = options.parts.split(",")
    unknown = set(parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(machine(), flush=True)
    done: list[Report] = []
    series = options.series / ("quick" if options.quick else "full")
    for report in reports(parts, series, options.quick, options.limit_s):
        print(markdown(report), flush=True)
        done.append(report)
        if options.json:
            figures = {"machine": machine(), "reports": [each.to_json() for each in done]}
            options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
