package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const uid = "uid-1"

// newHost returns a host whose mounts are gone after the test.
func newHost(t *testing.T) *Host {
	h := New(t.TempDir())
	t.Cleanup(func() {
		if err := RemoveTree(h.dir, nil); err != nil {
			t.Error(err)
		}
	})
	return h
}

func asRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount and to give files away")
	}
}

func set(t *testing.T, h *Host, v Volume) string {
	t.Helper()
	if err := h.Set(uid, v); err != nil {
		t.Fatal(err)
	}
	path, err := h.Source(uid, v, "", "app", 0)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func texts(contents map[string]string) map[string]File {
	files := map[string]File{}
	for name, text := range contents {
		files[name] = File{Data: []byte(text), Mode: 0o644}
	}
	return files
}

// visible is what a container finds in the volume: no name that begins with two
// dots.
func visible(t interface{ Fatal(...any) }, dir string) map[string]string {
	found := map[string]string{}
	var walk func(string)
	walk = func(path string) {
		entries, err := os.ReadDir(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := filepath.Join(path, e.Name())
			if strings.HasPrefix(e.Name(), "..") && path == "" {
				continue
			}
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(name)
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			found[name] = string(data)
		}
	}
	walk("")
	return found
}

func modeOf(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%v group %d", info.Mode(), groupOf(info))
}

func groupOf(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Gid }

func TestFilesAreLinksIntoOneVersion(t *testing.T) {
	h := newHost(t)
	v := Volume{Name: "config", Files: texts(map[string]string{"app.conf": "1", "keys/a": "x", "keys/b": "y"})}
	dir := set(t, h, v)
	before, err := os.Readlink(filepath.Join(dir, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"app.conf": "..data/app.conf", "keys": "..data/keys"} {
		if got, err := os.Readlink(filepath.Join(dir, name)); got != want || err != nil {
			t.Errorf("%s leads to %q, %v; want %q", name, got, err, want)
		}
	}
	set(t, h, v)
	if again, _ := os.Readlink(filepath.Join(dir, "..data")); again != before {
		t.Error("the same files were written again")
	}
	v.Files = texts(map[string]string{"keys/b": "z"})
	set(t, h, v)
	if diff := cmp.Diff(map[string]string{"keys/b": "z"}, visible(t, dir)); diff != "" {
		t.Error(diff)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 3 {
		t.Errorf("something is left over: %v", entries)
	}
	if diff := cmp.Diff([]string{"config"}, h.Known(uid)); diff != "" {
		t.Error(diff)
	}
}

type killed struct{}

// Whatever step the agent is killed at, a container sees all of one version, and
// the next agent finishes.
func TestNoOneEverSeesTwoVersionsOfAVolume(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b", "d/a", "d/b", "e/f/g"})
	contents := rapid.MapOf(names, rapid.StringMatching(`[xyz]{0,3}`))
	rapid.Check(t, func(rt *rapid.T) {
		h := newHost(t)
		v := Volume{Name: "config"}
		dir := h.path(uid, v)
		var seen []map[string]string // versions that a container may see
		for range rapid.IntRange(1, 6).Draw(rt, "updates") {
			next := contents.Draw(rt, "files")
			v.Files = texts(next)
			left := rapid.IntRange(0, 25).Draw(rt, "killed after")
			h.step = func() {
				check(rt, dir, append(seen, next))
				if left--; left < 0 {
					panic(killed{})
				}
			}
			done := func() (done bool) {
				defer func() {
					if r := recover(); r != nil && r != any(killed{}) {
						panic(r)
					}
				}()
				if err := h.Set(uid, v); err != nil {
					rt.Fatal(err)
				}
				return true
			}()
			if seen = append(seen, next); done {
				seen = seen[len(seen)-1:]
			} else {
				h = New(h.dir) // another agent
			}
			check(rt, dir, seen)
			if !done {
				continue
			}
			if diff := cmp.Diff(next, visible(rt, dir)); diff != "" {
				rt.Fatal(diff)
			}
			if dirs, _ := filepath.Glob(filepath.Join(dir, "..2*")); len(dirs) != 1 {
				rt.Fatalf("versions left over: %v", dirs)
			}
		}
	})
}

// check reads through the link, as a container does that wants all of one
// version.
func check(t *rapid.T, dir string, versions []map[string]string) {
	link, err := os.Readlink(filepath.Join(dir, dataLink))
	if errors.Is(err, fs.ErrNotExist) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	now := visible(t, filepath.Join(dir, link))
	if !slices.ContainsFunc(versions, func(v map[string]string) bool { return maps.Equal(v, now) }) {
		t.Fatalf("a container sees %v, which was never asked for: %v", now, versions)
	}
}

func TestAReaderThatLoopsNeverSeesAMix(t *testing.T) {
	h := newHost(t)
	v := Volume{Name: "config"}
	write := func(text string) {
		v.Files = texts(map[string]string{"a": text, "b": text})
		set(t, h, v)
	}
	write("0")
	dir := h.path(uid, v)
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for reads := 0; ; {
			select {
			case <-stop:
				if reads == 0 {
					t.Error("nothing was read")
				}
				return
			default:
			}
			// One look at the link; a version may go while it is being read.
			version, err := os.Readlink(filepath.Join(dir, dataLink))
			if err != nil {
				t.Errorf("the link was missing: %v", err)
				return
			}
			a, err1 := os.ReadFile(filepath.Join(dir, version, "a"))
			b, err2 := os.ReadFile(filepath.Join(dir, version, "b"))
			if err1 == nil && err2 == nil {
				if reads++; string(a) != string(b) {
					t.Errorf("a is %q and b is %q", a, b)
				}
			}
			if _, err := os.ReadFile(filepath.Join(dir, "a")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	for i := range 300 {
		write(fmt.Sprint(i))
	}
	close(stop)
	reader.Wait()
}

func TestAnEmptyDirIsOpenToAllAndStays(t *testing.T) {
	h := newHost(t)
	v := Volume{Name: "scratch"}
	dir := set(t, h, v)
	if got := modeOf(t, dir); !strings.HasPrefix(got, "drwxrwxrwx ") {
		t.Error(got)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "mine"), make([]byte, 100_000), 0o600), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	set(t, h, v)
	if got := modeOf(t, dir); !strings.HasPrefix(got, "drwx------ ") {
		t.Errorf("the container's own mode was taken away: %s", got)
	}
	if used, err := h.Used(uid, "scratch"); used < 100_000 || err != nil {
		t.Errorf("used %d, %v", used, err)
	}
	if err := h.Remove(uid, nil); err != nil || h.Has(uid) || len(h.Pods()) != 0 {
		t.Errorf("left over: %v, %v", h.Pods(), err)
	}
	if used, err := h.Used(uid, "scratch"); used != 0 || err != nil {
		t.Errorf("used %d, %v", used, err)
	}
}

func TestTheGroupMayDoWhatTheVolumeIsFor(t *testing.T) {
	asRoot(t)
	h := newHost(t)
	group := int64(4000)
	dir := set(t, h, Volume{Name: "scratch", Group: &group})
	if got := modeOf(t, dir); got != "dgrwxrwxrwx group 4000" {
		t.Error(got)
	}
	v := Volume{Name: "config", Group: &group, Memory: true, Files: map[string]File{"d/key": {Data: []byte("k"), Mode: 0o400}}}
	dir = set(t, h, v)
	for path, want := range map[string]string{"": "dgrwxrwxrwx group 4000", "d": "dgrwxr-xr-x group 4000", "d/key": "-r--r----- group 4000"} {
		if got := modeOf(t, filepath.Join(dir, path)); got != want {
			t.Errorf("%q is %s, want %s", path, got, want)
		}
	}
}

func TestMemoryHasASizeAndGoesWithThePod(t *testing.T) {
	asRoot(t)
	h := newHost(t)
	v := Volume{Name: "cache", Memory: true, Size: 64 << 10}
	dir := set(t, h, v)
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 128<<10), 0o600); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("more than its size was written: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "small"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h = New(h.dir)
	set(t, h, v) // another agent finds it
	if _, err := os.Stat(filepath.Join(dir, "small")); err != nil {
		t.Error(err)
	}
	if err := h.Remove(uid, nil); err != nil || h.Has(uid) {
		t.Error(err)
	}
	if mounts, err := mountsBelow(h.dir); len(mounts) > 0 || err != nil {
		t.Errorf("still mounted: %v, %v", mounts, err)
	}
}

func TestHostPathsAreCheckedAsByTheKubelet(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(in("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", in("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	const failed = "hostPath type check failed: "
	for _, test := range []struct{ path, typ, want string }{
		{in("missing"), "", ""},
		{in("file"), "", ""},
		{dir, "Directory", ""},
		{in("file"), "Directory", failed + in("file") + " is not a directory"},
		{in("missing"), "Directory", failed + in("missing") + " is not a directory"},
		{in("new/dir"), "DirectoryOrCreate", ""},
		{in("file"), "DirectoryOrCreate", failed + in("file") + " is not a directory"},
		{in("file"), "File", ""},
		{dir, "File", failed + dir + " is not a file"},
		{in("newfile"), "FileOrCreate", ""},
		{in("no/dir/newfile"), "FileOrCreate", "open " + in("no/dir/newfile") + ": no such file or directory"},
		{in("socket"), "Socket", ""},
		{in("file"), "Socket", failed + in("file") + " is not a socket file"},
		{"/dev/null", "CharDevice", ""},
		{in("file"), "CharDevice", failed + in("file") + " is not a character device"},
		{"/dev/null", "BlockDevice", failed + "/dev/null is not a block device"},
	} {
		got := ""
		if err := New(t.TempDir()).Set(uid, Volume{Name: "v", HostPath: test.path, HostPathType: test.typ}); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s as %q: %q, want %q", test.path, test.typ, got, test.want)
		}
	}
	if _, err := os.Stat(in("missing")); err == nil {
		t.Error("a hostPath of no type was made")
	}
}

func TestPartsOfVolumes(t *testing.T) {
	asRoot(t)
	h := newHost(t)
	scratch := Volume{Name: "scratch"}
	dir := set(t, h, scratch)
	outside := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600),
		os.Symlink(outside, filepath.Join(dir, "out")),
		os.Symlink("../../../..", filepath.Join(dir, "up")),
		os.Mkdir(filepath.Join(dir, "in"), 0o755),
		os.Symlink("in", filepath.Join(dir, "link")),
		os.WriteFile(filepath.Join(dir, "in/file"), []byte("1"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"out", "out/secret", "up", "up/etc", "../scratch", "in/../../x"} {
		if path, err := h.Source(uid, scratch, part, "app", 0); err == nil {
			t.Errorf("%s leads out of the volume, to %s", part, path)
		}
	}
	for _, part := range []string{"in", "link", "in/../in"} {
		path, err := h.Source(uid, scratch, part, "app", 0)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(filepath.Join(path, "file")); string(data) != "1" || err != nil {
			t.Errorf("%s: %q, %v", part, data, err)
		}
	}
	if path, err := h.Source(uid, scratch, "in/file", "app", 1); err != nil {
		t.Error(err)
	} else if data, err := os.ReadFile(path); string(data) != "1" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := h.Source(uid, scratch, "new/dir", "app", 2); err != nil {
		t.Error(err)
	}
	if got := modeOf(t, filepath.Join(dir, "new/dir")); !strings.HasPrefix(got, "drwxrwxrwx ") {
		t.Errorf("made as %s", got)
	}
	// What is bound from elsewhere is unmounted, and never removed.
	if _, err := h.Source(uid, Volume{Name: "host", HostPath: filepath.Dir(outside)}, filepath.Base(outside), "app", 3); err != nil {
		t.Error(err)
	}
	if err := h.Remove(uid, nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "secret")); err != nil {
		t.Errorf("the node's own files are gone: %v", err)
	}
}

// A container that swaps a part for a link out of the volume, again and again,
// gains nothing by it.
func TestAPartThatIsSwappedForALinkNeverLeadsOut(t *testing.T) {
	asRoot(t)
	h := newHost(t)
	v := Volume{Name: "scratch"}
	dir := set(t, h, v)
	part := filepath.Join(dir, "part")
	outside := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600),
		os.Mkdir(filepath.Join(dir, "real"), 0o755), os.Symlink(outside, filepath.Join(dir, "evil")), os.Symlink("real", part),
	); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Remove(part + ".new")
			_ = os.Symlink([]string{"real", outside}[i%2], part+".new")
			_ = os.Rename(part+".new", part)
		}
	})
	inside := 0
	for range 300 {
		path, err := h.Source(uid, v, "part", "app", 0)
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(path, "secret")); err == nil {
			t.Fatal("the container sees what is outside of the volume")
		}
		inside++
	}
	close(stop)
	attacker.Wait()
	if inside == 0 {
		t.Error("the part was never bound")
	}
}

func TestAPartOfAConfigMapStaysAsItWas(t *testing.T) {
	asRoot(t)
	h := newHost(t)
	v := Volume{Name: "config", Files: texts(map[string]string{"app.conf": "1"})}
	set(t, h, v)
	path, err := h.Source(uid, v, "app.conf", "app", 0)
	if err != nil {
		t.Fatal(err)
	}
	v.Files = texts(map[string]string{"app.conf": "2"})
	set(t, h, v)
	if data, err := os.ReadFile(path); string(data) != "1" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if path, err = h.Source(uid, v, "app.conf", "app", 0); err != nil { // the next attempt's
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); string(data) != "2" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := h.Source(uid, v, "missing", "app", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that does not exist: %v", err)
	}
}

func TestFingerprints(t *testing.T) {
	one, two := int64(1), int64(2)
	seen := map[string]Volume{}
	for _, v := range []Volume{
		{Name: "a"},
		{Name: "b"},
		{Name: "a", HostPath: "/x"},
		{Name: "a", HostPath: "/x", HostPathType: "File"},
		{Name: "a", Memory: true},
		{Name: "a", Memory: true, Size: 1},
		{Name: "a", Group: &one},
		{Name: "a", Group: &two},
		{Name: "a", Files: texts(map[string]string{"x": "1"})},
		{Name: "a", Files: texts(map[string]string{"x": "2"})},
		{Name: "a", Files: texts(map[string]string{"y": "1"})},
		{Name: "a", Files: map[string]File{"x": {Data: []byte("1"), Mode: 0o400}}},
	} {
		if other, ok := seen[v.Fingerprint()]; ok {
			t.Errorf("%+v and %+v are the same", v, other)
		}
		seen[v.Fingerprint()] = v
	}
}
