"""Trains on a Ray cluster: Ray places one actor per rank, each with one GPU, and each runs hiend-train as a process.

    ray job submit --working-dir configs/deploy -- python train-ray.py --ranks 16 --restarts 20 -- \
        hiend-train --shards /data/cache --run-dir /data/runs/first --resume=auto --threads 12 --display lines

Ray only starts processes and frees their GPUs: the ranks find each other as those of torchrun do, and gradients go over NCCL.
hiend-train and setpriv (util-linux) must be on PATH on every machine, the cache at the same path, and the run's folder on a shared
file system. stream.visits_per_batch of the configuration must be a multiple of the number of ranks.

A rank or a machine that is lost ends all ranks within --peer-timeout (exit code 69); all are then started again, up to --restarts
times, and --resume=auto continues from the newest checkpoint. Other exit codes end the job with the code of rank 0.
"""

import argparse
import os
import secrets
import socket
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

LOST = 69


def environment(rank, num_ranks, address, port, token):
    """Variables of a rank, as torchrun sets them. Ray shows each actor its own GPU only, which is number 0 there."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "HIEND_TOKEN": token,
    }


@ray.remote(max_restarts=0)
class Rank:
    """Place of a rank in the cluster."""

    def address(self):
        """Address of this machine, and a port that is free."""
        with socket.create_server(("", 0)) as free:
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def run(self, command, variables):
        """Runs a rank to its end; returns its exit code. The process ends with this actor."""
        return subprocess.call(["setpriv", "--pdeathsig", "TERM", *command], env=os.environ | variables)


def attempt(arguments):
    """Starts all ranks and waits for their ends; returns the exit code."""
    bundle = {"CPU": arguments.cpus} | ({"GPU": 1} if arguments.gpus else {})
    # A machine is filled before the next one.
    places = placement_group([bundle] * arguments.ranks, strategy="PACK")
    try:
        ray.get(places.ready())
        options = {"num_cpus": arguments.cpus, "num_gpus": int(arguments.gpus)}
        ranks = [
            Rank.options(**options, scheduling_strategy=PlacementGroupSchedulingStrategy(places, rank)).remote()
            for rank in range(arguments.ranks)
        ]
        address, port = ray.get(ranks[0].address.remote())
        token = secrets.token_hex(16)
        runs = [
            actor.run.remote(arguments.command, environment(rank, arguments.ranks, address, port, token))
            for rank, actor in enumerate(ranks)
        ]
        codes = [code_of(run) for run in runs]
    finally:
        remove_placement_group(places)
    # Rank 0 writes everything: once it has ended without an error, the run is complete.
    return codes[0] if codes[0] != LOST else next((code for code in codes if code not in (0, LOST)), LOST)


def code_of(run):
    """Waits for a rank; the loss of its machine counts as the loss of a rank."""
    try:
        code = ray.get(run)
        return code if code >= 0 else LOST
    except ray.exceptions.RayActorError:
        return LOST


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, required=True, help="number of ranks")
    parser.add_argument("--cpus", type=int, default=12, help="cores of each rank (default: %(default)s)")
    parser.add_argument("--no-gpus", dest="gpus", action="store_false", help="ranks on CPUs")
    parser.add_argument("--restarts", type=int, default=0, help="number of times that lost ranks are started again")
    parser.add_argument("command", nargs="+", help="command line of hiend-train, after two dashes")
    arguments = parser.parse_args()
    ray.init()
    for left in range(arguments.restarts, -1, -1):
        code = attempt(arguments)
        if code != LOST or left == 0:
            sys.exit(code)
        print(f"a rank was lost: all begin again, {left - 1} restarts are left", file=sys.stderr)


if __name__ == "__main__":
    main()
