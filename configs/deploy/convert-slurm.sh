#!/bin/bash
# Converts one data folder to one cache with a Slurm array job whose tasks take cases one by one.
#
#   sbatch --array=0-15 configs/deploy/convert-slurm.sh /data/nnunet_raw s3://scans/cache
#
# Any number of tasks, started at any time on any machines, share the cases: the array's numbers mean nothing. A slow
# task takes fewer cases, and the cases of a task that is killed are taken over a minute later. The cache is a folder that
# all tasks can write, or a URL; docs/object-storage.md names the variables with the credentials, which sbatch passes on.
# Further arguments are passed to hiend-shard, for example --exclude NAME or --spacing 1.5.
#
# hiend-shard exits with 3 if it skipped cases that cannot be read; the task's log names them, and the job succeeds.
# Afterwards, once: hiend-shard verify CACHE

#SBATCH --job-name=hiend-convert
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=hiend-convert-%A_%a.log

set -u
data=${1:?usage: sbatch --array=0-N convert-slurm.sh DATA CACHE [more flags]}
cache=${2:?usage: sbatch --array=0-N convert-slurm.sh DATA CACHE [more flags]}
shift 2

# --memory bounds the cases being converted; the rest of --mem serves the page cache, the writer and uploads.
# Since Slurm 22.05, srun takes the number of cores from its own flag alone: without it, the program gets one.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" hiend-shard "$data" --out "$cache" --claim \
    --jobs "$SLURM_CPUS_PER_TASK" --memory 12GiB "$@"
code=$?
[ "$code" -eq 3 ] && code=0
exit "$code"
