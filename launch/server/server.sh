#!/usr/bin/env bash
# A tracking server for a lab on one machine, without Docker: a PostgreSQL cluster of its own that only a socket in its
# folder reaches, artifacts in a folder, and in front of both `hrm-lab server`, which asks for a password.
#
#   launch/server/server.sh up       start what is not up yet, and wait until it answers
#   launch/server/server.sh down     stop all of it; nothing is lost
#   launch/server/server.sh status   what is up (exit status 1 where something is not)
#
# HRM_SERVER_DIR    folder for database, artifacts, passwords and logs (default /var/lib/hrm-lab for root, else
#                   ~/.local/share/hrm-lab-server)
# HRM_SERVER_HOST   address that it listens on (default 127.0.0.1, for a TLS proxy on this machine)
# HRM_SERVER_PORT   its port (default 5000)
# HRM_SERVER_NAMES  further names that it is called by, with commas: that of the proxy, for one
# HRM_LAB           the program (default: .venv/bin/hrm-lab of this checkout, else the one in PATH)
#
# Needs PostgreSQL (Debian: apt-get install --no-install-recommends postgresql) and `pip install 'hrm-lab[server]'`.
# Run by root, PostgreSQL runs as the user `postgres`; else as you.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ "$(id -u)" = 0 ]; then DEFAULT_DIR=/var/lib/hrm-lab; else DEFAULT_DIR=$HOME/.local/share/hrm-lab-server; fi
DIR=${HRM_SERVER_DIR:-$DEFAULT_DIR}
HOST=${HRM_SERVER_HOST:-127.0.0.1}
PORT=${HRM_SERVER_PORT:-5000}
NAMES=${HRM_SERVER_NAMES:-$(hostname)}
HRM_LAB=${HRM_LAB:-$HERE/.venv/bin/hrm-lab}
[ -x "$HRM_LAB" ] || HRM_LAB=$(command -v hrm-lab) || HRM_LAB=hrm-lab
BIN=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)   # Debian keeps it out of PATH
BIN=${BIN:-$(dirname "$(command -v pg_ctl || echo /usr/bin/pg_ctl)")}
DATA=$DIR/postgres/data SOCKET=$DIR/postgres/socket
PID=$DIR/server.pid LOG=$DIR/server.log
export PGPASSFILE=$DIR/pgpass PGHOST=$SOCKET PGUSER=mlflow PGDATABASE=mlflow

say() { echo "server: $*" >&2; }
fail() { say "error: $1"; say "  way out: $2"; exit 1; }
as_postgres() { if [ "$(id -u)" = 0 ]; then (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@"); else "$@"; fi; }
postgres_is_up() { as_postgres "$BIN/pg_ctl" status -D "$DATA" >/dev/null 2>&1; }
pid_is_alive() { [ -s "$PID" ] && tr '\0' ' ' < "/proc/$(cat "$PID")/cmdline" 2>/dev/null | grep -q ' server --backend '; }
answers() {
    timeout 3 bash -c "exec 3<>/dev/tcp/$CALLED/$PORT && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 && head -1 <&3 | grep -q ' 200 '" \
        2>/dev/null
}
CALLED=${HOST/#0.0.0.0/127.0.0.1}                # by this script
SHOWN=${HOST/#0.0.0.0/${NAMES%%,*}}              # by everybody else

make_database() {
    [ -d "$DATA" ] && return
    say "making a database in $DATA"
    local password rc=0; password=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
    (umask 077 && echo "*:*:*:mlflow:$password" > "$PGPASSFILE")
    mkdir -p "$DIR/postgres"
    [ "$(id -u)" != 0 ] || chown postgres: "$DIR/postgres"
    chmod 700 "$DIR/postgres"
    as_postgres mkdir -p "$SOCKET"
    # It gets its name when it is whole: what a start that was broken off has left is made anew.
    as_postgres rm -rf "$DATA.new"
    as_postgres sh -c "umask 077; cat > '$DIR/postgres/password'" <<< "$password"
    as_postgres "$BIN/initdb" -D "$DATA.new" -U mlflow --auth=scram-sha-256 --pwfile="$DIR/postgres/password" -E UTF8 \
        --locale=C.UTF-8 > "$DIR/initdb.log" || rc=$?
    rm "$DIR/postgres/password"
    [ $rc = 0 ] || fail "no database could be made" "read $DIR/initdb.log"
    as_postgres mv "$DATA.new" "$DATA"
}

start_database() {
    postgres_is_up && return
    as_postgres "$BIN/pg_ctl" start -D "$DATA" -w -t 60 -l "$DIR/postgres/log" \
        -o "-c listen_addresses= -c unix_socket_directories='$SOCKET'" >/dev/null \
        || fail "PostgreSQL does not start" "read $DIR/postgres/log"
    "$BIN/psql" -d postgres -tAc "select 1 from pg_database where datname = 'mlflow'" | grep -q 1 \
        || "$BIN/createdb" mlflow
}

start_server() {
    if ! pid_is_alive; then
        stop_server
        # In a session of its own, so that it lives on without this terminal.
        setsid "$HRM_LAB" server --backend "postgresql://mlflow@/mlflow?host=$SOCKET" --artifacts "$DIR/artifacts" \
            --outputs "$DIR" --host "$HOST" --port "$PORT" --allowed-hosts "$NAMES" </dev/null >> "$LOG" 2>&1 &
        echo $! > "$PID"
    fi
    for _ in $(seq 240); do
        answers && return
        kill -0 "$(cat "$PID")" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 5 "$LOG" >&2
    stop_server
    fail "the server does not answer on $HOST:$PORT" "read $LOG"
}

stop_server() { # it ends its own processes, and kills after 10 s what does not end
    [ -s "$PID" ] || return 0
    local pid; pid=$(cat "$PID")
    if pid_is_alive; then
        kill "$pid"
        for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    fi
    pkill -KILL -s "$pid" -f -- "--port $PORT" || true   # what is left where it was killed itself
    rm -f "$PID"
}

up() {
    [ -x "$BIN/initdb" ] || fail "PostgreSQL is not installed" "apt-get install --no-install-recommends postgresql"
    command -v "$HRM_LAB" >/dev/null || fail "no hrm-lab here" "make setup, or HRM_LAB=/path/to/hrm-lab"
    [ ${#SOCKET} -lt 85 ] || fail "HRM_SERVER_DIR is too long for a socket" "take a shorter one"
    mkdir -p "$DIR"
    as_postgres test -x "$DIR" || fail "the user postgres cannot enter $DIR" "HRM_SERVER_DIR below folders that all may enter"
    make_database
    start_database
    start_server
    say "up; logs in $LOG"
    say "export MLFLOW_TRACKING_URI=http://$SHOWN:$PORT MLFLOW_TRACKING_USERNAME=admin"
    say "export MLFLOW_TRACKING_PASSWORD=\$(cat $DIR/server/admin_password)"
}

down() {
    stop_server
    if postgres_is_up; then as_postgres "$BIN/pg_ctl" stop -D "$DATA" -m fast -w -t 60 >/dev/null; fi
    say "down"
}

status() {
    local rc=0
    postgres_is_up && say "PostgreSQL is up" || { say "PostgreSQL is down"; rc=1; }
    pid_is_alive && answers && say "the server answers on $HOST:$PORT" || { say "the server does not answer"; rc=1; }
    return $rc
}

case ${1:-} in
    up) up ;;
    down) down ;;
    status) status ;;
    *) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
