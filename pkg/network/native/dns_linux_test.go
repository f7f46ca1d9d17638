package native

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"orch/pkg/container"
)

func TestNameServersThatOnlyTheMachineReachesAreLeftOut(t *testing.T) {
	for _, tt := range []struct {
		name, text  string
		want        container.DNS
		unreachable bool
	}{
		{"a usual one", "# made by hand\nsearch a.example b.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:2 rotate\n", container.DNS{
			Nameservers: []string{"10.0.0.1", "10.0.0.2"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:2", "rotate"},
		}, false},
		{"systemd's", "nameserver 127.0.0.53\noptions edns0\n", container.DNS{Options: []string{"edns0"}}, true},
		{"both", "nameserver ::1\nnameserver 10.0.0.1", container.DNS{Nameservers: []string{"10.0.0.1"}}, true},
		{"nothing", "", container.DNS{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, unreachable := readDNS(file)
			if diff := cmp.Diff(tt.want, got); diff != "" || unreachable != tt.unreachable {
				t.Errorf("unreachable %v\n%s", unreachable, diff)
			}
		})
	}
}
