package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"orch/internal/testimage"
)

// systemctl is all of systemd that docs/vms.md needs: it starts and stops what units
// say, on a machine whose files are in a folder.
const systemctl = `#!/bin/sh
set -e
verb=$1; shift
[ "$1" != --now ] || shift
[ $verb != daemon-reload ] || exit 0
unit=$ROOT/etc/systemd/system/$1.service pid=$ROOT/$1.pid
case $verb in stop|disable|restart)
	if [ -e $pid ]; then
		kill $(cat $pid)
		while kill -0 $(cat $pid) 2>/dev/null; do sleep 0.1; done
		rm $pid
	fi
esac
case $verb in start|enable|restart)
	set -a
	for file in $(sed -n "s,^EnvironmentFile=-*,$ROOT,p" $unit); do [ ! -e $file ] || . $file; done
	set +a
	command=$(sed -n "s/^ExecStart=//p" $unit | sed "s,/usr/local/bin\|/var/lib\|/etc,$ROOT&,g")
	eval "exec $command" >>$ROOT/$1.log 2>&1 </dev/null &
	echo $! >$pid
esac
case $verb$1 in startorch-apiserver|enableorch-apiserver) while [ ! -e $ROOT/var/lib/orch/address ]; do kill -0 $!; sleep 0.1; done; esac
`

// stubs are the commands of the page that would leave the lab.
var stubs = map[string]string{
	"systemctl": systemctl,
	"make":      "#!/bin/sh\n",
	"useradd":   "#!/bin/sh\n",
	"userdel":   "#!/bin/sh\n",
	"ssh":       "#!/bin/sh\ncd $DISKS/${1#root@}; shift; exec \"$@\"\n",
	"scp":       "#!/bin/sh\nfrom=${1#root@}; exec cp $DISKS/${from%%:*}/${from#*:} \"$2\"\n",
}

// page types a document on machines.
type page struct {
	*testing.T
	lab   *Lab
	token string
}

func (p *page) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// disk is a machine's folder with what it has in /etc, /usr/local and /var. The rest of
// the files is this machine's, and not to be touched.
func (p *page) disk(m *Machine) string { return filepath.Join(p.lab.Dir, "disks", m.Address) }

var (
	ownPath = regexp.MustCompile(`/(etc/(orch|systemd)|var/lib/orch|usr/local/bin)\b`)
	outside = regexp.MustCompile(`(^|[\s"'=>])/(\w|$)`)
)

// shell types a line on a machine and returns what it prints.
func (p *page) shell(m *Machine, line string) string {
	p.Helper()
	line = strings.NewReplacer("10.0.0.", "10.77.0.1", "worker-", "m", "TOKEN", p.token, "nginx:1.29", "testimage:1").Replace(line)
	line = ownPath.ReplaceAllString(line, p.disk(m)+"$0")
	if inside := strings.NewReplacer(p.lab.Dir, "LAB", "/usr/sbin/nologin", "", "10.244.0.0/16", "").Replace(line); outside.MatchString(inside) {
		p.Fatalf("%s would leave the lab", inside)
	}
	cmd := m.Command(p.Context(), "sh", "-ec", line)
	cmd.Dir = p.disk(m)
	cmd.Env = append(cmd.Env, "HOME="+p.disk(m), "ORCH_HOME=", "ROOT="+p.disk(m), "DISKS="+filepath.Dir(p.disk(m)),
		"PATH="+filepath.Join(p.lab.Dir, "tools")+":"+p.disk(m)+"/usr/local/bin:"+p.disk(m)+"/bin:"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	p.Logf("%s# %s\n%s", m.Name, strings.ReplaceAll(line, p.disk(m), ""), out)
	if err != nil {
		for _, name := range []string{"orch-apiserver", "orch-nodeagent"} {
			p.Logf("%s: %s", name, tail(filepath.Join(p.disk(m), name+".log")))
		}
		p.Fatalf("%s# %s: %v", m.Name, line, err)
	}
	return string(out)
}

// pods are node, address and container of each.
func (p *page) pods() string {
	return p.shell(p.lab.API, `orchctl get pods -o jsonpath='{range .items[*]}{.spec.nodeName}={.status.podIP}={.status.containerStatuses[0].containerID} {end}'`)
}

// TestThePageAboutMachines types docs/vms.md on three machines with engines of their
// own, and looks whether it does what it promises.
func TestThePageAboutMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("builds machines")
	}
	t.Parallel()
	p := &page{T: t, lab: build(t, Options{Machines: 3, Images: func(ctx context.Context, m *Machine) error {
		engine, err := m.Engine()
		if err != nil {
			return err
		}
		defer engine.Close()
		return testimage.Import(ctx, engine, "testimage:1")
	}})}
	laptop, machines := p.lab.API, p.lab.Machines
	p.must(os.MkdirAll(filepath.Join(p.lab.Dir, "tools"), 0o700))
	for name, text := range stubs {
		p.must(os.WriteFile(filepath.Join(p.lab.Dir, "tools", name), []byte(text), 0o700)) //nolint:gosec // it is to be run
	}
	for _, m := range p.lab.all() {
		for _, dir := range []string{"etc/systemd/system", "usr/local/bin", "var/lib"} {
			p.must(os.MkdirAll(filepath.Join(p.disk(m), dir), 0o700))
		}
	}
	p.must(exec.CommandContext(t.Context(), "cp", "-r", p.lab.bin, p.disk(laptop)+"/bin").Run())
	p.must(exec.CommandContext(t.Context(), "cp", "-r", "../../deploy", p.disk(laptop)).Run())
	text, err := os.ReadFile("../../docs/vms.md")
	p.must(err)

	before := ""
	for _, step := range steps(t, string(text)) {
		for _, m := range map[string][]*Machine{"every": machines, "first": machines[:1], "third": machines[2:], "laptop": {laptop}}[step.place] {
			switch out := p.shell(m, step.block); {
			case strings.Contains(step.block, "token create"):
				lines := strings.Split(strings.TrimSpace(out), "\n")
				p.token = lines[len(lines)-1]
			case strings.HasSuffix(step.block, "get nodes"):
				p.shell(laptop, "orchctl wait --for=condition=Ready node/m1 node/m2 node/m3")
			case strings.Contains(step.block, "get pods"):
				if before = p.pods(); strings.Count(before, "=10.244.") != 3 || strings.Count(before, "m1")*strings.Count(before, "m2")*strings.Count(before, "m3") != 1 {
					t.Errorf("pods: %s", before)
				}
			case strings.Contains(step.block, "restart orch-nodeagent"):
				if now := p.pods(); now != before {
					t.Errorf("before the upgrade there was %s, now there is %s", before, now)
				}
			case strings.Contains(step.block, "--dry-run"):
				if now := p.pods(); strings.Contains(now, m.Name) || strings.Count(now, "=10.244.") != 3 {
					t.Errorf("%s was drained and reset, but there is %s", m.Name, now)
				}
			case strings.Contains(step.block, "delete node"):
				p.shell(laptop, "orchctl rollout status deployment/web")
				p.shell(laptop, "orchctl invariants --class safety")
				if out := p.shell(laptop, "orchctl invariants || true"); strings.Contains(out, "still)") || !strings.Contains(out, "of 2 of 2 nodes") {
					t.Errorf("a promise is not kept again, or a node was not asked:\n%s", out)
				}
			}
		}
	}
	for _, m := range machines {
		engine, err := m.Engine()
		p.must(err)
		defer engine.Close()
		containers, err := engine.List(t.Context(), map[string]string{})
		p.must(err)
		images, err := engine.Images(t.Context())
		p.must(err)
		if len(containers) > 0 || len(images) != 1 {
			t.Errorf("left on %s: containers %v, images %v", m.Name, containers, images)
		}
		if links := p.shell(m, "ip -o link"); strings.Contains(links, "orch-") {
			t.Errorf("left on %s: %s", m.Name, links)
		}
		for _, place := range []string{"etc/orch", "etc/systemd/system/*", "usr/local/bin/*", "var/lib/*", ".orch"} {
			if left, err := filepath.Glob(filepath.Join(p.disk(m), place)); err != nil || len(left) > 0 {
				t.Errorf("left on %s: %v, %v", m.Name, left, err)
			}
		}
	}
}

// step is a block of commands, and where it is typed.
type step struct{ place, block string }

// steps finds the blocks of a page, and where they are typed in the paragraph before
// each.
func steps(t *testing.T, text string) (all []step) {
	t.Helper()
	for _, at := range regexp.MustCompile("(?s)```sh\n(.*?)\n```").FindAllStringSubmatchIndex(text, -1) {
		paragraphs := strings.Split(strings.TrimSpace(text[:at[0]]), "\n\n")
		before := paragraphs[len(paragraphs)-1]
		i := slices.IndexFunc(places, func(p [2]string) bool { return strings.Contains(before, p[0]) })
		if i < 0 {
			t.Fatalf("it is not said where this is typed: %s", before)
		}
		all = append(all, step{places[i][1], text[at[2]:at[3]]})
	}
	return all
}

// places are the words that say where something is typed.
var places = [][2]string{
	{"very machine", "every"}, {"one machine after the other", "every"}, {"that machine", "third"}, {"laptop", "laptop"}, {"first", "first"},
}
