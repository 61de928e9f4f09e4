#!/usr/bin/env bash
# A real SLURM cluster on one machine, for development and tests: slurmctld, slurmdbd with MariaDB, munge, and a slurmd
# for each node, every node with its own host name, address (a network namespace on a bridge) and fake GPUs.
#
#   cluster.sh up       install what is missing (Debian packages) and start what is not running; safe to repeat
#   cluster.sh down     stop all of it; `down --purge` removes its folder too
#   cluster.sh env      print the exports that point the SLURM commands at it:  eval "$(launch/slurm/cluster.sh env)"
#   cluster.sh status   nodes and queue
#   cluster.sh node stop|kill|cut|up N
#                       break node N (its slurmd ends and its jobs go on; everything on it dies; its link is cut), mend it
#
# Needs root, but no systemd and nothing in /etc: all of it lives in $HRM_CLUSTER_DIR. The nodes' GPUs are device files
# that hold nothing; SLURM counts them and sets CUDA_VISIBLE_DEVICES as on a real cluster.
set -euo pipefail

DIR=${HRM_CLUSTER_DIR:-/tmp/hrm-lab-cluster}   # short: unix sockets have paths of at most 107 characters
NODES=${HRM_CLUSTER_NODES:-6}
CPUS=${HRM_CLUSTER_CPUS:-4}                    # per node, pretended
MEMORY_MB=${HRM_CLUSTER_MEMORY_MB:-8000}       # per node, pretended
GPUS=${HRM_CLUSTER_GPUS:-2}                    # per node, fake
MAX_ARRAY=${HRM_CLUSTER_MAX_ARRAY:-1001}
NET=${HRM_CLUSTER_NET:-10.99.0}                # .1 is the controller, .11 and up are the nodes
BRIDGE=hrmlab0
CTLD_PORT=16817 DBD_PORT=16819 DB_PORT=16806 NODE_PORT=16900
CONTROLLER=$(hostname -s)

export SLURM_CONF=$DIR/etc/slurm.conf

say() { echo "cluster: $*" >&2; }
fail() { say "error: $1"; say "  way out: $2"; exit 1; }
pid_of() { tr -d '[:space:]' < "$1" 2>/dev/null; }
alive() { [ -s "$1" ] && [ "$(cat "/proc/$(pid_of "$1")/comm" 2>/dev/null)" = "$2" ]; }
node_names() { seq -f 'node%g' 1 "$NODES"; }

# Try a command until it succeeds; a misconfigured SLURM command can hang, so every try has its own limit.
until_ok() { # SECONDS COMMAND...
    local end=$((SECONDS + $1)); shift
    until timeout 5 "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

install_packages() {
    local missing=() pair
    for pair in slurmctld:slurmctld slurmd:slurmd sinfo:slurm-client munged:munge slurmdbd:slurmdbd \
                mariadbd:mariadb-server-core mariadb:mariadb-client-core ip:iproute2; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

make_network() {
    if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
        ip link add "$BRIDGE" type bridge || fail "no bridge can be made here" "run as root on a kernel with bridges and network namespaces"
        ip addr add "$NET.1/24" dev "$BRIDGE"
        ip link set "$BRIDGE" up
    fi
    {
        echo "127.0.0.1 localhost"
        echo "$NET.1 $CONTROLLER"
        for n in $(seq 1 "$NODES"); do echo "$NET.$((10 + n)) node$n"; done
    } > "$DIR/etc/hosts"
    for n in $(seq 1 "$NODES"); do
        ip netns list | grep -qw "hrmlab$n" && continue
        ip netns add "hrmlab$n"
        ip link add "hrmlabv$n" type veth peer name eth0 netns "hrmlab$n"
        ip link set "hrmlabv$n" master "$BRIDGE" up
        ip -n "hrmlab$n" link set lo up
        ip -n "hrmlab$n" addr add "$NET.$((10 + n))/24" dev eth0
        ip -n "hrmlab$n" link set eth0 up
        ip -n "hrmlab$n" route add default via "$NET.1"
    done
}

write_configuration() {
    for node in $(node_names); do
        mkdir -p "$DIR/dev/$node" "$DIR/spool/$node"
        for gpu in $(seq 0 $((GPUS - 1))); do
            # The number at the end of the device's name becomes CUDA_VISIBLE_DEVICES; a plain file would not do.
            [ -c "$DIR/dev/$node/nvidia$gpu" ] || mknod "$DIR/dev/$node/nvidia$gpu" c 1 3
        done
    done
    [ -s "$DIR/etc/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom > "$DIR/etc/munge.key")
    cat > "$DIR/etc/slurm.conf" <<CONF
ClusterName=hrmlab
SlurmctldHost=$CONTROLLER($NET.1)
SlurmctldPort=$CTLD_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits cred_expire before it may start again; the default of 120 s would make every test wait.
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd.%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
# Lets a node claim more cores than the machine has.
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
SlurmdTimeout=15
KillWait=5
MessageTimeout=15
JobRequeue=1
MaxArraySize=$MAX_ARRAY
MaxJobCount=10000
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# A preempted job gets its --signal, as submitit expects.
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$NET.1
AccountingStoragePort=$DBD_PORT
AccountingStoragePass=$DIR/run/munge.sock
AccountingStorageTRES=gres/gpu
JobCompType=jobcomp/none
$(for n in $(seq 1 "$NODES"); do
    echo "NodeName=node$n NodeHostname=node$n NodeAddr=$NET.$((10 + n)) Port=$NODE_PORT CPUs=$CPUS RealMemory=$MEMORY_MB Gres=gpu:$GPUS"
done)
PartitionName=main Nodes=node[1-$NODES] Default=YES MaxTime=1-0 DefaultTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=low Nodes=node[1-$NODES] MaxTime=1-0 DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15 State=UP
CONF
    for node in $(node_names); do echo "NodeName=$node Name=gpu File=$DIR/dev/$node/nvidia[0-$((GPUS - 1))]"; done > "$DIR/etc/gres.conf"
    echo "ConstrainDevices=no" > "$DIR/etc/cgroup.conf"
    (umask 077 && cat > "$DIR/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=$DIR/run/munge.sock
DbdHost=$CONTROLLER
DbdAddr=$NET.1
DbdPort=$DBD_PORT
SlurmUser=root
PidFile=$DIR/run/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=$NET.1
StoragePort=$DB_PORT
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
    )
}

start_munge() {
    alive "$DIR/run/munged.pid" munged && return
    rm -f "$DIR"/run/munge.sock*
    munged --force --socket="$DIR/run/munge.sock" --key-file="$DIR/etc/munge.key" --pid-file="$DIR/run/munged.pid" \
        --log-file="$DIR/log/munged.log" --seed-file="$DIR/run/munge.seed"
}

start_database() {
    local sql=(mariadb --no-defaults -uroot -S "$DIR/run/mysql.sock" -e)
    if [ ! -d "$DIR/mysql/mysql" ]; then
        mariadb-install-db --no-defaults --user=root --datadir="$DIR/mysql" --auth-root-authentication-method=normal \
            --skip-test-db --skip-name-resolve > "$DIR/log/mysql_install.log" 2>&1
    fi
    if ! alive "$DIR/run/mariadb.pid" mariadbd; then
        setsid mariadbd --no-defaults --user=root --datadir="$DIR/mysql" --socket="$DIR/run/mysql.sock" --port=$DB_PORT \
            --bind-address="$NET.1" --pid-file="$DIR/run/mariadb.pid" --log-error="$DIR/log/mariadb.log" \
            --innodb-buffer-pool-size=32M --innodb-log-file-size=8M --innodb-lock-wait-timeout=900 \
            --performance-schema=OFF --skip-name-resolve --skip-log-bin </dev/null >/dev/null 2>&1 &
        until_ok 30 "${sql[@]}" "select 1" || fail "MariaDB does not answer" "read $DIR/log/mariadb.log"
    fi
    "${sql[@]}" "create database if not exists slurm_acct_db;
        create user if not exists slurm@'%' identified by 'slurm'; grant all on slurm_acct_db.* to slurm@'%';"
    if ! alive "$DIR/run/slurmdbd.pid" slurmdbd; then
        SLURM_CONF=$SLURM_CONF slurmdbd
        until_ok 30 sacctmgr -n show cluster || fail "slurmdbd does not answer" "read $DIR/log/slurmdbd.log"
    fi
    timeout 10 sacctmgr -i add cluster hrmlab >/dev/null 2>&1 || true   # it is there after the first time
}

start_slurm() {
    if ! alive "$DIR/run/slurmctld.pid" slurmctld; then
        slurmctld
        until_ok 30 bash -c 'scontrol ping | grep -q UP' || fail "slurmctld does not answer" "read $DIR/log/slurmctld.log"
    fi
    for n in $(seq 1 "$NODES"); do
        alive "$DIR/run/slurmd.node$n.pid" slurmd || start_node "$n"
    done
    until_ok 40 bash -c "[ \$(sinfo -h -N -p main -t idle,mixed,alloc -o %N | sort -u | wc -l) -ge $NODES ]" \
        || fail "not all nodes came up: $(sinfo -h -N -p main -o '%N=%T' | paste -sd' ')" "read $DIR/log/slurmd.node*.log"
}

start_node() { # NUMBER: slurmd in the node's network, under the node's name and with the cluster's host table
    nsenter --net="/run/netns/hrmlab$1" unshare --uts --mount bash -c "
        hostname node$1 && mount --make-rprivate / && mount --bind '$DIR/etc/hosts' /etc/hosts && exec slurmd -N node$1"
}

stop() { # PIDFILE NAME
    alive "$1" "$2" || { rm -f "$1"; return 0; }
    local pid; pid=$(pid_of "$1")
    kill "$pid"
    for _ in $(seq 1 150); do
        kill -0 "$pid" 2>/dev/null || { rm -f "$1"; return 0; }
        sleep 0.1
    done
    say "$2 ($pid) does not stop; killing it"
    kill -9 "$pid"
    rm -f "$1"
}

up() {
    [ "$(id -u)" = 0 ] || fail "the cluster needs root" "run as root, or in a container where you are"
    [ $((${#DIR} + 15)) -lt 107 ] || fail "HRM_CLUSTER_DIR is too long for a socket" "take a shorter one"
    local started=$SECONDS
    install_packages
    mkdir -p "$DIR"/{etc,state,spool,log,run,dev}
    make_network
    [ -e "$DIR/run/slurmctld.pid" ] || write_configuration
    start_munge
    start_database
    start_slurm
    say "$NODES nodes are up after $((SECONDS - started)) s;  eval \"\$($0 env)\"  points the SLURM commands at them"
}

down() {
    if alive "$DIR/run/slurmctld.pid" slurmctld; then
        timeout 10 scancel --user=root >/dev/null 2>&1 || true
        until_ok 5 bash -c '[ -z "$(squeue -h)" ]' || true
    fi
    # Together: a controller whose nodes have gone first waits for them.
    for file in "$DIR"/run/slurmd.node*.pid; do [ -e "$file" ] && stop "$file" slurmd & done
    stop "$DIR/run/slurmctld.pid" slurmctld &
    wait
    stop "$DIR/run/slurmdbd.pid" slurmdbd
    stop "$DIR/run/mariadb.pid" mariadbd
    stop "$DIR/run/munged.pid" munged
    for name in $(ip netns list 2>/dev/null | awk '/^hrmlab/ {print $1}'); do
        ip netns del "$name"
        ip link del "hrmlabv${name#hrmlab}" 2>/dev/null || true
    done
    ip link del "$BRIDGE" 2>/dev/null || true
    [ "${1:-}" = --purge ] && rm -rf "$DIR"
    say "down"
}

node() { # VERB NUMBER
    local pids; pids=$(ip netns pids "hrmlab$2" 2>/dev/null) || fail "no node $2" "one of 1 to $NODES"
    case $1 in
        stop) kill -9 "$(pid_of "$DIR/run/slurmd.node$2.pid")" ;;
        kill) xargs -r kill -9 <<< "$pids" || true ;;  # one of them may have ended by itself
        cut) ip link set "hrmlabv$2" down ;;
        up)
            ip link set "hrmlabv$2" up
            alive "$DIR/run/slurmd.node$2.pid" slurmd || start_node "$2"
            scontrol update "nodename=node$2" state=resume 2>/dev/null || true   # refused where it is not down
            until_ok 60 bash -c "sinfo -h -n node$2 -p main -t idle,mixed,alloc -o %N | grep -q node$2" \
                || fail "node$2 does not come back: $(sinfo -h -n "node$2" -p main -o %T)" "read $DIR/log/slurmd.node$2.log"
            ;;
        *) fail "node $1?" "stop, kill, cut or up" ;;
    esac
}

case ${1:-} in
    up) up ;;
    down) down "${2:-}" ;;
    env) echo "export SLURM_CONF=$SLURM_CONF HRM_CLUSTER_DIR=$DIR" ;;
    status) sinfo && squeue ;;
    node) node "${2:-}" "${3:-}" ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
