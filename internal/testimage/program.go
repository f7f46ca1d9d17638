// Package testimage is a container image for tests: one static program whose
// flags say how a container behaves. It is built from this repository with the
// Go toolchain and imported into the engine, so that no test needs a registry.
//
// Its invariant: nothing happens by time. The program does what its flags say
// and then waits for a signal, so that a test decides when things happen.
//
// Program is the list of flags; the same function runs as process 1 of a real
// container (cmd) and inside a simulated one (pkg/container/fake).
package testimage

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// Path of the program in the image, for commands to be executed.
const Path = "/testimage"

// Process is what surrounds the program.
type Process struct {
	Args           []string // without the program's name
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        <-chan string // "SIGTERM": what came and can be handled
	// Path finds a file of a simulated process on this machine; nil: as it is.
	Path func(path string, write bool) (string, error)
}

// Program does what the arguments say, in the order of this list, and returns
// an exit code. ctx ends a simulated process that is killed.
//
//	-lines N        print "line 1" to "line N"
//	-bytes N        print N bytes, in lines of -width bytes; 0 is one line
//	                without an end
//	-stderr TEXT    print TEXT to standard error
//	-env            print the environment
//	-hostname       print the host's name
//	-id             print user, group and further groups: "0:0:1,2"
//	-write PATH     make a file, or print why not
//	-say TEXT       write to the termination log
//	-print PATH     print a file
//	-stat PATH      print a file's mode and group: "-rw-r--r-- 1000"
//	-watch DIR      read the files "a" and "b" behind DIR/..data again and again,
//	                and print their content when it is another; "mixed" when
//	                they differ from each other
//	-tty            print whether standard input is a terminal
//	-cat            copy standard input to standard output
//	-alloc MIB      use that much memory
//	-fill MIB       write a file of that size to the folder -into
//	-get URL        print the answer to an HTTP request
//	-listen ADDR    answer HTTP requests: /healthz with the status in -health,
//	                /healthz?set=503 changes that status, anything else with
//	                -reply
//	-fork ADDR      leave a process of its own session behind that listens there
//	                and ignores SIGTERM (not in a simulated container)
//	-spin           use the processor
//	-exit CODE      end with CODE instead of waiting for a signal
//	-ignore-term    go on when SIGTERM comes, saying so
//
// A terminal whose size changes prints it: "80x25".
//
// Without -exit it prints "ready", waits for SIGTERM or SIGINT, prints
// "terminated" and ends with 0.
func Program(ctx context.Context, p Process) int {
	flags := flag.NewFlagSet("testimage", flag.ContinueOnError)
	flags.SetOutput(p.Stderr)
	var (
		lines      = flags.Int("lines", 0, "")
		size       = flags.Int("bytes", 0, "")
		width      = flags.Int("width", 100, "")
		toStderr   = flags.String("stderr", "", "")
		env        = flags.Bool("env", false, "")
		hostname   = flags.Bool("hostname", false, "")
		id         = flags.Bool("id", false, "")
		write      = flags.String("write", "", "")
		say        = flags.String("say", "", "")
		file       = flags.String("print", "", "")
		stat       = flags.String("stat", "", "")
		watch      = flags.String("watch", "", "")
		tty        = flags.Bool("tty", false, "")
		cat        = flags.Bool("cat", false, "")
		alloc      = flags.Int("alloc", 0, "")
		fill       = flags.Int("fill", 0, "")
		into       = flags.String("into", "/", "")
		get        = flags.String("get", "", "")
		listen     = flags.String("listen", "", "")
		health     = flags.Int("health", http.StatusOK, "")
		reply      = flags.String("reply", "hello", "")
		fork       = flags.String("fork", "", "")
		spin       = flags.Bool("spin", false, "")
		exit       = flags.Int("exit", -1, "")
		ignoreTerm = flags.Bool("ignore-term", false, "")
	)
	if err := flags.Parse(p.Args); err != nil {
		return 2
	}
	for i := range *lines {
		fmt.Fprintf(p.Stdout, "line %d\n", i+1)
	}
	if err := printBytes(p.Stdout, *size, *width); err != nil {
		return fail(p, err)
	}
	if *toStderr != "" {
		fmt.Fprintln(p.Stderr, *toStderr)
	}
	if *env {
		fmt.Fprintln(p.Stdout, strings.Join(p.Env, "\n"))
	}
	if *hostname {
		name, err := os.Hostname()
		if err != nil {
			return fail(p, err)
		}
		fmt.Fprintln(p.Stdout, name)
	}
	if *id {
		groups, err := os.Getgroups()
		if err != nil {
			return fail(p, err)
		}
		fmt.Fprintf(p.Stdout, "%d:%d:%s\n", os.Getuid(), os.Getgid(), strings.Trim(strings.ReplaceAll(fmt.Sprint(groups), " ", ","), "[]"))
	}
	if *write != "" {
		path, err := p.path(*write, true)
		if err == nil {
			err = os.WriteFile(path, nil, 0o600)
		}
		fmt.Fprintln(p.Stdout, errors.Unwrap(err))
	}
	if *say != "" {
		path, err := p.path("/dev/termination-log", true)
		if err == nil {
			err = os.WriteFile(path, []byte(*say), 0o600)
		}
		if err != nil {
			return fail(p, err)
		}
	}
	if *file != "" {
		path, err := p.path(*file, false)
		var content []byte
		if err == nil {
			content, err = os.ReadFile(path)
		}
		if err != nil {
			return fail(p, err)
		}
		fmt.Fprint(p.Stdout, string(content))
	}
	if *stat != "" {
		info, err := os.Stat(*stat)
		if err != nil {
			return fail(p, err)
		}
		fmt.Fprintln(p.Stdout, info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
	}
	if *watch != "" {
		go watchFiles(ctx, p.Stdout, *watch)
	}
	if *tty {
		info, err := os.Stdin.Stat()
		fmt.Fprintln(p.Stdout, err == nil && info.Mode()&os.ModeCharDevice != 0)
	}
	if *cat && p.Stdin != nil {
		if _, err := io.Copy(p.Stdout, p.Stdin); err != nil {
			return fail(p, err)
		}
	}
	var memory []byte
	if *fill > 0 {
		if err := os.WriteFile(filepath.Join(*into, "filled"), make([]byte, *fill<<20), 0o600); err != nil {
			return fail(p, err)
		}
	}
	for range *alloc {
		memory = append(memory, fullMebibyte()...)
	}
	if *get != "" {
		if err := fetch(ctx, *get, p.Stdout); err != nil {
			return fail(p, err)
		}
	}
	if *listen != "" {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *listen)
		if err != nil {
			return fail(p, err)
		}
		server := &http.Server{Handler: handler(*reply, *health), ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = server.Serve(listener) }() // until Close
		defer server.Close()
		fmt.Fprintln(p.Stdout, "listening on", listener.Addr())
	}
	if *fork != "" {
		if err := leaveBehind(ctx, *fork); err != nil {
			return fail(p, err)
		}
	}
	if *spin {
		go func() {
			for ctx.Err() == nil { // using the processor is the point
			}
		}()
	}
	if *exit >= 0 {
		return *exit
	}
	fmt.Fprintln(p.Stdout, "ready")
	code := awaitEnd(ctx, p, *ignoreTerm)
	_ = len(memory) // in use until here
	return code
}

// leaveBehind starts this program again, in a session of its own, and returns
// when it listens.
func leaveBehind(ctx context.Context, address string) error {
	child := exec.CommandContext(context.WithoutCancel(ctx), Path, "-listen", address, "-ignore-term") //nolint:gosec // a test's own address
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	output, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	_, err = bufio.NewReader(output).ReadString('\n')
	return err
}

func (p Process) path(path string, write bool) (string, error) {
	if p.Path == nil {
		return path, nil
	}
	return p.Path(path, write)
}

func awaitEnd(ctx context.Context, p Process, ignoreTerm bool) int {
	for {
		select {
		case signal := <-p.Signals:
			switch {
			case signal == "SIGWINCH":
				if width, height, err := term.GetSize(int(os.Stdin.Fd())); err == nil {
					fmt.Fprintf(p.Stdout, "%dx%d\n", width, height)
				}
			case ignoreTerm:
				fmt.Fprintln(p.Stdout, "ignored", signal)
			case signal == "SIGTERM", signal == "SIGINT":
				fmt.Fprintln(p.Stdout, "terminated")
				return 0
			}
		case <-ctx.Done():
			return 137
		}
	}
}

// printBytes prints as much text, a full piece at a time.
func printBytes(w io.Writer, size, width int) error {
	const piece = 64 << 10
	line := strings.Repeat("x", piece)
	if width > 0 {
		line = strings.Repeat("x", width-1) + "\n"
	}
	text := []byte(strings.Repeat(line, max(1, piece/len(line))))
	for size > 0 {
		n, err := w.Write(text[:min(size, len(text))])
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// watchFiles reads both files of one version each time: it follows the link
// once. A version may go while it is being read.
func watchFiles(ctx context.Context, w io.Writer, dir string) {
	last := ""
	for ctx.Err() == nil {
		version, err := os.Readlink(filepath.Join(dir, "..data"))
		a, err1 := os.ReadFile(filepath.Join(dir, version, "a"))
		b, err2 := os.ReadFile(filepath.Join(dir, version, "b"))
		switch {
		case err != nil || err1 != nil || err2 != nil:
		case string(a) != string(b):
			fmt.Fprintf(w, "mixed: %q %q\n", a, b)
		case string(a) != last:
			last = string(a)
			fmt.Fprintln(w, "version", last)
		}
	}
}

func fail(p Process, err error) int {
	fmt.Fprintln(p.Stderr, "testimage:", err)
	return 1
}

// fullMebibyte is not zero anywhere, so that the kernel has to provide it.
func fullMebibyte() []byte { return []byte(strings.Repeat("memory..", 1<<20/8)) }

func fetch(ctx context.Context, url string, w io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(w, response.Body)
	fmt.Fprintln(w)
	return err
}

// handler answers with reply, and under /healthz with a status that a request
// can change.
func handler(reply string, health int) http.Handler {
	status := make(chan int, 1)
	status <- health
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		code := <-status
		if set, err := strconv.Atoi(r.URL.Query().Get("set")); err == nil && set >= 100 && set < 600 {
			status <- set
			return
		}
		status <- code
		w.WriteHeader(code)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, reply) })
	return mux
}
