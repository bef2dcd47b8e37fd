#!/bin/bash
# Converts one data folder to one cache with a Slurm array job: each task converts its share of the cases.
#
#   sbatch --array=0-15 configs/deploy/shard-slurm-array.sh /data/nnunet_raw /data/cache
#
# The number of workers is the number of array tasks, so use --array=0-N without gaps. Tasks may run in any order, at
# different times and on different machines; all of them need access to both folders. A failed or pre-empted task is
# run again with the same number (--requeue does this) and resumes. Further arguments are passed to hiend-shard, for
# example --exclude NAME or --spacing 1.5.
#
# hiend-shard exits with 3 if it skipped cases that cannot be read; the task's log names them, and the job succeeds.
# Afterwards, once and outside of the array:
#
#   hiend-shard verify /data/cache
#   hiend-shard /data/nnunet_raw --out /data/cache --prune      # if cases were removed; --compact if some were changed

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

# --memory bounds the cases being converted; the rest of --mem serves the page cache and the writer.
# Since Slurm 22.05, srun takes the number of cores from its own flag alone: without it, the program gets one.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" hiend-shard "$data" --out "$cache" \
    --worker "${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}" \
    --jobs "${SLURM_CPUS_PER_TASK}" --memory 12GiB "$@"
code=$?
[ "$code" -eq 3 ] && code=0
exit "$code"
