//go:build linux

// Command cmd is a lab to play with: some machines on this one, a prompt to break
// them from, and orchctl to watch what becomes of that.
//
//	sudo go run ./test/lab/cmd up 3
//
// It runs in the root of the repository. When it ends, however it ends, the
// machines are gone. docs/lab.md says what to try.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"orch/examples/webflix"
	"orch/test/lab"
)

const help = `  orchctl ARGS...        speak to the cluster, as in: orchctl get pods -o wide
  MACHINE COMMAND...     run something on a machine, as in: m1 docker ps
  MACHINE bash           look around there
  kill MACHINE           pull its plug
  kill PROGRAM MACHINE   apiserver, nodeagent or dockerd, with SIGKILL
  boot MACHINE           switch it on, with its programs
  start PROGRAM MACHINE  one that was killed
  cut A... [from B...]   no packets between these; without "from", from all others
  cut A... to B...       none in this direction
  lose PERCENT MACHINE   lose so many of its packets, by chance
  heal                   mend all links
  down                   end it all
`

func main() {
	lab.Init()
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) (err error) {
	f := flag.NewFlagSet("lab", flag.ContinueOnError)
	fake := f.Bool("fake", false, "simulated containers, without engines")
	if len(args) == 0 || args[0] != "up" {
		return errors.New("say how many machines there are to be, as in: up 3")
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	n := 3
	if f.NArg() > 0 {
		if n, err = strconv.Atoi(f.Arg(0)); err != nil || n < 1 || n > 200 {
			return fmt.Errorf("up %s: want a number from 1 to 200", f.Arg(0))
		}
	}
	// An interrupt at the keyboard is for the command that runs, which gets it too.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	signal.Ignore(syscall.SIGTTOU) // see attach
	ctx := context.Background()
	l, err := lab.New(ctx, lab.Options{Machines: n, Fake: *fake, Images: images, Log: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if err := l.Up(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "the API server runs on api, an agent on each of m1 to m%d\n%s", n, help)
	lines := bufio.NewScanner(in)
	for {
		fmt.Fprint(out, "lab> ")
		if !lines.Scan() {
			fmt.Fprintln(out)
			return lines.Err()
		}
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		if words[0] == "down" {
			return nil
		}
		if err := perform(ctx, l, in, out, words); err != nil {
			fmt.Fprintln(out, err)
		}
	}
}

// images brings the example's images into an engine.
func images(ctx context.Context, m *lab.Machine) error {
	engine, err := m.Engine()
	if err != nil {
		return err
	}
	defer engine.Close()
	return webflix.BuildImages(ctx, engine, io.Discard)
}

// perform does what a line says.
func perform(ctx context.Context, l *lab.Lab, in io.Reader, out io.Writer, words []string) error {
	verb, rest := words[0], words[1:]
	if m := l.Machine(verb); m != nil && len(rest) > 0 {
		return attach(ctx, m, in, out, rest)
	}
	switch verb {
	case "orchctl":
		return attach(ctx, l.API, in, out, words)
	case "kill", "start":
		if len(rest) == 2 {
			return program(ctx, l, verb, rest[0], rest[1])
		}
		machines, err := find(l, rest)
		if err != nil {
			return err
		}
		if verb == "start" {
			return errors.New("start: want a program and a machine")
		}
		return machines[0].Kill()
	case "boot":
		machines, err := find(l, rest)
		if err != nil {
			return err
		}
		if err := machines[0].Boot(ctx); err != nil {
			return err
		}
		if machines[0] == l.API {
			return l.StartAPIServer(ctx)
		}
		return machines[0].StartAgent()
	case "cut":
		return cut(l, rest)
	case "lose":
		if len(rest) != 2 {
			return errors.New("lose: want a percentage and a machine")
		}
		percent, err := strconv.Atoi(strings.TrimSuffix(rest[0], "%"))
		if err != nil || percent < 0 || percent > 100 {
			return fmt.Errorf("lose %s: want a percentage", rest[0])
		}
		machines, err := find(l, rest[1:])
		if err != nil {
			return err
		}
		return l.Lose(percent, machines[0])
	case "heal":
		return l.Heal()
	}
	fmt.Fprint(out, help)
	return nil
}

// attach runs a command on a machine, at this terminal. How it ends it says itself.
func attach(ctx context.Context, m *lab.Machine, in io.Reader, out io.Writer, words []string) error {
	if !m.Running() {
		return fmt.Errorf("%s is off", m.Name)
	}
	cmd := m.Command(ctx, words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	err := cmd.Run()
	if terminal, ok := in.(*os.File); ok {
		// A shell on a machine cannot give the keyboard back: it does not see us. An
		// error says that it is none.
		_ = unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPGRP, unix.Getpgrp())
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

// program kills or starts one program of a machine.
func program(ctx context.Context, l *lab.Lab, verb, name, machine string) error {
	machines, err := find(l, []string{machine})
	if err != nil {
		return err
	}
	m := machines[0]
	switch verb + " " + name {
	case "kill apiserver":
		return l.KillAPIServer()
	case "start apiserver":
		return l.StartAPIServer(ctx)
	case "kill nodeagent":
		return m.KillAgent()
	case "start nodeagent":
		return m.StartAgent()
	case "kill dockerd":
		return m.KillEngine()
	case "start dockerd":
		return m.StartEngine(ctx)
	}
	return fmt.Errorf("%s %s: want apiserver, nodeagent or dockerd", verb, name)
}

func cut(l *lab.Lab, words []string) error {
	at := slices.IndexFunc(words, func(w string) bool { return w == "from" || w == "to" })
	if at < 0 {
		machines, err := find(l, words)
		if err != nil {
			return err
		}
		return l.Cut(machines, l.Others(machines...))
	}
	one, err := find(l, words[:at])
	other, err2 := find(l, words[at+1:])
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if words[at] == "to" {
		return l.CutOneWay(one, other)
	}
	return l.Cut(one, other)
}

// find returns the machines with these names, at least one.
func find(l *lab.Lab, names []string) (machines []*lab.Machine, err error) {
	if len(names) == 0 {
		return nil, errors.New("want a machine: api, m1, m2, …")
	}
	for _, name := range names {
		m := l.Machine(name)
		if m == nil {
			return nil, fmt.Errorf("there is no machine %q", name)
		}
		machines = append(machines, m)
	}
	return machines, nil
}
