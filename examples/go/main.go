// Revokes egress rules of a security group through Portcullis.
//
//	revoke-egress [--tls | --ca FILE] [--token-file FILE] [--key KEY] ADDRESS GROUP_ID [FILE]
//
// FILE holds a JSON list of IpPermissions, as the AWS CLI takes and prints them; without it they are read from stdin.
// --tls: the connection is encrypted, and the system's CAs vouch for the server; --ca: the CAs in this file do.
// --token-file: a JWT or another bearer token; without TLS it is sent to this machine only. --key: the idempotency key,
// the same for each attempt at one change; without it one is drawn.
// Exits 0 if EC2 took the request, 1 if the call failed, 2 if the program was called wrongly.
package main

//go:generate buf generate
//go:generate cp ../service-config.json gen/service-config.json

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"os"
	"regexp"
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
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	portcullis "example.com/revoke-egress/gen/portcullis/v1"
)

const (
	deadline = 60 * time.Second
	// One attempt at a change: one that hangs leaves time for others.
	attempt      = 20 * time.Second
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// Calls on a connection on which nothing comes back any more fail with UNAVAILABLE after 15 seconds, and are tried
// again on another. Portcullis may be pinged that often; other servers close connections for it.
var pings = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}

// gRPC itself retries what the service config names: the reads.
//
//go:embed gen/service-config.json
var serviceConfig string

var (
	tls       = flag.Bool("tls", false, "TLS with the system's CAs")
	ca        = flag.String("ca", "", "TLS with the CAs in this file")
	tokenFile = flag.String("token-file", "", "a JWT or another bearer token")
	key       = flag.String("key", rand.Text(), "the idempotency key")
)

var visible = regexp.MustCompile("^[!-~]+$")

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr,
			"usage: revoke-egress [--tls | --ca FILE] [--token-file FILE] [--key KEY] ADDRESS GROUP_ID [FILE]")
	}
	flag.Parse()
	empty := false
	flag.Visit(func(given *flag.Flag) { empty = empty || given.Value.String() == "" })
	if empty || flag.NArg() != 2 && flag.NArg() != 3 {
		flag.Usage()
		os.Exit(2)
	}
	err := run(flag.Arg(0), flag.Arg(1), flag.Args()[2:])
	if _, called := status.FromError(err); !called {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err != nil {
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

func run(address, groupID string, files []string) error {
	if !visible.MatchString(*key) {
		return errors.New("--key: not visible ASCII characters")
	}
	connection, err := connect(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	request, err := readRequest(groupID, files)
	if err != nil {
		return fmt.Errorf("the permissions cannot be read: %w", err)
	}
	fmt.Fprintln(os.Stderr, "idempotency-key:", *key)
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

	revoke := func(keyed context.Context, trailer *metadata.MD) (*portcullis.RevokeEgressResponse, error) {
		return groups.RevokeEgress(keyed, request, grpc.Trailer(trailer))
	}
	response, err := retryWithKey(ctx, *key, revoke)
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
	switch {
	case *ca != "":
		var err error
		if security, err = credentials.NewClientTLSFromFile(*ca, ""); err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
	case *tls:
		security = credentials.NewClientTLSFromCert(nil, "")
	case *tokenFile != "" && !isLoopback(address):
		return nil, fmt.Errorf("--token-file: the token would go to %s in plaintext; give --tls or --ca", address)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(security),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(pings),
	}
	if *tokenFile != "" {
		options = append(options, grpc.WithUnaryInterceptor(withToken))
	}
	return grpc.NewClient(address, options...)
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback())
}

// withToken adds the token, which is read for each call: tokens are replaced while programs run.
func withToken(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn,
	call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	text, err := os.ReadFile(*tokenFile)
	if err != nil {
		return fmt.Errorf("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if !visible.MatchString(token) {
		return fmt.Errorf("--token-file: %s: not one token of visible ASCII characters", *tokenFile)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	return call(ctx, method, request, answer, connection, options...)
}

// retryWithKey repeats a change, which must carry the key that is in its context: the server makes one effect of all
// attempts. Without a key a change must not be repeated.
func retryWithKey[T any](ctx context.Context, key string,
	call func(context.Context, *metadata.MD) (T, error)) (T, error) {
	keyed := metadata.AppendToOutgoingContext(ctx, "idempotency-key", key)
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		var trailer metadata.MD
		bounded, cancel := context.WithTimeout(keyed, attempt)
		answer, err := call(bounded, &trailer)
		cancel()
		if _, called := status.FromError(err); err == nil || !called {
			return answer, err
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

// retryDelay is the server's word; without one (it did not answer, or not in time) a backoff, with jitter. False: not
// again.
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
	unanswered := failure.Code() == codes.Unavailable || failure.Code() == codes.DeadlineExceeded
	return time.Duration(float64(backoff) * (0.8 + 0.4*mathrand.Float64())), unanswered
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
