// Command nodeagent keeps the pods of one node: it takes them from the API
// server and runs their containers on an engine.
//
// The one invariant: it owns nothing but the containers that carry its cluster's
// and its node's label, and those outlive it. Killed and started again, it takes
// up what runs. Who it is stands in the certificate of its data folder, which it
// gets once for a token, and renews by itself. `nodeagent reset` removes all of it.
//
// It stops on SIGTERM and on interrupt. Read next: run.go, join.go, reset.go, then
// pkg/agent.
package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"orch/pkg/agent/eviction"
	"orch/pkg/api"
	"orch/pkg/daemon"
	"orch/pkg/identity"
	"orch/pkg/membership"
	"orch/pkg/network/native"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(daemon.Main("nodeagent", run)) }

// options are the flags.
type options struct {
	dataDir       string
	server        string
	join          string
	token         string
	nodeName      string
	runtime       string
	engine        string
	network       string
	routes        string
	listen        string
	advertise     string
	gossip        string
	metricsListen string
	capacity      map[string]string
	labels        map[string]string
	reserved      map[string]string
	thresholds    []eviction.Threshold
	transition    time.Duration
	podMaxPIDs    int64
	logger        *slog.Logger
}

func parse(args []string, stdout, stderr io.Writer) (options, error) {
	var o options
	host, _ := os.Hostname() // the flag is there where the machine has no name
	f := daemon.NewFlags("nodeagent", "reset", stderr)
	f.StringVar(&o.dataDir, "data-dir", "", "folder for the node's key and certificate and the volumes of its pods, which the engine has to see under the same path; made if it is not there (required)")
	f.StringVar(&o.server, "server", "127.0.0.1:7480", "address of the API server")
	f.StringVar(&o.join, "join", "", "address of the API server, to join its cluster first, with --token, where this machine has not yet")
	f.StringVar(&o.token, "token", "", "what 'apiserver token create' has printed; used as long as this machine has no certificate that is believed")
	tokenFile := f.String("token-file", "", "file with the token, which others cannot see in the list of processes")
	f.StringVar(&o.nodeName, "node-name", strings.ToLower(host), "name of the node; one agent per name")
	f.StringVar(&o.runtime, "runtime", "docker", "docker, or fake for simulated containers")
	f.StringVar(&o.engine, "docker-host", "", "address of the Docker engine; empty: DOCKER_HOST, or Docker's own default")
	f.StringVar(&o.network, "network", networkDocker, "docker for the engine's own network, or native for one in which pods reach pods on other machines (Linux, root, and an API server with --cluster-cidr)")
	f.StringVar(&o.routes, "network-routes", native.HostGW, "how the native network reaches the pods of other machines: host-gw by routes where those are neighbours, and vxlan where not; vxlan always")
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "address at which logs and exec are served to the API server")
	f.StringVar(&o.advertise, "advertise-address", "", "address of this node for others; empty: that of --listen, or, where that is all addresses, the one that the way to the API server begins at")
	f.StringVar(&o.gossip, "gossip-address", "", "address for the gossip with other machines about who lives, UDP and TCP (default: that of --listen, and the next port)")
	f.StringVar(&o.metricsListen, "metrics-listen", "", "address of /metrics, /healthz and /debug/pprof, for client certificates of the group system:masters or system:monitoring; empty for none")
	f.StringToStringVar(&o.capacity, "capacity", nil, "what the node offers instead of the whole machine, for example cpu=2,memory=4Gi,pods=110")
	f.StringToStringVar(&o.labels, "node-labels", nil, "labels of the node, for example zone=a,disk=ssd")
	var systemReserved, kubeReserved map[string]string
	f.StringToStringVar(&systemReserved, "system-reserved", nil, "what of the capacity the machine's own programs need, for example cpu=200m,memory=500Mi")
	f.StringToStringVar(&kubeReserved, "kube-reserved", nil, "what of the capacity this agent and the engine need")
	evictionHard := f.String("eviction-hard", eviction.Default, "when pods have to go, so that something is left; empty or 0% for never")
	f.DurationVar(&o.transition, "eviction-pressure-transition-period", 5*time.Minute, "how long the node says at least that it is under pressure")
	f.Int64Var(&o.podMaxPIDs, "pod-max-pids", -1, "the most processes and threads of a container; -1 is the engine's default")
	var err error
	if o.logger, err = daemon.Parse(f, version, args, stdout); err != nil {
		return o, err
	}
	switch {
	case o.nodeName == "":
		return o, errors.New("--node-name is required: the machine has no host name to take instead")
	case o.dataDir == "":
		return o, errors.New("--data-dir is required: the folder that the node's key is kept in")
	case o.token != "" && *tokenFile != "":
		return o, errors.New("--token and --token-file: want one of them")
	case o.network != networkDocker && o.network != networkNative:
		return o, fmt.Errorf("--network %q: want docker or native", o.network)
	case o.network == networkNative && o.runtime != "docker":
		return o, errors.New("--network native: simulated containers have no network; it needs --runtime docker")
	case o.runtime != "docker" && o.runtime != "fake":
		return o, fmt.Errorf("--runtime %q: want docker or fake", o.runtime)
	}
	if *tokenFile != "" {
		text, err := os.ReadFile(*tokenFile)
		// Whoever has joined may have removed it.
		if _, statErr := os.Stat(filepath.Join(o.dataDir, pairFile)); err != nil && statErr != nil {
			return o, fmt.Errorf("--token-file: %w", err)
		}
		o.token = strings.TrimSpace(string(text))
	}
	if o.token != "" {
		if _, _, err := identity.SplitToken(o.token); err != nil {
			return o, fmt.Errorf("--token: %w", err)
		}
	}
	if o.gossip == "" {
		gossip, err := membership.Beside(o.listen, 1)
		if err != nil {
			return o, fmt.Errorf("--listen: %w", err)
		}
		o.gossip = gossip
	}
	if o.join != "" {
		o.server = o.join
	}
	for resource, quantity := range o.capacity {
		if _, err := api.ParseQuantity(quantity); err != nil {
			return o, fmt.Errorf("--capacity %s=%s: want a quantity such as 2, 500m or 4Gi", resource, quantity)
		}
	}
	o.reserved = map[string]string{}
	for flag, list := range map[string]map[string]string{"system-reserved": systemReserved, "kube-reserved": kubeReserved} {
		if err := reserve(o.reserved, list); err != nil {
			return o, fmt.Errorf("--%s %w", flag, err)
		}
	}
	if o.thresholds, err = eviction.Parse(*evictionHard); err != nil {
		return o, fmt.Errorf("--eviction-hard: %w", err)
	}
	return o, nil
}

// reserve adds a list of resources to a sum.
func reserve(sum, list map[string]string) error {
	for resource, text := range list {
		q, err := api.ParseQuantity(text)
		switch {
		case resource != api.ResourceCPU && resource != api.ResourceMemory && resource != api.ResourceEphemeralStorage:
			return fmt.Errorf("%s: cannot reserve %q resource: there are cpu, memory and ephemeral-storage", resource, resource)
		case err != nil || q.Sign() < 0:
			return fmt.Errorf("%s=%s: want a quantity such as 200m or 500Mi", resource, text)
		}
		if before, err := api.ParseQuantity(sum[resource]); err == nil {
			q = before.Add(q)
		}
		sum[resource] = q.String()
	}
	return nil
}
