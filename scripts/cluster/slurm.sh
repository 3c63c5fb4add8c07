#!/bin/bash
# sbatch slurm.sh; a job that is preempted or out of time continues when it is submitted again.
#SBATCH --job-name=poisongames
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@60
set -euo pipefail
export POISONGAMES_DATA="$HOME/data" SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
cores="--num-cpus=$SLURM_CPUS_PER_TASK"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head --lines=1)

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port=6379 $cores --block &
sleep 20
if (( SLURM_NNODES > 1 )); then
  srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
    ray start --address="$head:6379" $cores --block &
fi
# This script runs on the first node. SIGTERM, sixty seconds before the end, ends the run in order.
poisongames run cifar10-v3 --ray "$head:6379" --out "$HOME/runs/cifar10-v3" &
run=$!
trap 'kill -TERM $run' TERM
wait $run || wait $run
