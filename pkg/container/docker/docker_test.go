package docker_test

import (
	"testing"

	"go.uber.org/goleak"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/internal/testregistry"
	"orch/pkg/container"
	"orch/pkg/container/containertest"
	"orch/pkg/container/docker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRuntime(t *testing.T) {
	engine := testdocker.Require(t)
	registry, login := testregistry.Start(t), container.Login{Username: "me", Password: "secret"}
	private, _ := registry.Push(engine, "private", "1")
	registry.Require(login)
	containertest.Run(t, containertest.Subject{
		Connect: func(t *testing.T) container.Runtime {
			runtime, err := docker.New("")
			if err != nil {
				t.Fatal(err)
			}
			return runtime
		},
		Image:        testimage.Build(t, engine),
		MissingImage: "localhost:1/does-not-exist:1", // refused at once, with and without a network
		PrivateImage: private,
		Login:        login,
		Labels:       engine.Labels(nil),
		Name:         engine.Name,
	})
}
