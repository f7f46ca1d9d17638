package fake_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"orch/internal/testimage"
	"orch/pkg/container"
	"orch/pkg/container/containertest"
	"orch/pkg/container/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testProgram runs the test image's program in a simulated container.
func testProgram(ctx context.Context, p *fake.Process) int {
	args := append(append([]string{}, p.Config.Command...), p.Config.Args...)
	if len(p.Config.Command) > 0 {
		args = args[1:]
	}
	return runTestImage(ctx, p, args)
}

func runTestImage(ctx context.Context, p *fake.Process, args []string) int {
	return testimage.Program(ctx, testimage.Process{
		Args:  args,
		Env:   append([]string{"IMAGE=testimage"}, p.Config.Env...),
		Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, Signals: p.Signals, Path: p.Path,
	})
}

func TestRuntime(t *testing.T) {
	const image = "test-image:1"
	const private = "registry.example/private:1"
	login := container.Login{Username: "me", Password: "secret"}
	engine := fake.New(fake.Options{
		Pull: func(ctx context.Context, ref string, o container.PullOptions) error {
			if ref == private && (o.Login == nil || *o.Login != login) {
				return errors.New("unauthorized")
			}
			return fake.Registry(ctx, ref, o)
		},
		Programs: map[string]fake.Program{image: testProgram},
		Command: func(ctx context.Context, p *fake.Process, command []string) (int, bool) {
			if command[0] != testimage.Path {
				return 0, false
			}
			return runTestImage(ctx, p, command[1:]), true
		},
		ExitLag: time.Millisecond,
	})
	engine.AddImage(image)
	t.Cleanup(engine.Shutdown)
	containertest.Run(t, containertest.Subject{
		Connect:      func(*testing.T) container.Runtime { return engine },
		Image:        image,
		MissingImage: "registry.example/does-not-exist:1",
		PrivateImage: private,
		Login:        login,
		Labels:       map[string]string{"run": "fake"},
		Name:         func(name string) string { return name },
	})
}
