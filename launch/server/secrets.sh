#!/usr/bin/env bash
# Random passwords for compose.yaml, once; those that are there stay.
set -euo pipefail
cd "$(dirname "$0")"
(umask 077 && mkdir -p secrets)
for name in postgres_password objects_password; do
    # Readable by all within the folder, which only you may enter: containers read them as other users.
    [ -s "secrets/$name" ] || head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' > "secrets/$name"
    chmod 444 "secrets/$name"
done
echo "made $PWD/secrets/"
