// Command apiserver is the control plane of an Orch cluster in one process: the
// API over a store on disk, and the controllers and the scheduler, which are
// clients of that API like any other, through a connection in memory.
//
// The one invariant: what is answered is on disk; the process can be killed at
// any time and started again on the same --data-dir.
//
// On its first start it makes the cluster's certificate authority in the data
// folder, and admin.pem, the key and certificate of the first user.
//
// It stops on SIGTERM and on interrupt: first controllers and scheduler, then
// the API, whose watches end so that agents look for the next server, then the
// store. Read next: run.go, then pkg/apiserver.
package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"orch/pkg/api"
	"orch/pkg/controller"
	"orch/pkg/controller/nodeipam"
	"orch/pkg/daemon"
	"orch/pkg/identity"
	"orch/pkg/store/boltstore"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(daemon.Main("apiserver", run)) }

// options are the flags.
type options struct {
	dataDir       string
	listen        string
	metricsListen string

	secretsKeyFile  string
	auditLog        string
	signingDuration time.Duration
	keepRevisions   int
	keepHistory     time.Duration
	nodeGrace       time.Duration
	leaseGrace      time.Duration
	notReady        int64
	unreachable     int64
	gossip          string
	advertise       string
	profile         string
	eventTTL        time.Duration
	clusterCIDR     netip.Prefix
	logger          *slog.Logger
}

func parse(args []string, stdout, stderr io.Writer) (options, error) {
	var o options
	f := daemon.NewFlags("apiserver", strings.Join(slices.Sorted(maps.Keys(commands)), ", "), stderr)
	f.StringVar(&o.dataDir, "data-dir", "", "folder for the store; made if it is not there (required)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:7480", "address of the API; the one chosen for port 0 is in the file `address` of the data folder")
	f.StringVar(&o.metricsListen, "metrics-listen", "127.0.0.1:0", "address of /metrics, /healthz and /debug/pprof, for client certificates of the group system:masters or system:monitoring; written to the file metrics-address; empty for none")
	f.StringVar(&o.auditLog, "audit-log-path", "", "file that takes a line for each write and each refusal (default: audit.log in the data folder)")
	f.DurationVar(&o.signingDuration, "cluster-signing-duration", identity.DefaultLifetime, "how long certificates are valid; those of nodes are renewed after two thirds of it")
	f.StringVar(&o.secretsKeyFile, "secrets-key-file", "", "keys that Secrets are encrypted with, a line each, the first for new ones (default: secrets.key in the data folder, made if it is not there)")
	f.IntVar(&o.keepRevisions, "keep-revisions", boltstore.DefaultKeepEntries, "the most revisions of history to keep; negative for no bound")
	f.DurationVar(&o.keepHistory, "keep-history", boltstore.DefaultKeepFor, "how long to keep history; negative for no bound")
	f.DurationVar(&o.nodeGrace, "node-monitor-grace-period", 40*time.Second, "how long a node may be silent before it counts as lost")
	f.DurationVar(&o.leaseGrace, "node-lease-grace-period", controller.DefaultLeaseGrace, "how long a node may be silent that the other members think dead; agents say every second that they live")
	f.Int64Var(&o.notReady, "default-not-ready-toleration-seconds", api.DefaultNotReadySeconds, "how long pods that do not say stay bound to a node that says that it is not ready")
	f.Int64Var(&o.unreachable, "default-unreachable-toleration-seconds", api.DefaultUnreachableSeconds, "how long pods that do not say stay bound to a node that counts as lost")
	f.StringVar(&o.gossip, "gossip-address", "", "address for the gossip with the agents about who lives, UDP and TCP (default: that of --listen, and the port three further)")
	f.StringVar(&o.advertise, "advertise-address", "", "address of this machine for other members of the gossip (default: that of --gossip-address, or, where that is all, the private one)")
	f.StringVar(&o.profile, "membership-profile", "lan", "how fast the members notice a death: local, lan or wan; none: no gossip, --node-monitor-grace-period decides")
	f.DurationVar(&o.eventTTL, "event-ttl", time.Hour, "how long events are kept")
	clusterCIDR := f.String("cluster-cidr", "", "what each node gets a subnet of for its pods, for agents with --network native: 10.244.0.0/16; empty: none")
	var err error
	if o.logger, err = daemon.Parse(f, version, args, stdout); err != nil {
		return o, err
	}
	switch {
	case o.dataDir == "":
		return o, errors.New("--data-dir is required: the folder that the store is kept in")
	case o.notReady < 0 || o.unreachable < 0:
		return o, errors.New("--default-not-ready-toleration-seconds and --default-unreachable-toleration-seconds: want 0 or more")
	case o.leaseGrace < time.Second || o.nodeGrace < o.leaseGrace:
		return o, fmt.Errorf("--node-lease-grace-period %v: want a second or more, and no more than --node-monitor-grace-period", o.leaseGrace)
	case o.signingDuration < time.Second:
		return o, fmt.Errorf("--cluster-signing-duration %v: want a second or more", o.signingDuration)
	}
	if err := o.checkGossip(); err != nil {
		return o, err
	}
	if *clusterCIDR != "" {
		if o.clusterCIDR, err = nodeipam.ParseClusterCIDR(*clusterCIDR); err != nil {
			return o, fmt.Errorf("--cluster-cidr %w", err)
		}
	}
	return o, nil
}
