package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
)

// maxAudit is where an audit log begins anew, in bytes; the one before is kept
// as *.old. It is the figure of most settings of kube-apiserver's
// --audit-log-maxsize.
const maxAudit = 100 << 20

// auditLog is a file that does not grow for ever. Its user writes line by line,
// one at a time.
type auditLog struct {
	*os.File
	path string
	size int64
}

func openAudit(o options) (*auditLog, error) {
	a := &auditLog{path: cmp.Or(o.auditLog, filepath.Join(o.dataDir, "audit.log"))}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("--audit-log-path: %w", err)
	}
	return a, nil
}

func (a *auditLog) open() (err error) {
	if a.File, err = os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	info, err := a.Stat()
	if err == nil {
		a.size = info.Size()
	}
	return err
}

func (a *auditLog) Write(line []byte) (int, error) {
	if a.size += int64(len(line)); a.size > maxAudit {
		_ = a.Close() // every line of it was written
		if err := os.Rename(a.path, a.path+".old"); err != nil {
			return 0, err
		}
		if err := a.open(); err != nil {
			return 0, err
		}
	}
	return a.File.Write(line)
}
