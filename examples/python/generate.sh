#!/bin/sh
# Generates the client from the protos into ./gen. PYTHON: an interpreter that has requirements.txt installed.
set -eu
cd "$(dirname "$0")"
mkdir -p gen
"${PYTHON:-python3}" -m grpc_tools.protoc --proto_path=../../proto --python_out=gen --grpc_python_out=gen \
    portcullis/v1/types.proto portcullis/v1/revocation.proto portcullis/v1/security_group_service.proto \
    portcullis/v1/operation_service.proto
