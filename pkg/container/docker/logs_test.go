package docker_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"orch/pkg/container/docker"
)

// frame is a frame of Docker's stream format.
func frame(kind byte, content []byte) []byte {
	header := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(header[4:], uint32(len(content))) //nolint:gosec // short
	return append(header, content...)
}

func TestFramesComeToTheirStreamsHoweverTheyAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream, wantOut, wantErr bytes.Buffer
		for range rapid.IntRange(0, 20).Draw(t, "frames") {
			content := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "content")
			kind := rapid.SampledFrom([]byte{0, 1, 2}).Draw(t, "kind")
			stream.Write(frame(kind, content))
			if kind == 2 {
				wantErr.Write(content)
			} else {
				wantOut.Write(content)
			}
		}
		var r io.Reader = &stream
		cut := rapid.SampledFrom([]func(io.Reader) io.Reader{iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader}).Draw(t, "cut")
		var gotOut, gotErr bytes.Buffer
		if err := docker.Unframe(bufio.NewReaderSize(cut(r), 16), &gotOut, &gotErr); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(gotOut.Bytes(), wantOut.Bytes()) || !bytes.Equal(gotErr.Bytes(), wantErr.Bytes()) {
			t.Errorf("standard output %q, want %q; standard error %q, want %q", gotOut.Bytes(), wantOut.Bytes(), gotErr.Bytes(), wantErr.Bytes())
		}
	})
}

func TestAStreamOfFramesMayEndInManyWays(t *testing.T) {
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		stream io.Reader
		out    string
		err    string
	}{
		"within a header":           {bytes.NewReader(frame(1, nil)[:5]), "", ""},
		"within the content":        {bytes.NewReader(frame(1, []byte("abc"))[:10]), "ab", ""},
		"with an error of the line": {io.MultiReader(bytes.NewReader(frame(1, []byte("abc"))), iotest.ErrReader(gone)), "abc", "gone"},
		"with the engine's own":     {bytes.NewReader(append(frame(1, []byte("abc")), frame(3, []byte("disk is full"))...)), "abc", "disk is full"},
		"with nonsense":             {strings.NewReader("HTTP/1.1 500"), "", "unknown kind 72"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := docker.Unframe(bufio.NewReader(c.stream), &out, io.Discard)
			if out.String() != c.out || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("printed %q and returned %v, want %q and %q", out.String(), err, c.out, c.err)
			}
		})
	}
}
