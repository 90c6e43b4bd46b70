package com.example.revoke;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.util.Durations;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import portcullis.v1.OperationServiceGrpc;
import portcullis.v1.OperationServiceOuterClass.GetOperationRequest;
import portcullis.v1.OperationServiceOuterClass.Operation;
import portcullis.v1.Revocation.UnknownExplanation;
import portcullis.v1.Revocation.UnknownPermissionsDetail;
import portcullis.v1.SecurityGroupServiceGrpc;
import portcullis.v1.SecurityGroupServiceOuterClass.DescribeSecurityGroupRulesRequest;
import portcullis.v1.SecurityGroupServiceOuterClass.RevokeEgressRequest;
import portcullis.v1.SecurityGroupServiceOuterClass.RevokeEgressResponse;
import portcullis.v1.Types.Filter;
import portcullis.v1.Types.SecurityGroupRule;

/**
 * Revokes egress rules of a security group through Portcullis.
 *
 * <p>Arguments: [--tls | --ca FILE] [--token-file FILE] [--key KEY] ADDRESS GROUP_ID [FILE]. FILE holds a JSON list of
 * IpPermissions, as the AWS CLI takes and prints them; without it they are read from stdin. --tls: the connection is
 * encrypted, and the system's CAs vouch for the server; --ca: the CAs in this file do. --token-file: a JWT or another
 * bearer token; without TLS it is sent to this machine only. --key: the idempotency key, the same for each attempt at
 * one change; without it one is drawn. Exits 0 if EC2 took the request, 1 if the call failed, 2 if the program was
 * called wrongly.
 */
public final class RevokeEgress {
    private static final Duration DEADLINE = Duration.ofSeconds(60);
    /** One attempt at a change: one that hangs leaves time for others. */
    private static final Duration ATTEMPT = Duration.ofSeconds(20);
    /**
     * Calls on a connection on which nothing comes back any more fail with UNAVAILABLE after 15 seconds, and are tried
     * again on another. Portcullis may be pinged that often; other servers close connections for it.
     */
    private static final Duration PING_EVERY = Duration.ofSeconds(10);
    private static final Duration PING_TIMEOUT = Duration.ofSeconds(5);
    private static final long FIRST_BACKOFF_MS = 100;
    private static final long MAX_BACKOFF_MS = 5_000;
    private static final Metadata.Key<String> AUTHORIZATION = key("authorization");
    private static final Metadata.Key<String> IDEMPOTENCY_KEY = key("idempotency-key");
    private static final Metadata.Key<String> PUSHBACK = key("grpc-retry-pushback-ms");

    /** What the program cannot work with, and why. */
    private static final class CalledWrongly extends RuntimeException {
        CalledWrongly(String why) {
            super(why);
        }
    }

    private final ManagedChannel channel;
    private final String tokenFile;
    private final long end = System.nanoTime() + DEADLINE.toNanos();

    private RevokeEgress(ManagedChannel channel, String tokenFile) {
        this.channel = channel;
        this.tokenFile = tokenFile;
    }

    public static void main(String[] args) throws IOException, InterruptedException {
        Map<String, String> flags = new HashMap<>();
        int at = 0;
        while (at < args.length && args[at].startsWith("--")) {
            if (args[at].equals("--tls")) {
                flags.put(args[at++], "");
            } else if (at + 1 < args.length && List.of("--ca", "--token-file", "--key").contains(args[at])) {
                flags.put(args[at], args[at + 1]);
                at += 2;
            } else {
                break;
            }
        }
        List<String> given = List.of(args).subList(at, args.length);
        if (given.size() != 2 && given.size() != 3 || given.get(0).startsWith("--")) {
            System.err.println("usage: revoke-egress [--tls | --ca FILE] [--token-file FILE] [--key KEY]"
                    + " ADDRESS GROUP_ID [FILE]");
            System.exit(2);
        }
        System.exit(call(flags, given));
    }

    /** Returns the exit code. */
    private static int call(Map<String, String> flags, List<String> given) throws IOException, InterruptedException {
        ManagedChannel channel = null;
        try {
            String key = flags.getOrDefault("--key", UUID.randomUUID().toString());
            if (!isVisible(key)) {
                throw new CalledWrongly("--key: not visible ASCII characters");
            }
            channel = connect(given.get(0), flags);
            RevokeEgressRequest request = readRequest(given);
            System.err.println("idempotency-key: " + key);
            new RevokeEgress(channel, flags.get("--token-file")).run(request, key);
            return 0;
        } catch (CalledWrongly error) {
            System.err.println(error.getMessage());
            return 2;
        } catch (StatusRuntimeException error) {
            printError(error);
            return 1;
        } finally {
            if (channel != null) {
                channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
            }
        }
    }

    private static RevokeEgressRequest readRequest(List<String> given) {
        RevokeEgressRequest.Builder request = RevokeEgressRequest.newBuilder();
        try {
            String permissions =
                    given.size() == 3
                            ? Files.readString(Path.of(given.get(2)))
                            : new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
            JsonFormat.parser().merge("{\"IpPermissions\": " + permissions + "}", request);
        } catch (IOException error) {
            throw new CalledWrongly("the permissions cannot be read: " + error.getMessage());
        }
        return request.setGroupId(given.get(1)).build();
    }

    private static ManagedChannel connect(String address, Map<String, String> flags) throws IOException {
        ChannelCredentials security;
        if (flags.containsKey("--ca")) {
            try {
                security = TlsChannelCredentials.newBuilder().trustManager(new File(flags.get("--ca"))).build();
            } catch (IOException error) {
                throw new CalledWrongly("--ca: " + error.getMessage());
            }
        } else if (flags.containsKey("--tls")) {
            // The JDK's CAs, which a distribution's JDK takes from the system.
            security = TlsChannelCredentials.create();
        } else if (flags.containsKey("--token-file") && !isLoopback(address)) {
            throw new CalledWrongly(
                    "--token-file: the token would go to " + address + " in plaintext; give --tls or --ca");
        } else {
            security = InsecureChannelCredentials.create();
        }
        return Grpc.newChannelBuilder(address, security)
                .defaultServiceConfig(serviceConfig())
                .enableRetry()
                .keepAliveTime(PING_EVERY.toSeconds(), TimeUnit.SECONDS)
                .keepAliveTimeout(PING_TIMEOUT.toSeconds(), TimeUnit.SECONDS)
                .build();
    }

    private static boolean isLoopback(String address) {
        return address.matches("(?i)(localhost|127(\\.\\d{1,3}){3}|\\[::1\\]):\\d+");
    }

    private static boolean isVisible(String text) {
        return text.matches("[!-~]+");
    }

    /** gRPC itself retries what the service config names: the reads. */
    private static Map<String, ?> serviceConfig() throws IOException {
        try (InputStream file = RevokeEgress.class.getResourceAsStream("/service-config.json")) {
            String text = new String(file.readAllBytes(), StandardCharsets.UTF_8);
            return new Gson().fromJson(text, new TypeToken<Map<String, Object>>() {}.getType());
        }
    }

    private void run(RevokeEgressRequest request, String key) throws InterruptedException {
        DescribeSecurityGroupRulesRequest filters =
                DescribeSecurityGroupRulesRequest.newBuilder()
                        .addFilters(Filter.newBuilder().setName("group-id").addValues(request.getGroupId()))
                        .build();
        long egress =
                with(SecurityGroupServiceGrpc.newBlockingStub(channel), new Metadata(), DEADLINE)
                        .describeSecurityGroupRules(filters)
                        .getSecurityGroupRulesList()
                        .stream()
                        .filter(SecurityGroupRule::getIsEgress)
                        .count();
        System.out.println("egress rules: " + egress);

        printResponse(
                retryWithKey(
                        key,
                        keyed ->
                                with(SecurityGroupServiceGrpc.newBlockingStub(channel), keyed, ATTEMPT)
                                        .revokeEgress(request)));

        Operation operation =
                with(OperationServiceGrpc.newBlockingStub(channel), new Metadata(), DEADLINE)
                        .getOperation(GetOperationRequest.newBuilder().setIdempotencyKey(key).build())
                        .getOperation();
        System.out.println("operation: " + operation.getState() + ", " + operation.getSettledBy());
    }

    /**
     * The stub with this metadata, the token, which is read for each call (they are replaced while programs run), and
     * as much time as it may take of what is left.
     */
    private <S extends AbstractStub<S>> S with(S stub, Metadata metadata, Duration most) {
        if (tokenFile != null) {
            String token;
            try {
                token = Files.readString(Path.of(tokenFile)).strip();
            } catch (IOException error) {
                throw new CalledWrongly("--token-file: " + error);
            }
            if (!isVisible(token)) {
                throw new CalledWrongly("--token-file: " + tokenFile + ": not one token of visible ASCII characters");
            }
            metadata.put(AUTHORIZATION, "Bearer " + token);
        }
        return stub.withDeadlineAfter(Math.min(end - System.nanoTime(), most.toNanos()), TimeUnit.NANOSECONDS)
                .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata));
    }

    /**
     * Repeats a change, which must carry the key that is in its metadata: the server makes one effect of all attempts.
     * Without a key a change must not be repeated.
     */
    private <T> T retryWithKey(String key, Function<Metadata, T> call) throws InterruptedException {
        for (long backoff = FIRST_BACKOFF_MS; ; backoff = Math.min(2 * backoff, MAX_BACKOFF_MS)) {
            Metadata keyed = new Metadata();
            keyed.put(IDEMPOTENCY_KEY, key);
            try {
                return call.apply(keyed);
            } catch (StatusRuntimeException error) {
                OptionalLong delay = retryDelay(error, backoff);
                long left = TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime());
                if (delay.isEmpty() || delay.getAsLong() >= left) {
                    throw error;
                }
                System.err.println("trying again: " + error.getStatus().getCode() + " " + reason(error));
                Thread.sleep(delay.getAsLong());
            }
        }
    }

    /** The server's word; without one (it did not answer, or not in time) a backoff, with jitter. Empty: not again. */
    private static OptionalLong retryDelay(StatusRuntimeException error, long backoff) {
        String pushback = error.getTrailers() == null ? null : error.getTrailers().get(PUSHBACK);
        if (pushback != null) {
            return pushback.matches("\\d{1,9}") ? OptionalLong.of(Long.parseLong(pushback)) : OptionalLong.empty();
        }
        for (RetryInfo info : details(error, RetryInfo.class)) {
            return OptionalLong.of(Durations.toMillis(info.getRetryDelay()));
        }
        return switch (error.getStatus().getCode()) {
            case UNAVAILABLE, DEADLINE_EXCEEDED ->
                    OptionalLong.of((long) (backoff * ThreadLocalRandom.current().nextDouble(0.8, 1.2)));
            default -> OptionalLong.empty();
        };
    }

    private static String reason(StatusRuntimeException error) {
        return details(error, ErrorInfo.class).stream().findFirst().map(ErrorInfo::getReason).orElse("");
    }

    private static <M extends Message> List<M> details(StatusRuntimeException error, Class<M> type) {
        List<M> found = new ArrayList<>();
        com.google.rpc.Status status = StatusProto.fromThrowable(error);
        for (Any detail : status == null ? List.<Any>of() : status.getDetailsList()) {
            try {
                if (detail.is(type)) {
                    found.add(detail.unpack(type));
                }
            } catch (InvalidProtocolBufferException unreadable) {
                // Then the server's word cannot be had.
            }
        }
        return found;
    }

    private static Metadata.Key<String> key(String name) {
        return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
    }

    private static void printResponse(RevokeEgressResponse response) {
        System.out.println("outcome: " + response.getOutcome());
        response.getRevokedSecurityGroupRulesList()
                .forEach(rule -> System.out.println("revoked: " + toJson(rule)));
        response.getUnknownExplanationsList().forEach(RevokeEgress::printUnknown);
        response.getWarningsList()
                .forEach(warning -> System.out.println("warning: " + warning.getMessage()));
    }

    private static void printError(StatusRuntimeException error) {
        io.grpc.Status status = error.getStatus();
        System.out.println("status: " + status.getCode() + ": " + status.getDescription());
        com.google.rpc.Status details = StatusProto.fromThrowable(error);
        if (details == null) {
            return;
        }
        for (Any detail : details.getDetailsList()) {
            try {
                printDetail(detail);
            } catch (InvalidProtocolBufferException unreadable) {
                System.out.println("a detail cannot be read: " + unreadable.getMessage());
            }
        }
    }

    private static void printDetail(Any detail) throws InvalidProtocolBufferException {
        if (detail.is(ErrorInfo.class)) {
            ErrorInfo info = detail.unpack(ErrorInfo.class);
            System.out.println("reason: " + info.getReason());
            new TreeMap<>(info.getMetadataMap())
                    .forEach((key, value) -> System.out.println("metadata: " + key + "=" + value));
        } else if (detail.is(BadRequest.class)) {
            for (BadRequest.FieldViolation violation :
                    detail.unpack(BadRequest.class).getFieldViolationsList()) {
                System.out.println(
                        "violation: " + violation.getField() + ": " + violation.getDescription());
            }
        } else if (detail.is(UnknownPermissionsDetail.class)) {
            UnknownPermissionsDetail unknown = detail.unpack(UnknownPermissionsDetail.class);
            System.out.println("unknown in all: " + unknown.getTotal());
            unknown.getUnknownExplanationsList().forEach(RevokeEgress::printUnknown);
            if (unknown.getTruncated()) {
                System.out.println("the list was cut to fit into the status");
            }
        }
    }

    private static void printUnknown(UnknownExplanation explanation) {
        String subject =
                explanation.hasIpPermission()
                        ? toJson(explanation.getIpPermission())
                        : explanation.getSecurityGroupRuleId();
        System.out.println("unknown: " + explanation.getReason() + " " + subject);
    }

    private static String toJson(MessageOrBuilder message) {
        try {
            return JsonFormat.printer().omittingInsignificantWhitespace().print(message);
        } catch (InvalidProtocolBufferException error) {
            throw new IllegalArgumentException(error);
        }
    }
}
