#!/usr/bin/env bash
# A SLURM cluster of this one machine, for tests:  tests/slurm/node.sh FOLDER COMMAND...
# Runs COMMAND with a controller, a node and their authentication of its own, whose files lie in FOLDER, and ends them.
# Needs Debian's slurmctld, slurmd, slurm-client and munge, to be root, and a machine without a cluster of its own: the
# configuration must lie in /etc/slurm, for Snakemake's plugin hides the variable that could name another place. No
# accounting, no cgroups: it works in a container too. A job above the memory that it asked for is killed all the same.
set -euo pipefail
folder="$(realpath "$1")"
shift
mkdir -p "$folder"/{state,spool}
chmod 755 "$folder"
host="$(hostname -s)"
read -r controller node < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for each in sockets:
    each.bind(("", 0))
print(*(each.getsockname()[1] for each in sockets))')

head -c 128 /dev/urandom >"$folder/munge.key"
chmod 400 "$folder/munge.key"
config=/etc/slurm/slurm.conf
if [ -e "$config" ]; then
    echo "$config is there: this machine belongs to a cluster, or an earlier test was killed" >&2
    exit 1
fi
cat >"$config" <<CONFIG
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MinJobAge=3600
KillWait=2
ReturnToService=2
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024)) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
CONFIG

daemons=()
end() {
    scancel --user="$(id -un)" 2>/dev/null && sleep 3
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    rm -f "$config"
    wait
}
trap end EXIT
start() {
    "$@" >>"$folder/daemons.log" 2>&1 &
    daemons=("$!" "${daemons[@]}")
}
start munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
until [ -S "$folder/munge.socket" ]; do sleep 0.1; done
start slurmctld -D
start slurmd -D
for _ in $(seq 100); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && break
    sleep 0.2
done
if [ "$(sinfo --noheader --format=%T)" != idle ]; then
    echo "the node does not come up:" >&2
    tail -n 20 "$folder"/*.log >&2
    exit 1
fi
"$@"
