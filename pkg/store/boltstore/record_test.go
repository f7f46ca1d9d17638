package boltstore

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"orch/pkg/store"
)

// drawEntry draws an entry as the committer makes them.
func drawEntry(t *rapid.T) (e store.Entry, w way) {
	e = store.Entry{
		Revision: rapid.Int64Range(1, math.MaxInt64).Draw(t, "revision"),
		Key:      rapid.StringN(1, 50, -1).Draw(t, "key"),
		Deleted:  rapid.Bool().Draw(t, "deleted"),
		Cause: store.Cause{
			Actor:   rapid.String().Draw(t, "actor"),
			Reason:  rapid.String().Draw(t, "reason"),
			Message: rapid.String().Draw(t, "message"),
			Trigger: rapid.Int64().Draw(t, "trigger"),
			// Where it is empty the record has a version that others read too.
			SteppedBy: rapid.SampledFrom([]string{"", "", "admin"}).Draw(t, "stepped by"),
		},
		Time: time.Unix(0, rapid.Int64().Draw(t, "time")).UTC(),
	}
	if v := rapid.SliceOf(rapid.Byte()).Draw(t, "value"); len(v) > 0 {
		e.Value = v
	}
	if topics := rapid.SliceOf(rapid.String()).Draw(t, "topics"); len(topics) > 0 {
		e.Topics = topics
	}
	w.link = rapid.Int64Range(0, e.Revision-1).Draw(t, "link")
	if w.link > 0 {
		w.stone = rapid.Int64Range(0, w.link).Draw(t, "stone")
		w.since = rapid.Uint8Range(0, milestoneEvery-1).Draw(t, "since")
	}
	if rapid.Bool().Draw(t, "updates") {
		e.Prev = w.link
	}
	return e, w
}

func TestRecordComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, w := drawEntry(t)
		r, err := decode(e.Revision, encode(e, w))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, r.entry(e.Revision)); diff != "" || r.way != w {
			t.Fatalf("way %v, want %v; entry (-want +got):\n%s", r.way, w, diff)
		}
	})
}

func TestRecordIsRefusedWhereOneBitIsWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, w := drawEntry(t)
		b := encode(e, w)
		b[rapid.IntRange(0, len(b)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := decode(e.Revision, b); !errors.Is(err, errRecord) {
			t.Fatalf("error %v", err)
		}
	})
}

func TestRecordIsRefused(t *testing.T) {
	b := encode(store.Entry{Revision: 7, Key: "k", Value: []byte("v"), Topics: []string{"t"}}, way{link: 3, stone: 2, since: 1})
	for _, tt := range []struct {
		name string
		rev  int64
		b    []byte
	}{
		{"under another revision", 8, b},
		{"under no revision", 0, b},
		{"when it is empty", 7, nil},
		{"when its end is missing", 7, b[:len(b)-1]},
		{"when it has more than it had", 7, append(slices.Clone(b), 0)},
		{"of a version to come", 7, append([]byte{3}, b[1:]...)},
		{"of the version before", 7, append([]byte{1}, b[1:]...)},
		{"when its milestone is later than its link", 7, sealed(7, encode(store.Entry{Revision: 7, Key: "k"}, way{link: 3, stone: 4}))},
		{"when its link leads forward", 3, sealed(3, b)},
		{"when it ends in a field, though the checksum is right", 7, sealed(7, b[:8])},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r, err := decode(tt.rev, tt.b); !errors.Is(err, errRecord) {
				t.Errorf("decode = %+v, %v", r, err)
			}
		})
	}
}

// sealed returns b with the version and checksum that make it a record of rev.
func sealed(rev int64, b []byte) []byte {
	b = slices.Clone(b)
	b[0] = recordVersion
	binary.BigEndian.PutUint32(b[1:], checksum(rev, b))
	return b
}

func TestARecordOfVersion1LeadsBackByItsLinkAlone(t *testing.T) {
	e := store.Entry{Revision: 7, Key: "k", Value: []byte("v"), Prev: 3, Time: time.Unix(0, 9).UTC()}
	b := slices.Delete(encode(e, way{link: 3, stone: 2, since: 1}), flagsAt+2, flagsAt+4)
	b[0] = 1
	binary.BigEndian.PutUint32(b[1:], checksum(7, b))
	r, err := decode(7, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, r.entry(7)); diff != "" || r.way != (way{link: 3}) {
		t.Errorf("way %v; entry (-want +got):\n%s", r.way, diff)
	}
	if w := r.after(7); w != (way{link: 7, stone: 7}) {
		t.Errorf("the next one has way %v", w)
	}
}

// TestTheWayBackIsShortAndMissesNothing walks from each of many revisions to each
// before it.
func TestTheWayBackIsShortAndMissesNothing(t *testing.T) {
	const stride, most = 3, 200 // the key has every third revision
	ways := map[int64]way{stride: {}}
	for rev := int64(stride); rev <= most; rev += stride {
		ways[rev+stride] = ways[rev].after(rev)
		for at := rev; at > 0; at-- {
			steps, found := int64(0), rev
			for ; found > at; steps++ {
				found = ways[found].back(at)
			}
			if want := at / stride * stride; found != want {
				t.Fatalf("from %d to %d: at %d, want %d", rev, at, found, want)
			}
			if far := (rev - at) / stride; steps > far/milestoneEvery+milestoneEvery+1 {
				t.Fatalf("from %d to %d, %d back: %d steps", rev, at, far, steps)
			}
		}
	}
}

// FuzzDecode gives the decoder any bytes, as they are and with a checksum that
// lets them past the first door.
func FuzzDecode(f *testing.F) {
	f.Add(int64(7), encode(store.Entry{Revision: 7, Key: "k", Value: []byte("v"), Topics: []string{"t"}}, way{link: 3, stone: 2, since: 1}))
	f.Add(int64(1), []byte{})
	f.Add(int64(-1), []byte{1, 0, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, rev int64, b []byte) {
		_, _ = decode(rev, b)
		_, _ = decodePointer(b)
		if len(b) <= flagsAt {
			return
		}
		r, err := decode(rev, sealed(rev, b))
		if err != nil {
			return
		}
		e := r.entry(rev)
		again, err := decode(rev, encode(e, r.way))
		if err != nil {
			t.Fatalf("what was decoded cannot be written again: %v", err)
		}
		if diff := cmp.Diff(e, again.entry(rev)); diff != "" {
			t.Fatal(diff)
		}
	})
}
