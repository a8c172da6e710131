#!/usr/bin/env bash
# A SLURM cluster of this machine alone, on loopback, for as long as a command runs:
#
#   tests/cluster/slurm.sh snakemake --workflow-profile profiles/slurm --configfile config.yaml
#
# Needs Debian's slurm-wlm and munge. Everything it writes lies in a folder of its own, which goes with it; no
# service of the machine is touched. The node says that it has a GPU and plenty of memory, so that profiles run
# as they are; nothing holds jobs to what they ask for.
set -euo pipefail

for tool in munged slurmctld slurmd sbatch squeue; do
    if ! command -v "$tool" > /dev/null && [ ! -x "/usr/sbin/$tool" ]; then
        echo "slurm.sh: $tool is missing. Install it: apt-get install slurm-wlm munge" >&2
        exit 69
    fi
done
PATH=$PATH:/usr/sbin

folder=$(mktemp -d "${TMPDIR:-/tmp}/slurm.XXXXXX")
chmod 755 "$folder"
children=()
stop() {
    scancel --user "$(id -un)" 2> "$folder/scancel.log" || true
    for ((i = ${#children[@]} - 1; i >= 0; i--)); do
        kill "${children[i]}" 2>> "$folder/stop.log" || true
        wait "${children[i]}" 2>> "$folder/stop.log" || true
    done
    rm -rf "$folder"
}
trap stop EXIT

mkdir "$folder/state" "$folder/spool" "$folder/munge"
chmod 700 "$folder/munge"
(umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
# The socket's folder must be open to all, that of the key to its owner alone.
mkdir "$folder/socket"
chmod 755 "$folder/socket"
munged --foreground --force --key-file="$folder/munge/key" --seed-file="$folder/munge/seed" \
    --socket="$folder/socket/munge" --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" \
    > "$folder/munged.log" 2>&1 &
children+=($!)

host=$(hostname -s)
port=$((20000 + RANDOM % 20000))
cat > "$folder/slurm.conf" << EOF
ClusterName=atlasmith
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthInfo=socket=$folder/socket/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
MinJobAge=3600
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=${SLURM_TEST_CPUS:-64} RealMemory=1000000 Gres=gpu:1
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
echo "Name=gpu File=/dev/null" > "$folder/gres.conf"
export SLURM_CONF=$folder/slurm.conf
# A job doesn't inherit where the configuration is, and its srun asks for it.
mkdir "$folder/bin"
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" > "$folder/bin/srun"
chmod 755 "$folder/bin/srun"
export PATH=$folder/bin:$PATH

slurmctld -D > "$folder/slurmctld.log" 2>&1 &
children+=($!)
slurmd -D -N "$host" > "$folder/slurmd.log" 2>&1 &
children+=($!)
for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%t 2> "$folder/sinfo.log")" = idle ]; then
        "$@"
        exit
    fi
    sleep 1
done
echo "slurm.sh: no node came up within a minute" >&2
tail -n 20 "$folder"/*.log >&2
exit 70
