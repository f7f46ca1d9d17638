//go:build linux

package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// initName is what the first process of a machine is called.
const initName = "orch-lab-machine"

// ready is what a machine says when it is there.
const ready = "ready\n"

// inited says that main has called Init, so that a copy of this program can be
// a machine's first process.
var inited bool

// Init makes this program what it was started as: in a process that [New] has
// started as the first of a machine it does not return. It is to be called
// first of all in main, or in TestMain.
func Init() {
	inited = true
	if len(os.Args) == 0 || os.Args[0] != initName {
		return
	}
	if err := furnish(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	fmt.Print(ready)
	// The other end of standard input is held by the lab. When the lab ends,
	// however it ends, the machine ends: with the first process of its namespace
	// the kernel kills all others, and mounts and addresses go with the last.
	go func() {
		orders := json.NewDecoder(os.Stdin)
		for {
			var o order
			if err := orders.Decode(&o); err != nil {
				os.Exit(0)
			}
			if err := o.carryOut(); err != nil {
				fmt.Println(err)
			} else {
				fmt.Print(ready)
			}
		}
	}()
	// Whose parent dies becomes a child of the first process, which has to bury it.
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	for range died {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

// order asks the first process for a program that goes on running.
type order struct {
	Path, Log string
	Args, Env []string
}

func (o order) carryOut() error {
	log, err := os.OpenFile(o.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer nothing.Close()
	_, err = os.StartProcess(o.Path, o.Args, &os.ProcAttr{
		Env: o.Env, Files: []*os.File{nothing, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	return err
}

// furnish gives the namespaces of this process what a machine has of its own:
// a list of processes, /run, where engines have their sockets, and a name.
func furnish(name string) error {
	mounts := []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"none", "/", "", syscall.MS_REC | syscall.MS_PRIVATE}, // nothing is seen outside
		{"proc", "/proc", "proc", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"tmpfs", "/run", "tmpfs", 0},
	}
	for _, m := range mounts {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := os.Mkdir("/run/lock", 0o755); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}
