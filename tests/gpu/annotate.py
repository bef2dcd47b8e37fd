"""Passes on the JSON lines of a case, each as soon as it is read, with the case's name and the device's peak memory.

    annotate.py NAME SINCE MEMORY.csv <output of the case

SINCE is the start of the case in seconds of the clock; MEMORY.csv has lines `seconds,MiB`, and may be /dev/null where the
memory in use is not the case's own. Other lines are dropped. Exits with 3 if the case has no result: a description of the
machine is none.
"""

import json
import sys

name, since, memory = sys.argv[1], float(sys.argv[2]), sys.argv[3]


def peak():
    samples = []
    with open(memory) as lines:
        for line in lines:
            at, _, mib = line.strip().partition(",")
            if mib.isdigit() and float(at) >= since:
                samples.append(int(mib))
    return {"peak_mib": max(samples)} if samples else {}


results = 0
for line in sys.stdin:
    if not line.startswith("{"):
        continue
    try:
        values = json.loads(line)
    except ValueError:  # cut off where the case was stopped
        continue
    results += values.get("case") != "machine"
    print(json.dumps({"run": name, **peak(), **values}), flush=True)
sys.exit(0 if results else 3)
