"""Opens the event files of a run with TensorBoard itself and compares them with the run's journal.

    pip install tensorboard
    python3 check_run.py RUN

Every scalar of every step and validation must be there, with the value of the journal in single precision; of a
step that the journal has twice (a killed run repeats some), the later line counts. Pictures must be the files in
RUN/pictures, byte for byte. Prints what was compared; exits with 1 at the first difference.
"""

import json
import os
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "crops_per_sec": "throughput/crops_per_sec",
    "wait_ms": "time_ms/wait",
    "compute_ms": "time_ms/compute",
    "upload_ms": "time_ms/upload",
    "mean_dice": "validation/mean_dice",
    "mean_fg_dice": "validation/mean_fg_dice",
}


def single(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def read_journal(path):
    """Values by tag and step."""
    expected = {tag: {} for tag in TAGS.values()}
    num_dice = 0
    last_step = 0
    with open(path) as file:
        for line in file:
            if not line.endswith("\n"):
                break
            entry = json.loads(line)
            if entry["event"] == "step":
                if entry["step"] <= last_step:
                    for values in expected.values():
                        for step in [step for step in values if step >= entry["step"]]:
                            del values[step]
                last_step = entry["step"]
            num_dice += sum(dice is not None for dice in entry.get("dice_per_class", []))
            for key, tag in TAGS.items():
                if entry.get(key) is not None:
                    expected[tag][entry["step"]] = single(entry[key])
    return {tag: values for tag, values in expected.items() if values}, num_dice


def main(run):
    expected, num_dice = read_journal(os.path.join(run, "journal.jsonl"))
    events = EventAccumulator(os.path.join(run, "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    named = {tag for tag in tags["scalars"] if not tag.startswith("dice/")}
    if named != set(expected):
        sys.exit(f"scalars {sorted(named)}, expected {sorted(expected)}")
    for tag, values in expected.items():
        got = {event.step: event.value for event in events.Scalars(tag)}
        if got != values:
            wrong = sorted(step for step in got.keys() | values.keys() if got.get(step) != values.get(step))
            sys.exit(f"{tag}: {len(wrong)} steps differ, the first is {wrong[0]}")
        print(f"{tag}: {len(got)} values, steps {min(got)} to {max(got)}, equal")
    got_dice = sum(len(events.Scalars(tag)) for tag in tags["scalars"] if tag.startswith("dice/"))
    print(f"dice by class: {got_dice} values of {num_dice} in the journal (repeated validations count once)")
    if got_dice > num_dice or (got_dice == 0) != (num_dice == 0):
        sys.exit(1)
    for image in events.Images("picture") if "picture" in tags["images"] else []:
        path = os.path.join(run, "pictures", f"step-{image.step:06}.png")
        with open(path, "rb") as file:
            if file.read() != image.encoded_image_string:
                sys.exit(f"the picture of step {image.step} is not {path}")
        print(f"picture of step {image.step}: {image.width} x {image.height}, equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
