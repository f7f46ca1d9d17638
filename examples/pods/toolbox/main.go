// Command toolbox is the one program of the image toolbox:1: a few verbs that
// show what a container meets. There is no shell beside it.
//
//	echo TEXT...          print the text
//	cat FILE...           print files
//	write FILE TEXT       make a file
//	await FILE TEXT       wait until the file contains the text
//	env [NAME...]         print the environment, or these variables
//	id                    print user and group: "1000:1000"
//	exit CODE             end with this code
//	sleep DURATION        wait: "10s"
//	serve ADDRESS         answer HTTP requests and print them; /PATH?status=503
//	                      says what /PATH answers from then on
//	get URL               print the answer to an HTTP request, which is tried until
//	                      somebody listens; fails unless it is 2xx
//	eat-memory MEBIBYTES  use so much memory, and keep it
//
// sleep, serve and eat-memory end with 0 at SIGTERM, and say so.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "toolbox:", err)
		code = 1
	}
	stop()
	os.Exit(code)
}

var errUsage = errors.New("use one of: echo TEXT..., cat FILE..., write FILE TEXT, await FILE TEXT, env [NAME...], id, exit CODE, sleep DURATION, serve ADDRESS, get URL, eat-memory MEBIBYTES")

func run(ctx context.Context, args []string) (code int, err error) {
	if len(args) == 0 {
		return 0, errUsage
	}
	verb, args := args[0], args[1:]
	switch {
	case verb == "echo":
		fmt.Println(strings.Join(args, " "))
		return 0, nil
	case verb == "cat" && len(args) > 0:
		for _, file := range args {
			text, err := os.ReadFile(file)
			if err != nil {
				return 0, err
			}
			fmt.Println(strings.TrimRight(string(text), "\n"))
		}
		return 0, nil
	case verb == "write" && len(args) == 2:
		return 0, os.WriteFile(args[0], []byte(args[1]), 0o644) //nolint:gosec // for others to read
	case verb == "await" && len(args) == 2:
		return 0, await(ctx, args[0], args[1])
	case verb == "env" && len(args) == 0:
		fmt.Println(strings.Join(os.Environ(), "\n"))
		return 0, nil
	case verb == "env":
		for _, name := range args {
			fmt.Println(name + "=" + os.Getenv(name))
		}
		return 0, nil
	case verb == "id":
		fmt.Printf("%d:%d\n", os.Getuid(), os.Getgid())
		return 0, nil
	case verb == "exit" && len(args) == 1:
		return strconv.Atoi(args[0])
	case verb == "sleep" && len(args) == 1:
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return 0, err
		}
		rest(ctx, d)
		return 0, nil
	case verb == "serve" && len(args) == 1:
		return 0, serve(ctx, args[0])
	case verb == "get" && len(args) == 1:
		return 0, get(ctx, args[0])
	case verb == "eat-memory" && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return 0, err
		}
		eaten := strings.Repeat("memory..", n<<20/8) // written, so the kernel must give it
		fmt.Println("ate", n, "MiB")
		rest(ctx, 1<<62)
		_ = len(eaten) // in use until here
		return 0, nil
	}
	return 0, errUsage
}

// rest waits for so long, or for the signal to end.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
		fmt.Println("asked to end")
	case <-time.After(d):
	}
}

// await reads the file again and again.
func await(ctx context.Context, file, text string) error {
	for {
		if content, err := os.ReadFile(file); err == nil && strings.Contains(string(content), text) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// serve answers until the signal to end.
func serve(ctx context.Context, address string) error {
	var statuses sync.Map // path: the status that was set
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, err := strconv.Atoi(r.URL.Query().Get("status")); err == nil && n >= 200 && n < 600 {
			statuses.Store(r.URL.Path, n)
			fmt.Fprintf(w, "%s answers %d from now on\n", r.URL.Path, n)
			return
		}
		status, ok := statuses.LoadOrStore(r.URL.Path, http.StatusOK)
		if !ok { // once, because probes ask again and again
			fmt.Println("asked for", r.URL.Path)
		}
		w.WriteHeader(status.(int))
		fmt.Fprintln(w, http.StatusText(status.(int)))
	})
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		fmt.Println("asked to end")
		return server.Close()
	}
}

func get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	for errors.Is(err, syscall.ECONNREFUSED) {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
		answer, err = http.DefaultClient.Do(request)
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}
