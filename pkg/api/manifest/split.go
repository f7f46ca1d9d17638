package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// text is one document of a stream.
type text struct {
	data  []byte
	line  int // where data begins, from 1
	begin int // the first line that is more than a comment
}

// split cuts a stream into its documents and leaves out the empty ones.
func split(data []byte) []text {
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // the mark that some editors put first
	if texts, ok := splitJSON(data); ok {
		return texts
	}
	return splitYAML(data)
}

// splitYAML cuts at the lines "---".
func splitYAML(data []byte) []text {
	var texts []text
	t := text{line: 1}
	add := func(end int) {
		if t.begin > 0 {
			t.data = data[:end]
			texts = append(texts, t)
		}
	}
	n, end := 0, 0
	for line := range bytes.Lines(data) {
		n++
		rest, isMarker := bytes.CutPrefix(line, []byte("---"))
		if isMarker && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0) {
			add(end)
			data, end = data[end:], 0
			t = text{line: n}
		} else {
			rest = line
		}
		if rest = bytes.TrimSpace(rest); t.begin == 0 && len(rest) > 0 && rest[0] != '#' {
			t.begin = n
		}
		end += len(line)
	}
	add(end)
	return texts
}

// splitJSON cuts between JSON values. It reports false where the stream is
// something else.
func splitJSON(data []byte) ([]text, bool) {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return nil, false
	}
	var texts []text
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		from := dec.InputOffset()
		var value json.RawMessage
		switch err := dec.Decode(&value); {
		case errors.Is(err, io.EOF):
			return texts, true
		case err != nil:
			return nil, false
		}
		line := 1 + bytes.Count(data[:from], []byte("\n"))
		blank := bytes.Count(data[from:dec.InputOffset()-int64(len(value))], []byte("\n"))
		texts = append(texts, text{data: data[from:dec.InputOffset()], line: line, begin: line + blank})
	}
}
