#!/bin/bash
# Trains on one GPU with Slurm; a job that is pre-empted or reaches its time limit is queued again and continues.
#
#   sbatch configs/deploy/train-slurm.sh --shards /data/cache --preset vit-l-p12 --run-dir /runs/first
#
# All arguments are passed to hiend-train. With loader servers (serve-slurm.sh starts some), replace --shards by
# --loader URL,URL.

#SBATCH --job-name=hiend-train
#SBATCH --gpus=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=hiend-train-%j.log

set -u
# SIGUSR1 comes two minutes before the time limit. hiend-train finishes the step, saves and exits with 75.
# Since Slurm 22.05, srun takes the number of cores from its own flag alone: without it, the program gets one.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" hiend-train "$@" \
    --resume=auto --display=lines --metrics-listen=0.0.0.0:9464 &
child=$!
trap 'kill -USR1 "$child"' USR1
trap 'kill -TERM "$child"' TERM
# A trapped signal ends `wait` early; the second call has the exit code.
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do
    wait "$child"
    code=$?
done
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    code=0
fi
exit "$code"
