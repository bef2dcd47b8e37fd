#!/bin/bash
# Fills one cache from many machines with a Slurm array job: every task converts its share of the cases.
#
#   sbatch --array=0-15 configs/deploy/shard-slurm-array.sh /data/nnunet_raw /data/cache
#
# The number of workers is that of the array's tasks, so --array=0-N from 0 on, without gaps. Tasks need not run at the
# same time, nor in order, nor on the same machine; they need the same two folders. A task that failed or was
# pre-empted is run again with the same number (--requeue does so) and goes on where it was. More arguments are handed
# on, as --exclude NAME or --spacing 1.5.
#
# hiend-shard ends with 3 when it left out cases that cannot be read; the task's output names them. That is no failure
# of the job. Afterwards, once and not in the array:
#
#   hiend-shard verify /data/cache
#   hiend-shard /data/nnunet_raw --out /data/cache --prune      # if cases were taken away or changed

#SBATCH --job-name=hiend-shard
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=hiend-shard-%A_%a.log

set -u
data=${1:?usage: sbatch --array=0-N shard-slurm-array.sh DATA CACHE [more flags]}
cache=${2:?usage: sbatch --array=0-N shard-slurm-array.sh DATA CACHE [more flags]}
shift 2

# The memory flag bounds the cases in work; the rest of --mem is for the page cache and the writer.
srun hiend-shard "$data" --out "$cache" \
    --worker "${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}" \
    --jobs "${SLURM_CPUS_PER_TASK}" --memory 12GiB "$@"
code=$?
[ "$code" -eq 3 ] && code=0
exit "$code"
