// Revokes egress rules of a security group through Portcullis.
//
//     node dist/revoke-egress.js [--tls | --ca FILE] [--token-file FILE] [--key KEY] ADDRESS GROUP_ID [FILE]
//
// FILE holds a JSON list of IpPermissions, as the AWS CLI takes and prints them; without it they are read from stdin.
// --tls: the connection is encrypted, and the system's CAs vouch for the server; --ca: the CAs in this file do.
// --token-file: a JWT or another bearer token; without TLS it is sent to this machine only. --key: the idempotency key,
// the same for each attempt at one change; without it one is drawn.
// Exits 0 if EC2 took the request, 1 if the call failed, 2 if the program was called wrongly.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { isIPv4 } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { getCACertificates } from "node:tls";
import { parseArgs } from "node:util";

import * as grpc from "@grpc/grpc-js";
import {
  type DescMessage,
  type DescMethodUnary,
  type MessageShape,
  create,
  fromBinary,
  fromJson,
  toBinary,
  toJsonString,
} from "@bufbuild/protobuf";
import { type Any, anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import { OperationService, OperationStateSchema, SettledBySchema } from "./gen/portcullis/v1/operation_service_pb.js";
import {
  OutcomeSchema,
  type UnknownExplanation,
  UnknownPermissionsDetailSchema,
  UnknownReasonSchema,
} from "./gen/portcullis/v1/revocation_pb.js";
import {
  DescribeSecurityGroupRulesRequestSchema,
  type RevokeEgressRequest,
  RevokeEgressRequestSchema,
  type RevokeEgressResponse,
  SecurityGroupService,
} from "./gen/portcullis/v1/security_group_service_pb.js";
import { IpPermissionSchema, RevokedSecurityGroupRuleSchema } from "./gen/portcullis/v1/types_pb.js";

const DEADLINE_MS = 60_000;
// One attempt at a change: one that hangs leaves time for others.
const ATTEMPT_MS = 20_000;
const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 5_000;
// Calls on a connection on which nothing comes back any more fail with UNAVAILABLE after 15 seconds, and are tried again
// on another. Portcullis may be pinged that often; other servers close connections for it.
const KEEPALIVE = { "grpc.keepalive_time_ms": 10_000, "grpc.keepalive_timeout_ms": 5_000 };
const USAGE = "usage: revoke-egress [--tls | --ca FILE] [--token-file FILE] [--key KEY] ADDRESS GROUP_ID [FILE]";

interface Flags {
  tls?: boolean;
  ca?: string;
  "token-file"?: string;
  key?: string;
}

// What the program cannot work with, and why.
class CalledWrongly extends Error {}

async function main(): Promise<number> {
  const text = { type: "string" } as const;
  let values: Flags = {};
  let positionals: string[] = [];
  try {
    const options = { tls: { type: "boolean" }, ca: text, "token-file": text, key: text } as const;
    ({ values, positionals } = parseArgs({ allowPositionals: true, options }));
  } catch {
    // Then the usage says what can be given.
  }
  const [address, groupId, file, ...more] = positionals;
  if (address === undefined || groupId === undefined || more.length > 0) {
    console.error(USAGE);
    return 2;
  }
  const { key = randomUUID() } = values;
  let client: Portcullis | undefined;
  try {
    if (!isVisible(key)) throw new CalledWrongly("--key: not visible ASCII characters");
    client = new Portcullis(address, values);
    const request = readRequest(groupId, file);
    console.error(`idempotency-key: ${key}`);
    await run(client, request, key);
    return 0;
  } catch (error) {
    if (error instanceof CalledWrongly) {
      console.error(error.message);
      return 2;
    }
    if (!isServiceError(error)) throw error;
    printError(error);
    return 1;
  } finally {
    client?.close();
  }
}

function readRequest(groupId: string, file: string | undefined): RevokeEgressRequest {
  try {
    const permissions = JSON.parse(readFileSync(file ?? 0, "utf8"));
    return fromJson(RevokeEgressRequestSchema, { GroupId: groupId, IpPermissions: permissions });
  } catch (error) {
    throw new CalledWrongly(`the permissions cannot be read: ${error}`);
  }
}

async function run(client: Portcullis, request: RevokeEgressRequest, key: string): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;

  const filters = create(DescribeSecurityGroupRulesRequestSchema, {
    filters: [{ name: "group-id", values: [request.groupId ?? ""] }],
  });
  const answer = await client.call(SecurityGroupService.method.describeSecurityGroupRules, filters, deadline);
  console.log(`egress rules: ${answer.securityGroupRules.filter((rule) => rule.isEgress).length}`);

  const revoke = (keyed: grpc.Metadata, attempt: number) =>
    client.call(SecurityGroupService.method.revokeEgress, request, attempt, keyed);
  printResponse(await retryWithKey(key, revoke, deadline));

  const { operation } = await client.call(
    OperationService.method.getOperation,
    create(OperationService.method.getOperation.input, { idempotencyKey: key }),
    deadline,
  );
  const state = nameOf(OperationStateSchema, operation?.state ?? 0);
  console.log(`operation: ${state}, ${nameOf(SettledBySchema, operation?.settledBy ?? 0)}`);
}

// The transport is grpc-js; messages are those of protobuf-es, which knows the contract's JSON names.
class Portcullis extends grpc.Client {
  private readonly tokenFile: string | undefined;

  constructor(address: string, flags: Flags) {
    // gRPC itself retries what the service config names: the reads.
    const config = readFileSync(new URL("../../service-config.json", import.meta.url), "utf8");
    super(address, security(address, flags), { "grpc.service_config": config, ...KEEPALIVE });
    this.tokenFile = flags["token-file"];
  }

  call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    deadline: number,
    metadata = new grpc.Metadata(),
  ): Promise<MessageShape<O>> {
    // Read for each call: tokens are replaced while programs run.
    if (this.tokenFile !== undefined) metadata.set("authorization", `Bearer ${readToken(this.tokenFile)}`);
    return new Promise((resolve, reject) => {
      this.makeUnaryRequest(
        `/${method.parent.typeName}/${method.name}`,
        (message: MessageShape<I>) => Buffer.from(toBinary(method.input, message)),
        (bytes) => fromBinary(method.output, bytes),
        request,
        metadata,
        { deadline },
        (error, answer) => (error === null ? resolve(answer!) : reject(error)),
      );
    });
  }
}

function security(address: string, flags: Flags): grpc.ChannelCredentials {
  if (flags.ca !== undefined) {
    try {
      return grpc.credentials.createSsl(readFileSync(flags.ca));
    } catch (error) {
      throw new CalledWrongly(`--ca: ${error}`);
    }
  }
  // By itself Node.js trusts the CAs that it comes with, not the system's.
  if (flags.tls) return grpc.credentials.createSsl(Buffer.from(getCACertificates("system").join("\n")));
  if (flags["token-file"] !== undefined && !isLoopback(address)) {
    throw new CalledWrongly(`--token-file: the token would go to ${address} in plaintext; give --tls or --ca`);
  }
  return grpc.credentials.createInsecure();
}

function isLoopback(address: string): boolean {
  const host = address.slice(0, address.lastIndexOf(":")).toLowerCase();
  return host === "localhost" || host === "[::1]" || (isIPv4(host) && host.startsWith("127."));
}

function readToken(file: string): string {
  let token;
  try {
    token = readFileSync(file, "utf8").trim();
  } catch (error) {
    throw new CalledWrongly(`--token-file: ${error}`);
  }
  if (!isVisible(token)) throw new CalledWrongly(`--token-file: ${file}: not one token of visible ASCII characters`);
  return token;
}

function isVisible(text: string): boolean {
  return /^[!-~]+$/.test(text);
}

// Repeats a change, which must carry the key that is in its metadata: the server makes one effect of all attempts.
// Without a key a change must not be repeated.
async function retryWithKey<T>(
  key: string,
  call: (keyed: grpc.Metadata, deadline: number) => Promise<T>,
  deadline: number,
): Promise<T> {
  for (let backoff = FIRST_BACKOFF_MS; ; backoff = Math.min(2 * backoff, MAX_BACKOFF_MS)) {
    const keyed = new grpc.Metadata();
    keyed.set("idempotency-key", key);
    try {
      return await call(keyed, Math.min(Date.now() + ATTEMPT_MS, deadline));
    } catch (error) {
      const delay = isServiceError(error) ? retryDelay(error, backoff) : undefined;
      if (!isServiceError(error) || delay === undefined || Date.now() + delay >= deadline) throw error;
      console.error(`trying again: ${grpc.status[error.code]} ${reason(error)}`);
      await sleep(delay);
    }
  }
}

// The server's word; without one (it did not answer, or not in time) a backoff, with jitter. Undefined: not again.
function retryDelay(error: grpc.ServiceError, backoff: number): number | undefined {
  const [pushback] = error.metadata.get("grpc-retry-pushback-ms");
  if (pushback !== undefined) return /^\d+$/.test(String(pushback)) ? Number(pushback) : undefined;
  for (const detail of details(error)) {
    const info = anyUnpack(detail, RetryInfoSchema);
    if (info?.retryDelay !== undefined) return durationMs(info.retryDelay);
  }
  const unanswered = error.code === grpc.status.UNAVAILABLE || error.code === grpc.status.DEADLINE_EXCEEDED;
  return unanswered ? backoff * (0.8 + 0.4 * Math.random()) : undefined;
}

function isServiceError(error: unknown): error is grpc.ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}

function details(error: grpc.ServiceError): Any[] {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  return bytes instanceof Buffer ? fromBinary(StatusSchema, bytes).details : [];
}

function reason(error: grpc.ServiceError): string {
  return details(error).map((detail) => anyUnpack(detail, ErrorInfoSchema)?.reason).find((found) => found) ?? "";
}

function printResponse(response: RevokeEgressResponse): void {
  console.log(`outcome: ${nameOf(OutcomeSchema, response.outcome)}`);
  for (const rule of response.revokedSecurityGroupRules) {
    console.log(`revoked: ${toJsonString(RevokedSecurityGroupRuleSchema, rule)}`);
  }
  response.unknownExplanations.forEach(printUnknown);
  for (const warning of response.warnings) console.log(`warning: ${warning.message}`);
}

function printError(error: grpc.ServiceError): void {
  console.log(`status: ${grpc.status[error.code]}: ${error.details}`);
  for (const detail of details(error)) {
    const info = anyUnpack(detail, ErrorInfoSchema);
    if (info !== undefined) {
      console.log(`reason: ${info.reason}`);
      for (const key of Object.keys(info.metadata).sort()) console.log(`metadata: ${key}=${info.metadata[key]}`);
    }
    for (const violation of anyUnpack(detail, BadRequestSchema)?.fieldViolations ?? []) {
      console.log(`violation: ${violation.field}: ${violation.description}`);
    }
    const unknown = anyUnpack(detail, UnknownPermissionsDetailSchema);
    if (unknown !== undefined) {
      console.log(`unknown in all: ${unknown.total}`);
      unknown.unknownExplanations.forEach(printUnknown);
      if (unknown.truncated) console.log("the list was cut to fit into the status");
    }
  }
}

function printUnknown(explanation: UnknownExplanation): void {
  const { subject } = explanation;
  const text = subject.case === "ipPermission" ? toJsonString(IpPermissionSchema, subject.value) : (subject.value ?? "");
  console.log(`unknown: ${nameOf(UnknownReasonSchema, explanation.reason)} ${text}`);
}

function nameOf(type: { values: readonly { name: string; number: number }[] }, number: number): string {
  return type.values.find((value) => value.number === number)?.name ?? String(number);
}

process.exitCode = await main();
