// Package testregistry serves images on this machine's loopback, which Docker
// engines trust without TLS: a real registry that can ask for a password, be
// slow, die in the middle of an image and come back.
//
// Its invariant: nothing happens by time. A download stops where a test wants
// it to, and goes on when the test says so.
package testregistry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"orch/internal/testdocker"
	"orch/internal/testimage"
	"orch/pkg/container"
)

// Registry is a registry. It begins up, and open to all.
//
// Concurrency: all methods may be called from several goroutines.
type Registry struct {
	// Address is "127.0.0.1:41234"; images are Address + "/name:tag".
	Address string

	t     testing.TB
	store http.Handler

	mu       sync.Mutex // protects what follows
	server   *http.Server
	ended    chan struct{} // closed when server has
	login    *container.Login
	held     chan struct{} // not nil: layers wait for its end, half served
	requests []string      // "GET /v2/app/manifests/1"
}

// Start serves an empty registry until the end of the test.
func Start(t testing.TB) *Registry {
	r := &Registry{t: t, Address: "127.0.0.1:0", store: registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))}
	r.Up()
	t.Cleanup(func() {
		r.Hold(false)
		r.Down()
	})
	return r
}

// Up begins to serve, with all that was pushed before.
func (r *Registry) Up() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	listener, err := net.Listen("tcp", r.Address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Address = listener.Addr().String()
	server, ended := &http.Server{Handler: http.HandlerFunc(r.serve)}, make(chan struct{}) //nolint:gosec // on loopback, for a test
	r.server, r.ended = server, ended
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
}

// Down ends the service and all connections, as a crash.
func (r *Registry) Down() {
	r.mu.Lock()
	server, ended := r.server, r.ended
	r.mu.Unlock()
	_ = server.Close()
	<-ended
}

// Require makes the registry one for those who have this login.
func (r *Registry) Require(l container.Login) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.login = &l
}

// Hold stops each download of a layer half-way, or lets them all go on.
func (r *Registry) Hold(hold bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held != nil {
		close(r.held)
		r.held = nil
	}
	if hold {
		r.held = make(chan struct{})
	}
}

// Count is how many requests there were that contain the text: "GET /v2/app/blobs/".
func (r *Registry) Count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, request := range r.requests {
		if strings.Contains(request, text) {
			n++
		}
	}
	return n
}

func (r *Registry) serve(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	login, held := r.login, r.held
	user, password, _ := request.BasicAuth()
	allowed := login == nil || *login == container.Login{Username: user, Password: password}
	if allowed {
		r.requests = append(r.requests, request.Method+" "+request.URL.Path)
	}
	r.mu.Unlock()
	if !allowed {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
		return
	}
	if held == nil || request.Method != http.MethodGet || !strings.Contains(request.URL.Path, "/blobs/") {
		r.store.ServeHTTP(w, request)
		return
	}
	answer := httptest.NewRecorder()
	r.store.ServeHTTP(answer, request)
	body := answer.Body.Bytes()
	if len(body) < 1<<16 { // the image's configuration is not worth it
		held = nil
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(answer.Code)
	if held != nil {
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		body = body[len(body)/2:]
		select {
		case <-held:
		case <-request.Context().Done():
			return
		}
	}
	_, _ = w.Write(body)
}

// Push puts an image of testimage's program, like no other, into the registry
// as repository:tag, and returns its references by tag and by digest. What the
// engine pulls of it goes at the end of the test.
func (r *Registry) Push(engine *testdocker.Engine, repository, tag string) (byTag, byDigest string) {
	r.t.Helper()
	nonce := make([]byte, 1<<20) // noise does not shrink, so that a download has a middle
	_, _ = rand.Read(nonce)      // never fails
	info, err := engine.Info(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	program, err := testimage.Binary(info.Architecture)
	if err != nil {
		r.t.Fatal(err)
	}
	tarball := archive(r.t, map[string][]byte{testimage.Path: program, "/nonce": nonce})
	var layer bytes.Buffer
	z := gzip.NewWriter(&layer)
	_, _ = z.Write(tarball)
	_ = z.Close()
	config, err := json.Marshal(map[string]any{
		"architecture": info.Architecture, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{testimage.Path}, "Env": []string{"IMAGE=testimage"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(tarball)}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	const docker = "application/vnd.docker."
	blob := func(mediaType string, content []byte) map[string]any {
		r.put("/v2/"+repository+"/blobs/uploads/?digest="+digest(content), http.MethodPost, "application/octet-stream", content)
		return map[string]any{"mediaType": docker + mediaType, "size": len(content), "digest": digest(content)}
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": docker + "distribution.manifest.v2+json",
		"config": blob("container.image.v1+json", config),
		"layers": []any{blob("image.rootfs.diff.tar.gzip", layer.Bytes())},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.put("/v2/"+repository+"/manifests/"+tag, http.MethodPut, docker+"distribution.manifest.v2+json", manifest)
	byTag = r.Address + "/" + repository + ":" + tag
	byDigest = r.Address + "/" + repository + "@" + digest(manifest)
	engine.RemoveImageLater(byTag)
	engine.RemoveImageLater(byDigest)
	return byTag, byDigest
}

// put stores something, past the password.
func (r *Registry) put(url, method, contentType string, body []byte) {
	r.t.Helper()
	request := httptest.NewRequestWithContext(r.t.Context(), method, url, bytes.NewReader(body))
	request.Header.Set("Content-Type", contentType)
	answer := httptest.NewRecorder()
	r.store.ServeHTTP(answer, request)
	if answer.Code != http.StatusCreated {
		r.t.Fatalf("%s %s: %d %s", method, url, answer.Code, answer.Body)
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func archive(t testing.TB, files map[string][]byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name[1:], Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
