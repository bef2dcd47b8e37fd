#!/bin/bash
# Trains on several machines: one rank per GPU, started by srun.
#
#   sbatch --nodes=2 configs/deploy/train-slurm-ranks.sh /data/cache /data/runs/first --preset vit-l-p12
#
# Slurm ends a job at its time limit or for another one; SIGUSR1 arrives 120 s before. Every rank then finishes the same
# step, rank 0 saves, all exit with 75, and the job is queued again; --resume auto continues it. A lost machine ends all
# ranks within --peer-timeout (exit code 69), and is answered the same way. Exit code 78 means that the ranks do not belong
# together; another try would not change that.
#
# stream.visits_per_batch of the configuration must be a multiple of the number of GPUs. The cache may be local to each
# machine under the same path; the run's folder must be shared.

#SBATCH --job-name=hiend-train
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=hiend-train-%j.log

set -u
cache=${1:?usage: sbatch --nodes=N train-slurm-ranks.sh CACHE RUN_DIR [more flags]}
run=${2:?usage: sbatch --nodes=N train-slurm-ranks.sh CACHE RUN_DIR [more flags]}
shift 2

# A secret of this job; srun passes it on to every task.
HIEND_TOKEN=$(openssl rand -hex 16)
export HIEND_TOKEN

# --kill-on-bad-exit=0: a rank that is lost is noticed by the others, and rank 0 needs time to save.
# Since Slurm 22.05, srun takes the number of cores from its own flag alone: without it, the program gets one.
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" hiend-train --ranks slurm \
    --shards "$cache" --run-dir "$run" --resume auto --display lines --memory 16GiB "$@"
code=$?
case $code in
    75 | 69) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$code"
