#!/usr/bin/env bash
# Runs all cells of an experiment as an array job, one part per task:
#
#     sbatch --array=1-8 examples/slurm/run.sh --models lrurec,sasrec --seeds 0-4 --datasets ml-1m
#
# The words behind the script are those of `seqbench run`. The results folder and the prepared data must be where every
# node sees them; prepare data once, before:  seqbench prepare ml-1m
#
#SBATCH --job-name=seqbench
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=seqbench-%A_%a.log
set -uo pipefail

# Slurm counts from where the array begins; seqbench from 1.
part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# In the background, so that this shell hears the signal that Slurm sends two minutes before the time is over. It ends
# seqbench as Ctrl-C does: the epoch that is running is lost, all before it are kept.
${SEQBENCH:-seqbench} run --shard "$part/$SLURM_ARRAY_TASK_COUNT" "$@" &
trap 'kill -TERM "$!"' TERM
wait "$!"
code=$?
if [ "$code" -gt 128 ]; then
    wait "$!"
    code=$?
fi

# 143: it was told to end. The same task goes on in a new allocation, after its last finished epoch.
if [ "$code" -eq 143 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
