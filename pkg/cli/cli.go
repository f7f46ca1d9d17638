// Package cli is orchctl: kubectl's verbs, flags, columns and exit codes over
// Orch's API, and up and down for clusters on this machine.
//
// One file holds one verb, and a verb is a function that returns a
// *cobra.Command. The one invariant: what goes to standard output is the
// answer, and everything else (hints, warnings, errors) goes to standard error.
//
// Read next: get.go as the model of a verb, resolve.go for how arguments name
// objects, then pkg/cli/printer.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orch/pkg/api"
)

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// exitError ends the program with a code and, where the text is empty, without a
// word: the command has said what there was to say.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// Main runs orchctl and returns its exit code: 0 for success, 1 for an error, 130
// where ctx ended first, and what diff and exec define for themselves.
func Main(ctx context.Context, stdio IO, args []string, version string) int {
	f := &factory{IO: stdio, version: version}
	defer f.close()
	root := newRoot(f)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	for verb, instead := range absent {
		if strings.HasPrefix(err.Error(), fmt.Sprintf("unknown command %q for", verb)) {
			err = fmt.Errorf("%s is not in Orch; use %s", verb, instead)
		}
	}
	// Said by the connection to the API server itself; what the server says of
	// its own connections to nodes reads otherwise.
	if errors.Is(err, api.ErrUnavailable) && strings.HasPrefix(err.Error(), "connection error") {
		target, _ := f.target()
		err = fmt.Errorf("the API server at %s does not answer: 'orchctl up' with the flags of the first time starts what is missing of a cluster on this machine, 'orchctl config get-contexts' lists others", target.Server)
	}
	if text := explain(err); text != "" {
		fmt.Fprintln(stdio.Err, text)
	}
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case ctx.Err() != nil:
		return interrupted
	}
	return 1
}

// interrupted is the code of who dies by SIGINT, as shells tell it, and as
// kubectl does.
const interrupted = 130

// absent are verbs of kubectl that Orch does not have, and what does their work.
var absent = map[string]string{
	"run":     "create deployment, or apply -f",
	"replace": "apply -f",
	"debug":   "exec, or logs --previous",
}

// qualified is a kind with its group, which kubectl leaves out.
var qualified = regexp.MustCompile(`^(\w+)\.\S+ `)

// explain turns an error into the one line that the user sees.
func explain(err error) string {
	var exit *exitError
	var se *api.StatusError
	switch {
	case errors.As(err, &exit):
		return exit.text
	case errors.Is(err, context.Canceled):
		return ""
	case errors.Is(err, api.ErrUnavailable):
		return "error: " + oneLine(err.Error())
	case errors.As(err, &se) && errors.Is(err, api.ErrInvalid):
		return "The " + qualified.ReplaceAllString(oneLine(err.Error()), "$1 ")
	case errors.As(err, &se):
		return fmt.Sprintf("Error from server (%s): %s", se.Reason, oneLine(err.Error()))
	}
	text := oneLine(err.Error())
	if strings.HasPrefix(text, "error: ") {
		return text
	}
	return "error: " + text
}

func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(s, "\n", " ")), " ")
}

// newRoot returns the command that holds all verbs.
func newRoot(f *factory) *cobra.Command {
	root := &cobra.Command{
		Use:   "orchctl",
		Short: "orchctl controls an Orch cluster",
		Long: "orchctl controls an Orch cluster, with kubectl's verbs and flags.\n\n" +
			"Start one on this machine with `orchctl up`, then `orchctl apply -f FILE`,\n" +
			"`orchctl get pods -w`, and `orchctl down` when you are done.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(f.In)
	root.SetOut(f.Out)
	root.SetErr(f.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (see '%s --help' for usage)", err, c.CommandPath())
	})
	p := root.PersistentFlags()
	p.StringVar(&f.kubeconfig, "kubeconfig", "", "path to the file of contexts to use instead of $ORCH_HOME/config")
	p.StringVar(&f.authority, "certificate-authority", "", "path to the certificate of the cluster's authority")
	p.StringVar(&f.certificate, "client-certificate", "", "path to a client certificate")
	p.StringVar(&f.key, "client-key", "", "path to the key of the client certificate")
	p.StringVar(&f.context, "context", "", "the context to use instead of the current one")
	p.StringVarP(&f.namespace, "namespace", "n", "", "the namespace of this request")
	p.StringVarP(&f.server, "server", "s", os.Getenv("ORCH_SERVER"), "address of the API server, instead of that of the context")
	p.Var((*seconds)(&f.timeout), "request-timeout", "how long to wait for one answer of the server, such as 5, 5s or 2m; 0 is the command's own patience")

	groups := []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"cluster", "Clusters on this machine:", []*cobra.Command{newUp(f), newDown(f)}},
		{"basic", "Basic commands:", basicCommands(f)},
		{"deploy", "Deploy commands:", deployCommands(f)},
		{"debug", "Troubleshooting commands:", debugCommands(f)},
		{"settings", "Settings and other commands:", settingsCommands(f)},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID("settings")
	root.SetCompletionCommandGroupID("settings")
	return root
}

// seconds is a flag's duration: a number of seconds, as kubectl takes it, or a
// number with its unit.
type seconds time.Duration

func (s *seconds) String() string { return time.Duration(*s).String() }

// Type is what the help calls the flag's value.
func (s *seconds) Type() string { return "duration" }

// Set reads the flag.
func (s *seconds) Set(text string) error {
	if _, err := strconv.Atoi(text); err == nil {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return errors.New("want a number of seconds, or a time such as 5s or 2m")
	}
	*s = seconds(d)
	return nil
}
