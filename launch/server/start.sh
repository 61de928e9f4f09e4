#!/bin/sh
# The container's program: passwords from secret files into the environment, a bucket where there is none, and the server.
set -eu
PGPASSWORD=$(cat /run/secrets/postgres_password)
AWS_SECRET_ACCESS_KEY=$(cat /run/secrets/objects_password)
export PGPASSWORD AWS_SECRET_ACCESS_KEY
python - <<'PY'
import os

import boto3

client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
bucket = os.environ["ARTIFACTS"].removeprefix("s3://").split("/")[0]
if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
    client.create_bucket(Bucket=bucket)
PY
exec hrm-lab server --backend "$BACKEND" --artifacts "$ARTIFACTS" --outputs /srv/hrm-lab "$@"
