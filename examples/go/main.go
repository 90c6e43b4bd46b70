// Revokes egress rules of a security group through Portcullis.
//
//	revoke-egress [-ca FILE] [-token-file FILE] [-key KEY] ADDRESS GROUP_ID [FILE]
//
// FILE holds a JSON list of IpPermissions, as the AWS CLI takes and prints them; without it they are read from stdin.
// -ca: the CA of the server's certificate; without it the connection is not encrypted. -token-file: a JWT or another
// bearer token. -key: the idempotency key, the same for each attempt at one change; without it one is drawn.
// Exits 0 if EC2 took the request, 1 if the call failed, 2 if the program was called wrongly.
package main

//go:generate buf generate
//go:generate cp ../service-config.json gen/service-config.json

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	portcullis "example.com/revoke-egress/gen/portcullis/v1"
)

const (
	deadline     = 60 * time.Second
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// gRPC itself retries what the service config names: the reads.
//
//go:embed gen/service-config.json
var serviceConfig string

var (
	ca        = flag.String("ca", "", "the CA of the server's certificate")
	tokenFile = flag.String("token-file", "", "a JWT or another bearer token")
	key       = flag.String("key", rand.Text(), "the idempotency key")
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: revoke-egress [-ca FILE] [-token-file FILE] [-key KEY] ADDRESS GROUP_ID [FILE]")
	}
	flag.Parse()
	if flag.NArg() != 2 && flag.NArg() != 3 {
		flag.Usage()
		os.Exit(2)
	}
	request, err := readRequest(flag.Arg(1), flag.Args()[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "the permissions cannot be read:", err)
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "idempotency-key:", *key)
	if err := run(flag.Arg(0), request); err != nil {
		printError(err)
		os.Exit(1)
	}
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

func run(address string, request *portcullis.RevokeEgressRequest) error {
	connection, err := connect(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	groups := portcullis.NewSecurityGroupServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()

	answer, err := groups.DescribeSecurityGroupRules(ctx, &portcullis.DescribeSecurityGroupRulesRequest{
		Filters: []*portcullis.Filter{{Name: proto.String("group-id"), Values: []string{request.GetGroupId()}}},
	})
	if err != nil {
		return err
	}
	egress := 0
	for _, rule := range answer.GetSecurityGroupRules() {
		if rule.GetIsEgress() {
			egress++
		}
	}
	fmt.Println("egress rules:", egress)

	keyed := metadata.AppendToOutgoingContext(ctx, "idempotency-key", *key)
	response, err := retryWithKey(keyed, func(trailer *metadata.MD) (*portcullis.RevokeEgressResponse, error) {
		return groups.RevokeEgress(keyed, request, grpc.Trailer(trailer))
	})
	if err != nil {
		return err
	}
	printResponse(response)

	operations := portcullis.NewOperationServiceClient(connection)
	recorded, err := operations.GetOperation(ctx, &portcullis.GetOperationRequest{IdempotencyKey: *key})
	if err != nil {
		return err
	}
	fmt.Printf("operation: %s, %s\n", recorded.GetOperation().GetState(), recorded.GetOperation().GetSettledBy())
	return nil
}

func connect(address string) (*grpc.ClientConn, error) {
	security := insecure.NewCredentials()
	if *ca != "" {
		var err error
		if security, err = credentials.NewClientTLSFromFile(*ca, ""); err != nil {
			return nil, err
		}
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(security), grpc.WithDefaultServiceConfig(serviceConfig)}
	if *tokenFile != "" {
		options = append(options, grpc.WithPerRPCCredentials(token{}))
	}
	return grpc.NewClient(address, options...)
}

// token is read for each call: tokens are replaced while programs run.
type token struct{}

func (token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text, err := os.ReadFile(*tokenFile)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(text))}, nil
}

func (token) RequireTransportSecurity() bool { return true }

// retryWithKey repeats a change. Only for calls that carry an idempotency key: the server makes one effect of all
// attempts.
func retryWithKey[T any](ctx context.Context, call func(*metadata.MD) (T, error)) (T, error) {
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		var trailer metadata.MD
		answer, err := call(&trailer)
		if err == nil {
			return answer, nil
		}
		failure := status.Convert(err)
		delay, again := retryDelay(failure, trailer, backoff)
		end, _ := ctx.Deadline()
		if !again || delay >= time.Until(end) {
			return answer, err
		}
		fmt.Fprintln(os.Stderr, "trying again:", code.Code(failure.Code()), reason(failure))
		time.Sleep(delay)
	}
}

// retryDelay is the server's word; without one (it did not answer) a backoff, with jitter. False: not again.
func retryDelay(failure *status.Status, trailer metadata.MD, backoff time.Duration) (time.Duration, bool) {
	if pushback := trailer.Get("grpc-retry-pushback-ms"); len(pushback) > 0 {
		millis, err := strconv.ParseUint(pushback[0], 10, 32)
		return time.Duration(millis) * time.Millisecond, err == nil
	}
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return time.Duration(float64(backoff) * (0.8 + 0.4*mathrand.Float64())), failure.Code() == codes.Unavailable
}

func reason(failure *status.Status) string {
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
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
