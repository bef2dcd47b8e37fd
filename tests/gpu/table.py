"""Prints the results of tests/gpu/measure as a table: table.py RESULTS.jsonl"""

import json
import sys

KEYS = (
    "ms crops_per_s tflops wait_share data_cost resident_ms peak_gib peak_mib products_recorded cudnn_plans attention_plans "
    "largest_relative_error within_band "
    "logits_error gradient_error "
    "form threads of_one_thread first_step_secs open_secs data_secs init_secs first_secs secs fallbacks skipped failed"
).split()

with open(sys.argv[1]) as lines:
    rows = [json.loads(line) for line in lines]
detailed = ("machine", "tests", "shapes", "convolutions", "convolution-times", "kernels", "products")
machines = {}
for row in rows:
    if row.get("case") == "machine":
        described = {key: value for key, value in row.items() if key not in ("run", "case", "case_secs", "peak_mib")}
        machines.setdefault(json.dumps(described), []).append(row["run"])
for described, runs in machines.items():
    print(f"machine ({len(runs)} runs, first {runs[0]}): {described}")
for row in rows:
    if row.get("case") not in detailed:
        print(row["run"], *(f"{key}={row[key]}" for key in KEYS if row.get(key) is not None))

losses = {row["run"]: row["loss"][0] for row in rows if row.get("case") == "step" and row.get("loss")}
plain, recomputed = losses.get("step-l"), losses.get("step-l-checkpointing")
if plain is not None and recomputed is not None:
    print(f"first loss {plain}, with gradient checkpointing {recomputed}: {'equal' if plain == recomputed else 'NOT EQUAL'}")

tests = [row for row in rows if row.get("case") == "tests" and "test" in row]
for run in dict.fromkeys(row["run"] for row in tests) or ["tests"]:
    of_run = [row for row in tests if row["run"] == run]
    failures = [f"\n  failed: {row['test']}: {row.get('error')}" for row in of_run if not row["passed"]]
    print(f"{run}: {len(of_run) - len(failures)} of {len(of_run)} passed", *failures)


def worst(row):
    """The largest error of a line; what is not a number is null there."""
    return max(float("inf") if error is None else error for error in row["errors"])


for case in ("shapes", "convolutions"):
    of_case = [row for row in rows if row.get("case") == case and "errors" in row]
    for run in dict.fromkeys(row["run"] for row in of_case) or [case]:
        lines = [row for row in of_case if row["run"] == run]
        within = sum(row["within_band"] for row in lines)
        most = max(((worst(row), row["kind"], row["shape"]) for row in lines), default="none measured")
        print(f"{run}: {within} of {len(lines)} within their band; worst {most}")

kernels = [row for row in rows if row.get("case") == "kernels" and "kernel" in row]
for run in dict.fromkeys(row["run"] for row in kernels):
    of_run = [row for row in kernels if row["run"] == run]
    totals = [row for row in of_run if row["kernel"] == "all"]
    print(f"{run}:")
    for row in [row for row in of_run if row["kernel"] != "all"] + totals:
        extra = (f"{key}={row[key]}" for key in ("vendor_ms", "span_ms", "idle_ms", "clock") if key in row)
        print(f"{row['ms']:9.3f} ms {row['launches']:6.0f} x {row['kernel'][:90]}", *extra)
for row in rows:
    if row.get("case") in ("products", "convolution-times") and "ms" in row:
        print(f"{row['ms']:9.3f} ms {row['tflops']:7.1f} TFLOP/s {row['kind']} {row['shape']} ({row['run']})")

# Stopped by its limit: 124, or 137 if that took a KILL. A run's last line counts, because a second call adds to the first's.
last = {row["run"]: row for row in rows}
again = [run for run, row in last.items() if row.get("skipped") == "no time left" or row.get("failed") in (124, 137)]
if again:
    print(f'stopped or skipped; again: ONLY="{" ".join(again)}" tests/gpu/measure OUT')
