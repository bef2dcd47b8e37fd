"""Sends the journal of a hiend-train run to Weights & Biases.

    pip install wandb
    python3 wandb_journal.py RUN --project PROJECT [--follow]
    WANDB_MODE=offline python3 wandb_journal.py RUN      # and `wandb sync` later

RUN/wandb.json names the W&B run and how far it was sent. A later call, after `hiend-train --resume` for example, continues
it: no step is sent twice. W&B's step is that of the journal; validations have the axis `validation/step`. Metrics have the
names that TensorBoard shows. Of two records of a step, which a killed and resumed run has, the first one counts: W&B cannot
replace it, and both have the same loss. Steps that a run abandons (`hiend-train --resume-from`) stay there. A validation that
was written after an earlier call had sent the last step of a finished run is in the summary of the W&B run, and in its charts
once the run is extended. Training is not touched: the script only reads, and can run on another machine that sees the run's
folder.
"""

import argparse
import json
import math
import os
import pathlib
import sys
import time
import uuid

import wandb

try:
    import tomllib
except ImportError:  # Before Python 3.11.
    tomllib = None

STEP = {
    "epoch": "train/epoch",
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "crops_per_sec": "throughput/crops_per_sec",
    "wait_ms": "time_ms/wait",
    "compute_ms": "time_ms/compute",
    "upload_ms": "time_ms/upload",
}
VALIDATION = {
    "mean_dice": "validation/mean_dice",
    "mean_fg_dice": "validation/mean_fg_dice",
    "num_cases": "validation/num_cases",
}


def is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def step_metrics(entry):
    return {name: entry[key] for key, name in STEP.items() if is_number(entry.get(key))}


def validation_metrics(entry, classes):
    metrics = {name: entry[key] for key, name in VALIDATION.items() if is_number(entry.get(key))}
    for number, dice in enumerate(entry.get("dice_per_class", [])):
        name = classes[number] if number < len(classes) else f"class {number}"
        if is_number(dice):
            metrics[f"dice/{name}"] = dice
    return {**metrics, "validation/step": entry["step"]}


class Journal:
    """Complete lines of a journal that may still grow."""

    def __init__(self, path):
        self.path, self.offset = path, 0

    def entries(self):
        """Entries since the last call."""
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size < self.offset:
                sys.exit(f"error: {self.path}: shorter than before; a new run began here, remove wandb.json to send it")
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    entry = json.loads(line)
                except ValueError as error:
                    sys.exit(f"error: {self.path}: not a journal of hiend-train ({error})")
                self.offset += len(line)
                yield entry


class Link:
    """RUN/wandb.json: the W&B run, and the last step and validation that were sent."""

    def __init__(self, path):
        self.path = path
        self.values = {"id": uuid.uuid4().hex[:16], "step": 0, "validation": -1}
        if path.exists():
            self.values.update(json.loads(path.read_text()))

    def save(self):
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.values) + "\n")
        partial.replace(self.path)


class Sender:
    """Sends entries in order, each once."""

    def __init__(self, run, link, classes):
        self.run, self.link, self.classes = run, link, classes
        # True once this call has sent a step, whose row is still open.
        self.has_row = False
        # A validation of the last step of an earlier call, whose row is closed: it goes into the next one.
        self.held = {}
        # The last entry that says whether the run is in progress.
        self.state = None

    def send(self, entries):
        for entry in entries:
            event, step, sent = entry["event"], entry["step"], self.link.values
            if event == "step" and step > sent["step"]:
                self.run.log({**self.held, **step_metrics(entry)}, step=step)
                sent["step"] = step
                sent["validation"] = max(sent["validation"], self.held.get("validation/step", -1))
                self.has_row, self.held = True, {}
            elif event == "validation" and step > sent["validation"]:
                metrics = validation_metrics(entry, self.classes)
                if self.has_row:
                    self.run.log(metrics, commit=False)
                    sent["validation"] = step
                else:
                    self.held = metrics
            elif event in ("started", "stopped"):
                self.state = entry
        if self.held and self.has_stopped() and not self.state["interrupted"]:
            # There is no next step. A row of its own would be that of the next one if the run is extended.
            self.run.summary.update(self.held)
        self.link.save()

    def has_stopped(self):
        return self.state is not None and self.state["event"] == "stopped"


def main():
    parser = argparse.ArgumentParser(description="Send the journal of a hiend-train run to Weights & Biases")
    parser.add_argument("run", metavar="RUN", type=pathlib.Path, help="folder of a run")
    parser.add_argument("--project", help="project of W&B (default: hiend-pretrain or hiend-finetune)")
    parser.add_argument("--entity", help="team or user of W&B")
    parser.add_argument("--follow", action="store_true", help="continue until the run stops")
    parser.add_argument("--every", metavar="SECS", type=float, default=5, help="seconds between looks (default: 5)")
    args = parser.parse_args()

    journal = Journal(args.run / "journal.jsonl")
    if not journal.path.exists():
        sys.exit(f"error: {journal.path}: not found; expected the folder of a run")
    config = {}
    if tomllib is None:
        print("note: settings are not sent; reading them needs Python 3.11", file=sys.stderr)
    else:
        config = tomllib.loads((args.run / "config.toml").read_text())
    kind = "finetune" if "classes" in config else "pretrain"
    link = Link(args.run / "wandb.json")
    link.save()

    run = wandb.init(
        project=args.project or f"hiend-{kind}",
        entity=args.entity,
        id=link.values["id"],
        name=args.run.resolve().name,
        config=config,
        resume="allow",
    )
    for names in ("validation/*", "dice/*"):
        run.define_metric(names, step_metric="validation/step")
    if run.resumed:
        # The server's records count, if the last call was killed before it could write down how far it was.
        link.values["step"] = max(link.values["step"], run.step - 1)

    sender = Sender(run, link, config.get("classes", []))
    try:
        sender.send(journal.entries())
        while args.follow and not sender.has_stopped():
            time.sleep(args.every)
            sender.send(journal.entries())
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
    finally:
        # Waits until everything has arrived, or is in the offline folder.
        run.finish()
    if sender.has_stopped():
        print(f"run {'stopped' if sender.state['interrupted'] else 'finished'} at step {sender.state['step']}")


if __name__ == "__main__":
    main()
