// Revokes egress rules of a security group through Portcullis.
//
//	revoke-egress ADDRESS GROUP_ID [FILE]
//
// FILE holds a JSON list of IpPermissions, as the AWS CLI takes and prints them; without it they are read from stdin.
// Exits 0 if EC2 took the request, 1 if the call failed, 2 if the program was called wrongly.
package main

//go:generate buf generate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	portcullis "example.com/revoke-egress/gen/portcullis/v1"
)

const deadline = 30 * time.Second

func main() {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: revoke-egress ADDRESS GROUP_ID [FILE]")
		os.Exit(2)
	}
	request, err := readRequest(os.Args[2], os.Args[3:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "the permissions cannot be read:", err)
		os.Exit(2)
	}
	response, err := revoke(os.Args[1], request)
	if err != nil {
		printError(err)
		os.Exit(1)
	}
	printResponse(response)
}

func readRequest(groupID string, files []string) (*portcullis.RevokeEgressRequest, error) {
	input := io.Reader(os.Stdin)
	if len(files) == 1 {
		file, err := os.Open(files[0])
		if err != nil {
			return nil, err
		}
		defer file.Close()
		input = file
	}
	text, err := io.ReadAll(input)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{"GroupId": groupID, "IpPermissions": json.RawMessage(text)})
	if err != nil {
		return nil, err
	}
	request := &portcullis.RevokeEgressRequest{}
	return request, protojson.Unmarshal(body, request)
}

func revoke(address string, request *portcullis.RevokeEgressRequest) (*portcullis.RevokeEgressResponse, error) {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return portcullis.NewSecurityGroupServiceClient(connection).RevokeEgress(ctx, request)
}

func printResponse(response *portcullis.RevokeEgressResponse) {
	fmt.Println("outcome:", response.GetOutcome())
	for _, rule := range response.GetRevokedSecurityGroupRules() {
		fmt.Println("revoked:", toJSON(rule))
	}
	for _, explanation := range response.GetUnknownExplanations() {
		printUnknown(explanation)
	}
	for _, warning := range response.GetWarnings() {
		fmt.Println("warning:", warning.GetMessage())
	}
}

func printError(err error) {
	answer := status.Convert(err)
	// Go's own names of the codes are not gRPC's.
	fmt.Printf("status: %s: %s\n", code.Code(answer.Code()), answer.Message())
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Println("reason:", detail.GetReason())
			for _, key := range slices.Sorted(maps.Keys(detail.GetMetadata())) {
				fmt.Printf("metadata: %s=%s\n", key, detail.GetMetadata()[key])
			}
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				fmt.Printf("violation: %s: %s\n", violation.GetField(), violation.GetDescription())
			}
		case *portcullis.UnknownPermissionsDetail:
			fmt.Println("unknown in all:", detail.GetTotal())
			for _, explanation := range detail.GetUnknownExplanations() {
				printUnknown(explanation)
			}
			if detail.GetTruncated() {
				fmt.Println("the list was cut to fit into the status")
			}
		}
	}
}

func printUnknown(explanation *portcullis.UnknownExplanation) {
	subject := explanation.GetSecurityGroupRuleId()
	if permission := explanation.GetIpPermission(); permission != nil {
		subject = toJSON(permission)
	}
	fmt.Println("unknown:", explanation.GetReason(), subject)
}

func toJSON(message proto.Message) string {
	return protojson.MarshalOptions{}.Format(message)
}
