"""A caller that knows nothing of restarts: gRPC's own balancing and retries by the published service config.

    client.py GENERATED SERVICE_CONFIG ADDRESS...

Calls until its stdin ends, then prints one JSON object: how many calls there were, which failed, and the changes that
it was told are made. Until then it prints a line for every ten calls.
"""

import itertools
import json
import sys
import threading
import time
import uuid

import grpc

generated, service_config, *addresses = sys.argv[1:]
sys.path.insert(0, generated)
from portcullis.v1 import (  # noqa: E402
    operation_service_pb2 as operations,
    operation_service_pb2_grpc,
    security_group_service_pb2 as groups,
    security_group_service_pb2_grpc,
    types_pb2 as types,
)

THREADS = 6
DEADLINE_SECONDS = 30
# What a key makes safe to send again.
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED}
ATTEMPTS = 5


class Count:
    def __init__(self):
        self.lock = threading.Lock()
        self.calls = self.again = 0
        self.failed, self.changes = [], []

    def one_more(self):
        with self.lock:
            self.calls += 1
            if self.calls % 10 == 0:
                print(self.calls, flush=True)


def keyed(call, request, count):
    """A service config cannot see keys, so that changes are sent again here."""
    key = (("idempotency-key", str(uuid.uuid4())),)
    for attempt in itertools.count(1):
        try:
            return call(request, timeout=DEADLINE_SECONDS, metadata=key)
        except grpc.RpcError as error:
            if error.code() not in AGAIN or attempt == ATTEMPTS:
                raise
            with count.lock:
                count.again += 1
            time.sleep(0.1 * 2**attempt)


def work(number, channel, count, enough):
    service = security_group_service_pb2_grpc.SecurityGroupServiceStub(channel)
    ledger = operation_service_pb2_grpc.OperationServiceStub(channel)
    group = f"sg-{number + 1:017x}"
    of_group = [types.Filter(name="group-id", values=[group])]

    def once(name, call):
        count.one_more()
        try:
            return call()
        except grpc.RpcError as error:
            with count.lock:
                count.failed.append(f"{name}: {error.code().name}: {error.details()}")
            return None

    def changed(answer, action):
        if answer is not None:
            with count.lock:
                count.changes.append([action, answer.operation_id])
        return answer

    for round in itertools.count():
        if enough.is_set():
            return
        rule = round % 40
        permission = types.IpPermission(
            ip_protocol="tcp", from_port=443, to_port=443,
            ip_ranges=[types.IpRange(cidr_ip=f"10.0.{rule}.0/24")],
        )
        change = {"group_id": group, "ip_permissions": [permission]}
        once("describe", lambda: service.DescribeSecurityGroupRules(
            groups.DescribeSecurityGroupRulesRequest(filters=of_group), timeout=DEADLINE_SECONDS))
        gone = changed(once("revoke", lambda: keyed(
            service.RevokeEgress, groups.RevokeEgressRequest(**change), count)), "RevokeSecurityGroupEgress")
        if gone is not None:
            once("operation", lambda: ledger.GetOperation(
                operations.GetOperationRequest(operation_id=gone.operation_id), timeout=DEADLINE_SECONDS))
        # Without a key nothing is ever sent again, by anyone.
        changed(once("authorize", lambda: service.AuthorizeEgress(
            groups.AuthorizeEgressRequest(**change), timeout=DEADLINE_SECONDS)), "AuthorizeSecurityGroupEgress")


def main():
    with open(service_config, encoding="utf-8") as file:
        config = json.load(file)
    # Not part of the published one: it depends on how a client finds the replicas.
    config["loadBalancingConfig"] = [{"round_robin": {}}]
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", 1),
        # Else it is the list of addresses, which is no authority.
        ("grpc.default_authority", "portcullis"),
        # A restart here takes less than a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    count, enough = Count(), threading.Event()
    with grpc.insecure_channel("ipv4:" + ",".join(addresses), options=options) as channel:
        grpc.channel_ready_future(channel).result()
        threads = [
            threading.Thread(target=work, args=(number, channel, count, enough)) for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        enough.set()
        for thread in threads:
            thread.join()
    print(json.dumps({
        "calls": count.calls, "again": count.again, "failed": count.failed, "changes": count.changes,
    }), flush=True)


main()
