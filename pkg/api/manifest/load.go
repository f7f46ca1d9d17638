package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

var extensions = []string{".json", ".yaml", ".yml"}

// urlTimeout bounds the reading of a URL; Decode bounds its size.
const urlTimeout = time.Minute

// Load reads the manifests of files, of directories (the files in them that end
// in .json, .yaml or .yml, in order of name; with recursive also those of
// directories below), of URLs (http:// and https://) and, for "-", of stdin. It
// returns every document that is
// right and, joined, every error.
func Load(paths []string, recursive bool, stdin io.Reader, v Validation) ([]Document, error) {
	var docs []Document
	var errs []error
	decode := func(r io.Reader, source string) {
		for doc, err := range Decode(r, source, v) {
			if err != nil {
				errs = append(errs, err)
				continue
			}
			docs = append(docs, doc)
		}
	}
	for _, path := range paths {
		if path == "-" {
			decode(stdin, "STDIN")
			continue
		}
		if strings.HasPrefix(path, "http://") || strings.HasPrefix(path, "https://") {
			errs = append(errs, withURL(path, func(r io.Reader) { decode(r, path) }))
			continue
		}
		files, err := filesOf(path, recursive)
		errs = append(errs, err)
		for _, file := range files {
			errs = append(errs, withFile(file, func(r io.Reader) { decode(r, file) }))
		}
	}
	return docs, errors.Join(errs...)
}

func withFile(path string, f func(io.Reader)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	f(file)
	return nil
}

func withURL(address string, f func(io.Reader)) error {
	ctx, cancel := context.WithTimeout(context.Background(), urlTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("unable to read URL %q: %w", address, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("unable to read URL %q, server reported %s, status code=%d", address, answer.Status, answer.StatusCode)
	}
	f(answer.Body)
	return nil
}

// filesOf returns the manifests that a path means. A file that is named is read
// whatever it is called.
func filesOf(path string, recursive bool) ([]string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the path %q does not exist", path)
	case err != nil:
		return nil, err
	case !info.IsDir():
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != path && !recursive:
			return fs.SkipDir
		case !d.IsDir() && slices.Contains(extensions, filepath.Ext(p)):
			files = append(files, p)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: no files that end in .json, .yaml or .yml", path)
	}
	return files, err
}
