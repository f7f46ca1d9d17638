package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "orch/proto/v1"
)

// journal is a folder with a file for each injection that is broken, or that the
// API server was not told the end of. It is written before anything is broken, so
// that no agent's death leaves behind what the next one does not know of.
//
// It need not outlive the machine: what was broken does not either.
type journal string

func (j journal) file(uid string) string { return filepath.Join(string(j), uid) }

// Read returns all that there is. A file that was being written when the machine
// died is no record: nothing was broken yet.
func (j journal) Read() (map[string]Record, error) {
	records := map[string]Record{}
	entries, err := os.ReadDir(string(j))
	if errors.Is(err, os.ErrNotExist) {
		return records, nil
	}
	var failed []error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".new") {
			continue
		}
		b, err := os.ReadFile(j.file(e.Name()))
		i := &v1.ChaosInjection{}
		if err == nil {
			err = proto.Unmarshal(b, i)
		}
		if err == nil && i.GetMetadata().GetUid() != e.Name() {
			err = errors.New("it is of another injection")
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("journal of faults, %s: %w", e.Name(), err))
			continue
		}
		records[e.Name()] = Record{Injection: i, Inherited: true}
	}
	return records, errors.Join(append(failed, err)...)
}

// Write enters an injection.
func (j journal) Write(i *v1.ChaosInjection) error {
	b, err := proto.Marshal(i)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(string(j), 0o700); err != nil {
		return err
	}
	name := j.file(i.GetMetadata().GetUid())
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Remove takes one out. No error where it is not in it.
func (j journal) Remove(uid string) error {
	if err := os.Remove(j.file(uid)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
