#!/usr/bin/env bash
# A Ray cluster inside one Slurm job: a head on the first node, a worker on each, then one command.
#
#   sbatch --nodes=3 configs/cluster/slurm.sh kd-ray distill configs/mine/distill.yaml
#
# The first TEACHER_NODES nodes are for teachers, the others for students (labels kd-ray-role=teachers
# and =students, and custom resources of these names). Submitted from the checkout, whose folder and
# whose .venv all nodes see under one path; KD_RAY_ROOT is that folder unless it is set. A job that is
# requeued, or submitted again, goes on from its last checkpoint.
#
# A single worker trains in the process of the command, on the first node, and uses a GPU there that Ray
# may have given to a host. Give it `workers.label_selector: {kd-ray-role: students}`, which makes it a
# worker group.
#SBATCH --job-name=kd-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: sbatch [options] $0 COMMAND [ARGUMENTS]" >&2
  exit 2
fi

teacher_nodes="${TEACHER_NODES:-1}"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
if ((teacher_nodes >= ${#nodes[@]})); then
  echo "TEACHER_NODES is $teacher_nodes, of ${#nodes[@]} nodes: none is left for students;" \
    "TEACHER_NODES=0 where they share nodes" >&2
  exit 2
fi

# shellcheck disable=SC1091
source "$SLURM_SUBMIT_DIR/.venv/bin/activate"
export KD_RAY_ROOT="${KD_RAY_ROOT:-$SLURM_SUBMIT_DIR}"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# In the home folder, which all nodes see; made once.
ray get-auth-token --generate > /dev/null

# This script runs on the first node. Another Ray may run there if nodes are not exclusive.
head_ip="$(hostname --ip-address | awk '{print $1}')"
port=$((20000 + SLURM_JOB_ID % 10000))
address="$head_ip:$port"

start() { # NODE ROLE ARGUMENTS...: Ray on one node, until the job ends
  local node="$1" role="$2"
  shift 2
  srun --nodes=1 --ntasks=1 --nodelist="$node" --mem=0 --cpu-bind=none \
    ray start --block --num-cpus="$SLURM_CPUS_ON_NODE" \
    --labels="kd-ray-role=$role" --resources="{\"$role\": 8}" "$@" &
}

for index in "${!nodes[@]}"; do
  role=students
  if ((index < teacher_nodes)); then
    role=teachers
  fi
  if ((index == 0)); then
    start "${nodes[0]}" "$role" --head --node-ip-address="$head_ip" --port="$port" \
      --temp-dir="/tmp/kd-ray-$SLURM_JOB_ID" --dashboard-host=127.0.0.1
    head=$!
    until ray health-check --address="$address" > /dev/null 2>&1; do
      kill -0 "$head" || exit 1
      sleep 2
    done
  else
    start "${nodes[index]}" "$role" --address="$address"
  fi
done

# Slurm ends the other steps with this one.
RAY_ADDRESS="$address" "$@"
