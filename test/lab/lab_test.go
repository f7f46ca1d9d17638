//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// asLab makes the test's program build a lab and wait until it is killed.
const asLab = "ORCH_TEST_LAB"

func TestMain(m *testing.M) {
	Init()
	if os.Getenv(asLab) != "" {
		l, err := New(context.Background(), Options{Machines: 1, Bin: anyProgram})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(l.Dir, l.Machines[0].pid())
		select {}
	}
	os.Exit(m.Run())
}

// build is a lab that ends with the test.
func build(t *testing.T, o Options) *Lab {
	t.Helper()
	Require(t)
	l, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// anyProgram is a lab's folder of programs where none of Orch's is needed.
const anyProgram = "/usr/bin"

func TestAMachineThatIsKilledTakesItsProcessesAlongAndKeepsItsDisk(t *testing.T) {
	l := build(t, Options{Machines: 2, Fake: true, Bin: anyProgram})
	m, other := l.Machines[0], l.Machines[1]
	for _, machine := range l.Machines {
		if err := machine.Start("sleep", "1000"); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(m.Dir, "file")
	if _, err := m.Run(t.Context(), "sh", "-c", "hostname > "+file); err != nil {
		t.Fatal(err)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := m.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, err := m.Run(t.Context(), "cat", file); err != nil || text != "m1\n" {
		t.Errorf("what was on the disk is %q, %v", text, err)
	}
	if err := m.Signal("sleep", syscall.SIGKILL); err == nil {
		t.Error("a process of the machine lived on")
	}
	if err := other.Signal("sleep", syscall.SIGKILL); err != nil {
		t.Errorf("another machine was hit: %v", err)
	}
}

func TestLinksLoseWhatIsSaidAndNothingElse(t *testing.T) {
	l := build(t, Options{Machines: 2, Fake: true, Bin: anyProgram})
	m1, m2 := l.Machines[:1], l.Machines[1:]
	sockets := map[*Machine]net.PacketConn{}
	for _, m := range l.all() {
		if err := m.inside(func() (err error) {
			sockets[m], err = net.ListenPacket("udp", m.Address+":7000")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer sockets[m].Close()
	}
	send := func(from, to *Machine, text string) {
		t.Helper()
		if _, err := sockets[from].WriteTo([]byte(text), &net.UDPAddr{IP: net.ParseIP(to.Address), Port: 7000}); err != nil {
			t.Fatal(err)
		}
	}
	// A link keeps the order, so what comes first tells what was lost before.
	first := func(m *Machine) string {
		t.Helper()
		buffer := make([]byte, 100)
		n, _, err := sockets[m].ReadFrom(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	pairs := [][2]*Machine{{m1[0], m2[0]}, {m2[0], m1[0]}, {m1[0], l.API}, {l.API, m1[0]}}
	for _, p := range pairs { // machines ask for each other's hardware address once
		send(p[0], p[1], "hello")
		first(p[1])
	}
	name := func(p [2]*Machine) string { return p[0].Name + " → " + p[1].Name }
	const everything = "m1 → m2, m2 → m1, m1 → api, api → m1"
	for _, tt := range []struct {
		name    string
		inflict func() error
		lost    string
	}{
		{"nothing is lost", l.Heal, ""},
		{"one direction", func() error { return l.CutOneWay(m1, m2) }, "m1 → m2"},
		{"both directions", func() error { return l.Cut(m1, m2) }, "m1 → m2, m2 → m1"},
		{"from all", func() error { return l.Cut(m1, l.Others(m1...)) }, everything},
		{"nearly all of one", func() error { return l.Lose(95, m1[0]) }, everything},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.inflict(); err != nil {
				t.Fatal(err)
			}
			const many = 20
			for _, p := range pairs {
				for range many {
					send(p[0], p[1], "during "+name(p))
				}
			}
			if err := l.Heal(); err != nil {
				t.Fatal(err)
			}
			came := map[string]int{}
			var lost []string
			for _, p := range pairs {
				send(p[0], p[1], "after "+name(p))
				for text := ""; text != "after "+name(p); came[text]++ {
					text = first(p[1])
				}
			}
			for _, p := range pairs {
				if n := came["during "+name(p)]; n < many {
					lost = append(lost, name(p))
				}
			}
			got := strings.Join(lost, ", ")
			if got != tt.lost {
				t.Errorf("lost: %q, want %q", got, tt.lost)
			}
		})
	}
}

func TestWhatALabThatWasKilledHasLeftIsSweptByTheNext(t *testing.T) {
	Require(t)
	killed := exec.Command(os.Args[0])
	killed.Env = append(os.Environ(), asLab+"=1")
	out, err := killed.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	var pid int
	_, err = fmt.Fscan(out, &dir, &pid)
	if err != nil {
		t.Fatal(err)
	}
	machine, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(machine) }()
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(machine), Events: unix.POLLIN}}, int(patience.Milliseconds())); n != 1 {
		t.Fatalf("the machine runs though its lab was killed: %v", err)
	}
	build(t, Options{Fake: true, Bin: anyProgram})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder %s is still there: %v", dir, err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		if left, err := filepath.Glob(pattern + filepath.Base(dir) + "*"); err != nil || len(left) > 0 {
			t.Errorf("control groups are left: %v, %v", left, err)
		}
	}
}
