package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"orch/pkg/store"
)

// A record is one entry as the log bucket holds it, under its revision:
//
//	version  1 byte
//	crc      4 bytes, CRC-32C of the revision, the version and all that follows
//	flags    1 byte
//	link     uvarint   revision of the key's entry before this one
//	stone    uvarint   version 2: revision of the key's last milestone before this one
//	since    1 byte    version 2: how many entries ago that was, less one
//	trigger  varint
//	time     varint    nanoseconds since 1970
//	key, actor, reason, message          each uvarint length, bytes
//	stepped by                           version 3: as these
//	topics   uvarint count, then each as above
//	value    the rest
//
// The link differs from store.Entry.Prev in one case: where a key that had been
// deleted is created again, Prev is 0 and the link leads on to the tombstone,
// so that a key's history reaches into its earlier lives.
//
// Every milestoneEvery-th entry of a key is a milestone. A walk into the past
// steps from milestone to milestone as long as those are still too new. A record
// without a link needs none of this, and has version 1. Only a record of which a
// version before could not tell all has version 3, so that others stay readable.
//
// The checksum covers the revision so that a record under a wrong key is found
// too. The value is last so that looking at a record needs no copy of it.
type record struct {
	deleted bool
	created bool
	way
	trigger int64
	nanos   int64
	key     []byte
	actor   []byte
	reason  []byte
	message []byte
	stepped []byte
	topics  [][]byte
	value   []byte
}

// A way leads from a record into the past of its key.
type way struct {
	link  int64 // the entry before; 0: there is none
	stone int64 // the last milestone before; 0: none is known
	since uint8 // how many entries ago the stone was, less one
}

// after is the way of the entry that follows the one of revision rev, whose way w
// is. A milestone is what lies milestoneEvery entries after another, or is the
// first with a way to keep.
func (w way) after(rev int64) way {
	if w.stone == 0 || w.since == milestoneEvery-1 {
		return way{link: rev, stone: rev}
	}
	return way{link: rev, stone: w.stone, since: w.since + 1}
}

// back is the next revision on the way to what the key held at a revision that is
// not compacted: never one that is further back than that, but for the last step.
func (w way) back(at int64) int64 {
	if w.stone > at {
		return w.stone
	}
	return w.link
}

const (
	recordVersion = 3
	flagsAt       = 5 // after version and checksum
	// milestoneEvery makes the way to an entry that is n back some n/16+8 steps.
	milestoneEvery = 16

	flagDeleted = 1 << 0
	flagCreated = 1 << 1
)

var (
	crcTable  = crc32.MakeTable(crc32.Castagnoli)
	errRecord = errors.New("malformed record")
)

// encode returns the record of e in a buffer of its own.
func encode(e store.Entry, w way) []byte {
	size := 64 + len(e.Key) + len(e.Value) + len(e.Cause.Actor) + len(e.Cause.Reason) + len(e.Cause.Message) + len(e.Cause.SteppedBy)
	for _, t := range e.Topics {
		size += binary.MaxVarintLen32 + len(t)
	}
	b := make([]byte, flagsAt, size)
	b[0] = 1
	if w.link != 0 {
		b[0] = 2
	}
	if e.Cause.SteppedBy != "" {
		b[0] = 3
	}
	var flags byte
	if e.Deleted {
		flags |= flagDeleted
	}
	if e.Prev == 0 {
		flags |= flagCreated
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(w.link))
	if b[0] > 1 {
		b = append(binary.AppendUvarint(b, uint64(w.stone)), w.since)
	}
	b = binary.AppendVarint(b, e.Cause.Trigger)
	b = binary.AppendVarint(b, e.Time.UnixNano())
	for _, s := range []string{e.Key, e.Cause.Actor, e.Cause.Reason, e.Cause.Message} {
		b = appendString(b, s)
	}
	if b[0] > 2 {
		b = appendString(b, e.Cause.SteppedBy)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Topics)))
	for _, t := range e.Topics {
		b = appendString(b, t)
	}
	b = append(b, e.Value...)
	binary.BigEndian.PutUint32(b[1:], checksum(e.Revision, b))
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// checksum covers the version too, but where that is 1.
func checksum(rev int64, b []byte) uint32 {
	sum := crc32.Checksum(revisionKey(rev), crcTable)
	if b[0] > 1 {
		sum = crc32.Update(sum, crcTable, b[:1])
	}
	return crc32.Update(sum, crcTable, b[flagsAt:])
}

// decode reads a record without copying: its slices point into b. Whatever b
// holds, decode answers with an error rather than a panic or a half-read record.
func decode(rev int64, b []byte) (record, error) {
	var r record
	switch {
	case len(b) <= flagsAt:
		return r, fmt.Errorf("%w: %d bytes", errRecord, len(b))
	case b[0] < 1 || b[0] > recordVersion:
		return r, fmt.Errorf("%w: version %d, this program reads 1 to %d", errRecord, b[0], recordVersion)
	case binary.BigEndian.Uint32(b[1:]) != checksum(rev, b):
		return r, fmt.Errorf("%w: wrong checksum", errRecord)
	}
	r.deleted = b[flagsAt]&flagDeleted != 0
	r.created = b[flagsAt]&flagCreated != 0

	// The checksum has shown that the bytes are those that were written; what
	// follows only keeps a bug in the writer from becoming one in the reader.
	in := reader{rest: b[flagsAt+1:]}
	r.way = in.way(rev, b[0])
	r.trigger = in.varint()
	r.nanos = in.varint()
	r.key = in.bytes()
	r.actor = in.bytes()
	r.reason = in.bytes()
	r.message = in.bytes()
	if b[0] > 2 {
		r.stepped = in.bytes()
	}
	if n := in.uvarint(uint64(len(in.rest))); n > 0 && !in.bad { // a topic takes a byte or more
		r.topics = make([][]byte, 0, n)
		for range n {
			r.topics = append(r.topics, in.bytes())
		}
	}
	r.value = in.rest
	if in.bad || rev <= 0 || len(r.key) == 0 {
		return record{}, fmt.Errorf("%w: fields do not fit", errRecord)
	}
	return r, nil
}

// wayOf reads the way of a record alone, without its checksum: a walk into the
// past passes many records for each that it shows.
func wayOf(rev int64, b []byte) (way, error) {
	if len(b) <= flagsAt || b[0] < 1 || b[0] > recordVersion {
		return way{}, fmt.Errorf("%w: no record of version 1 to %d", errRecord, recordVersion)
	}
	in := reader{rest: b[flagsAt+1:]}
	w := in.way(rev, b[0])
	if in.bad {
		return way{}, fmt.Errorf("%w: its way does not fit", errRecord)
	}
	return w, nil
}

// reader takes fields from the front of rest; after the first that does not
// fit it is bad and answers with zeroes.
type reader struct {
	rest []byte
	bad  bool
}

// uvarint reads a number that must not be above limit.
func (in *reader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(in.rest)
	if n <= 0 || v > min(limit, math.MaxInt64) {
		in.bad, in.rest = true, nil
		return 0
	}
	in.rest = in.rest[n:]
	return v
}

// way reads the way of the record of a revision.
func (in *reader) way(rev int64, version byte) way {
	w := way{link: int64(in.uvarint(uint64(rev) - 1))}
	if version > 1 {
		w.stone = int64(in.uvarint(uint64(w.link)))
		w.since = uint8(in.uvarint(milestoneEvery - 1))
	}
	return w
}

func (in *reader) varint() int64 {
	v, n := binary.Varint(in.rest)
	if n <= 0 {
		in.bad, in.rest = true, nil
		return 0
	}
	in.rest = in.rest[n:]
	return v
}

func (in *reader) bytes() []byte {
	n := in.uvarint(uint64(len(in.rest)))
	if n > uint64(len(in.rest)) { // the length itself took bytes
		in.bad, in.rest = true, nil
		return nil
	}
	b := in.rest[:n:n]
	in.rest = in.rest[n:]
	return b
}

// head is the record as an entry without its value, copied out of the file.
func (r record) head(rev int64) store.Entry {
	e := store.Entry{
		Revision: rev,
		Key:      string(r.key),
		Deleted:  r.deleted,
		Prev:     r.link,
		Cause: store.Cause{
			Actor:     string(r.actor),
			Reason:    string(r.reason),
			Message:   string(r.message),
			Trigger:   r.trigger,
			SteppedBy: string(r.stepped),
		},
		Time: time.Unix(0, r.nanos).UTC(),
	}
	if r.created {
		e.Prev = 0
	}
	if len(r.topics) > 0 {
		e.Topics = make([]string, 0, len(r.topics))
	}
	for _, t := range r.topics {
		e.Topics = append(e.Topics, string(t))
	}
	return e
}

// entry is the whole record as an entry, copied out of the file.
func (r record) entry(rev int64) store.Entry {
	e := r.head(rev)
	e.Value = cloneValue(r.value)
	return e
}

// cloneValue copies a value out of the file; an empty one is nil.
func cloneValue(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

// revisionKey is a revision as the key of the log: big endian, so that the
// order of keys is the order of revisions.
func revisionKey(rev int64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(rev))
}

// revisionOf is the inverse of revisionKey; 0 for what is none.
func revisionOf(key []byte) int64 {
	if len(key) != 8 {
		return 0
	}
	rev := binary.BigEndian.Uint64(key)
	if rev > math.MaxInt64 {
		return 0
	}
	return int64(rev)
}

// A pointer is what the current bucket holds under a key: the revision of its
// newest entry, and whether that is a tombstone, which keeps a list from
// visiting the log for what is no longer there.
type pointer struct {
	rev     int64
	deleted bool
}

func (p pointer) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 9), uint64(p.rev))
	if p.deleted {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodePointer(b []byte) (pointer, error) {
	if len(b) != 9 || b[8] > 1 || revisionOf(b[:8]) == 0 {
		return pointer{}, fmt.Errorf("%w: pointer %x", errRecord, b)
	}
	return pointer{rev: revisionOf(b[:8]), deleted: b[8] == 1}, nil
}
