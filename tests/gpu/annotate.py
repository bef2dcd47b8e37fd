"""Passes on the JSON lines of a case, each as soon as it is read, with the case's name and the device's peak memory.

    annotate.py NAME SINCE MEMORY.csv <output of the case

SINCE is the start of the case in seconds of the clock; MEMORY.csv has lines `seconds,MiB`. Other lines are dropped.
"""

import json
import sys

name, since, memory = sys.argv[1], float(sys.argv[2]), sys.argv[3]


def peak_mib():
    samples = []
    with open(memory) as lines:
        for line in lines:
            at, _, mib = line.strip().partition(",")
            if mib.isdigit() and float(at) >= since:
                samples.append(int(mib))
    return max(samples, default=None)


for line in sys.stdin:
    if not line.startswith("{"):
        continue
    try:
        values = json.loads(line)
    except ValueError:  # cut off where the case was stopped
        continue
    print(json.dumps({"run": name, "peak_mib": peak_mib(), **values}), flush=True)
