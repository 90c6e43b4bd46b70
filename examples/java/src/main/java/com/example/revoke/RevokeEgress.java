package com.example.revoke;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import portcullis.v1.Revocation.UnknownExplanation;
import portcullis.v1.Revocation.UnknownPermissionsDetail;
import portcullis.v1.SecurityGroupServiceGrpc;
import portcullis.v1.SecurityGroupServiceOuterClass.RevokeEgressRequest;
import portcullis.v1.SecurityGroupServiceOuterClass.RevokeEgressResponse;

/**
 * Revokes egress rules of a security group through Portcullis.
 *
 * <p>Arguments: ADDRESS GROUP_ID [FILE]. FILE holds a JSON list of IpPermissions, as the AWS CLI takes and prints
 * them; without it they are read from stdin. Exits 0 if EC2 took the request, 1 if the call failed, 2 if the program
 * was called wrongly.
 */
public final class RevokeEgress {
    private static final long DEADLINE_SECONDS = 30;

    private RevokeEgress() {}

    public static void main(String[] args) throws InterruptedException {
        if (args.length != 2 && args.length != 3) {
            System.err.println("usage: revoke-egress ADDRESS GROUP_ID [FILE]");
            System.exit(2);
        }
        RevokeEgressRequest request = null;
        try {
            request = readRequest(args);
        } catch (IOException error) {
            System.err.println("the permissions cannot be read: " + error.getMessage());
            System.exit(2);
        }
        ManagedChannel channel =
                Grpc.newChannelBuilder(args[0], InsecureChannelCredentials.create()).build();
        int exitCode = 0;
        try {
            printResponse(
                    SecurityGroupServiceGrpc.newBlockingStub(channel)
                            .withDeadlineAfter(DEADLINE_SECONDS, TimeUnit.SECONDS)
                            .revokeEgress(request));
        } catch (StatusRuntimeException error) {
            printError(error);
            exitCode = 1;
        } finally {
            channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
        }
        System.exit(exitCode);
    }

    private static RevokeEgressRequest readRequest(String[] args) throws IOException {
        String permissions =
                args.length == 3
                        ? Files.readString(Path.of(args[2]))
                        : new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
        RevokeEgressRequest.Builder request = RevokeEgressRequest.newBuilder();
        JsonFormat.parser().merge("{\"IpPermissions\": " + permissions + "}", request);
        return request.setGroupId(args[1]).build();
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
