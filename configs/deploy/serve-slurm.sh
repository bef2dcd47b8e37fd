#!/bin/bash
# Starts loader servers with Slurm, one per CPU node, and writes their URLs to a file.
#
#   sbatch --nodes=2 configs/deploy/serve-slurm.sh /data/cache ~/hiend-token ~/hiend-urls
#   hiend-train --loader "$(paste -sd, ~/hiend-urls)" --loader-token-file ~/hiend-token --preset vit-l-p12
#
# The token's file is made once: openssl rand -hex 32 >~/hiend-token; chmod 600 ~/hiend-token. The batches cross the
# cluster's own network without encryption, which --insecure acknowledges; --tls-cert and --tls-key avoid that. Servers
# hold no state: the job may be cancelled and started again while a training waits.

#SBATCH --job-name=hiend-serve
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=hiend-serve-%j.log

set -eu
cache=${1:?usage: sbatch serve-slurm.sh CACHE TOKEN_FILE URL_FILE}
token=${2:?usage: sbatch serve-slurm.sh CACHE TOKEN_FILE URL_FILE}
urls=${3:?usage: sbatch serve-slurm.sh CACHE TOKEN_FILE URL_FILE}

scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's|.*|http://&:9443|' >"$urls"
# Since Slurm 22.05, srun takes the number of cores from its own flag alone: without it, the program gets one.
exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" hiend-serve --shards "$cache" \
    --listen 0.0.0.0:9443 --token-file "$token" --insecure \
    --threads "$SLURM_CPUS_PER_TASK" --memory 24GiB --metrics-listen 0.0.0.0:9465
