package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"
)

// A probe that is under way ends by itself, an interval later.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

var key = bytes.Repeat([]byte{7}, KeySize)

// member is one that a test can stop, kill and make deaf.
type member struct {
	*Members
	t     *testing.T
	wire  *wire
	stop  func() // says farewell
	mu    sync.Mutex
	heard []string // "node state", in order
	news  chan struct{}
}

// wire is a network of its own for one member; cut, nothing comes through.
type wire struct {
	*memberlist.NetTransport
	packets chan *memberlist.Packet
	streams chan net.Conn
	mu      sync.Mutex
	cut     bool
}

func (w *wire) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
}

func (w *wire) PacketCh() <-chan *memberlist.Packet { return w.packets }
func (w *wire) StreamCh() <-chan net.Conn           { return w.streams }

func (w *wire) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if w.isCut() {
		return time.Now(), nil // lost on the way
	}
	return w.NetTransport.WriteToAddress(b, a)
}

func (w *wire) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if w.isCut() {
		return nil, errors.New("no route to host")
	}
	return w.NetTransport.DialAddressTimeout(a, timeout)
}

// pass hands on what comes in while the wire is whole.
func (w *wire) pass(ctx context.Context) {
	for ctx.Err() == nil {
		var packets chan *memberlist.Packet
		var streams chan net.Conn
		var p *memberlist.Packet
		var c net.Conn
		select {
		case p = <-w.NetTransport.PacketCh():
			packets = w.packets
		case c = <-w.NetTransport.StreamCh():
			streams = w.streams
		case <-ctx.Done():
			return
		}
		if w.isCut() {
			if c != nil {
				_ = c.Close()
			}
			continue
		}
		select {
		case packets <- p:
		case streams <- c:
		case <-ctx.Done():
		}
	}
}

// start starts a member on a real socket of this machine. The port of the API
// server is kept in door, and the others ask there.
func start(t *testing.T, name string, door *atomic.Int64, k []byte) *member {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	nt, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{"127.0.0.1"}, Logger: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, wire: &wire{NetTransport: nt, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn)}, news: make(chan struct{}, 1)}
	m.Members, err = New(Options{Node: name, Listen: "127.0.0.1:0", Key: k, Profile: "local", Logger: log, transport: m.wire})
	if err != nil {
		t.Fatal(err)
	}
	m.OnChange(func(node string) {
		m.mu.Lock()
		m.heard = append(m.heard, node+" "+string(m.State(node)))
		m.mu.Unlock()
		select {
		case m.news <- struct{}{}:
		default:
		}
	})
	var seeds func(context.Context) ([]string, error)
	if name == Server {
		door.Store(int64(m.Port()))
	} else {
		seeds = func(context.Context) ([]string, error) {
			return []string{fmt.Sprintf("127.0.0.1:%d", door.Load())}, nil
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.wire.pass(ctx) })
	life, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := m.Run(life, seeds); err != nil {
			t.Error(err)
		}
	}()
	m.stop = sync.OnceFunc(func() {
		end()
		<-ended
		cancel()
		running.Wait()
	})
	t.Cleanup(m.stop)
	return m
}

// kill ends the member without a word.
func (m *member) kill() {
	m.wire.set(true)
	if err := m.wire.Shutdown(); err != nil {
		m.t.Error(err)
	}
}

// until waits until the node stands as wanted.
func (m *member) until(node string, want State) {
	m.t.Helper()
	patience := time.After(2 * time.Minute)
	for m.State(node) != want {
		select {
		case <-m.news:
		case <-patience:
			m.mu.Lock()
			defer m.mu.Unlock()
			m.t.Fatalf("%s is %q, want %q; heard %q", node, m.State(node), want, m.heard)
		}
	}
}

func three(t *testing.T) (door *atomic.Int64, server, a, b *member) {
	t.Helper()
	door = new(atomic.Int64)
	server = start(t, Server, door, key)
	a, b = start(t, "a", door, key), start(t, "b", door, key)
	for _, m := range []*member{server, a, b} {
		for _, other := range []string{Server, "a", "b"} {
			m.until(other, Alive)
		}
	}
	return door, server, a, b
}

func TestAMemberThatIsKilledIsDeadAndOneThatStopsHasLeft(t *testing.T) {
	door, server, a, b := three(t)
	a.stop()
	server.until("a", Left)
	b.until("a", Left)
	b.kill()
	server.until("b", Dead)
	if server.Dead("a") || !server.Dead("b") || server.Dead("nobody") {
		t.Error("who is dead?")
	}
	// Another agent of the same node need not wait for anything.
	start(t, "b", door, key)
	server.until("b", Alive)
}

func TestOneWhoWasDeafProtestsAndLives(t *testing.T) {
	_, server, a, b := three(t)
	b.wire.set(true)
	server.until("b", Dead)
	a.until("b", Dead)
	b.wire.set(false)
	server.until("b", Alive)
	a.until("b", Alive)
	server.mu.Lock()
	defer server.mu.Unlock()
	// On a machine that is very busy, somebody may be thought dead once more.
	if heard, want := only(server.heard, "b"), []string{"b alive", "b dead", "b alive"}; len(heard) < len(want) || !slices.Equal(heard[:len(want)], want) {
		t.Errorf("heard %q, want %q", heard, want)
	}
}

func TestTheAPIServerMayStartAnew(t *testing.T) {
	door, server, a, _ := three(t)
	server.kill()
	a.until(Server, Dead)
	// At another port: the agents ask where.
	again := start(t, Server, door, key)
	again.until("a", Alive)
	again.until("b", Alive)
}

func TestWhoHasAnotherKeyIsNotHeard(t *testing.T) {
	door, server, _, _ := three(t)
	stranger := start(t, "a-stranger", door, bytes.Repeat([]byte{8}, KeySize))
	start(t, "c", door, key)
	server.until("c", Alive)
	if s := server.State("a-stranger"); s != Unknown || stranger.State("c") != Unknown {
		t.Errorf("the stranger is %q", s)
	}
}

func only(heard []string, node string) (out []string) {
	for _, h := range heard {
		if h[:len(node)+1] == node+" " {
			out = append(out, h)
		}
	}
	return out
}

func TestKey(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenKey(dir)
	if err != nil || len(first) != KeySize {
		t.Fatalf("%x, %v", first, err)
	}
	again, err := OpenKey(dir)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("%x, then %x, %v", first, again, err)
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKey(dir); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("a key that others may read: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), []byte("c2hvcnQ=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKey(dir); err == nil {
		t.Error("a short key is taken")
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for name, o := range map[string]Options{
		"profile": {Listen: "127.0.0.1:0", Key: key, Profile: "slow"},
		"key":     {Listen: "127.0.0.1:0", Key: key[:16], Profile: "lan"},
		"address": {Listen: "127.0.0.1", Key: key, Profile: "lan"},
		"port":    {Listen: "127.0.0.1:http", Key: key, Profile: "wan"},
	} {
		o.Logger = slog.New(slog.DiscardHandler)
		if m, err := New(o); err == nil {
			t.Errorf("%s: %v", name, m)
		}
	}
}
