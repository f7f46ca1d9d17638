package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// formatVersion is the version of the file's layout, kept in the meta bucket.
const formatVersion = 1

var (
	formatKey    = []byte("format")
	compactedKey = []byte("compacted")
)

// load makes an empty file a store, or checks one that is not empty and takes
// the store's state from it.
func (s *Store) load() error {
	empty := true
	err := guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func([]byte, *bbolt.Bucket) error {
				empty = false
				return nil
			})
		})
	})
	if err != nil {
		return err
	}
	if empty {
		return guard(func() error { return s.db.Update(initialize) })
	}
	return s.view(s.check)
}

// checkSize compares the size of the file with what its header says. It opens
// the file only to read, because bbolt otherwise begins with its list of free
// pages, which a truncated file may no longer have.
func (s *Store) checkSize(size int64) error {
	db, err := s.openBolt(true)
	if err != nil {
		return err
	}
	err = guard(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			if size < tx.Size() {
				return corrupt("it was cut short: %d bytes of %d are left", size, tx.Size())
			}
			return nil
		})
	})
	return errors.Join(err, guard(db.Close))
}

func initialize(tx *bbolt.Tx) error {
	for _, name := range [][]byte{logBucket, currentBucket, metaBucket} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return tx.Bucket(metaBucket).Put(formatKey, encodeFormat(formatVersion))
}

// check reads the whole file: every record against its checksum, the log
// against gaps, current against the log, and the pages against each other.
func (s *Store) check(t txn) error {
	if err := t.checkFormat(); err != nil {
		return err
	}
	compacted, compactedAt, err := t.compacted()
	if err != nil {
		return err
	}
	newest, nanos, err := t.checkLog(compacted)
	if err != nil {
		return err
	}
	if err := t.checkCurrent(newest); err != nil {
		return err
	}
	if err := t.checkPaths(); err != nil {
		return err
	}
	if err := checkPages(t.Tx, s.db.Info().PageSize); err != nil {
		return err
	}
	head, err := t.head()
	if err != nil {
		return err
	}
	s.revision.Store(head)
	s.compacted.Store(compacted)
	s.lastTime = max(nanos, compactedAt)
	return nil
}

// encodeFormat writes a version twice, once inverted, so that a broken one is
// not taken for one to come.
func encodeFormat(version byte) []byte { return []byte{version, ^version} }

func (t txn) checkFormat() error {
	v := t.meta.Get(formatKey)
	if len(v) == 0 || !bytes.Equal(v, encodeFormat(v[0])) {
		return corrupt("format %x is none", v)
	}
	if v[0] != formatVersion {
		return fmt.Errorf("the file has format %d, this program reads format %d", v[0], formatVersion)
	}
	return nil
}

// checkLog reads every record and returns the newest entry of each key, and the
// time of the newest of all.
func (t txn) checkLog(compacted int64) (newest map[string]pointer, nanos int64, err error) {
	newest = map[string]pointer{}
	next := compacted + 1
	err = t.log.ForEach(func(k, v []byte) error {
		rev := revisionOf(k)
		r, err := decodeAt(k, v)
		if err != nil {
			return err
		}
		if rev > compacted {
			if rev != next {
				return corrupt("the log jumps from revision %d to %d", next-1, rev)
			}
			next++
		}
		newest[string(r.key)] = pointer{rev, r.deleted}
		nanos = r.nanos
		return nil
	})
	return newest, nanos, err
}

// checkCurrent compares the current bucket with what the log says.
func (t txn) checkCurrent(newest map[string]pointer) error {
	found := 0
	err := t.current.ForEach(func(k, v []byte) error {
		p, err := decodePointer(v)
		if err != nil {
			return corrupt("key %q: %w", k, err)
		}
		if newest[string(k)] != p {
			return corrupt("key %q: current is revision %d, the log says %d", k, p.rev, newest[string(k)].rev)
		}
		found++
		return nil
	})
	if err == nil && found != len(newest) {
		err = corrupt("%d keys are current, the log has %d", found, len(newest))
	}
	return err
}

// checkPaths looks up every key, which walks the inner pages as no scan does.
func (t txn) checkPaths() error {
	for _, c := range []*bbolt.Cursor{t.Cursor(), t.meta.Cursor(), t.log.Cursor(), t.current.Cursor()} {
		path := c.Bucket().Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if found, _ := path.Seek(k); !bytes.Equal(found, k) {
				return corrupt("key %.32x cannot be found, only passed by", k)
			}
		}
	}
	return nil
}

// checkPages runs bbolt's own check of its pages and its list of free ones: a
// page that is in use and free would be overwritten one day.
//
// That check runs in a goroutine of bbolt's, where a fault would end the
// process. So it comes last, when everything that it reads has been read once;
// before it, checkPages looks whether pages end within the file, and brief keeps
// it from printing a key of a length that is wrong.
func checkPages(tx *bbolt.Tx, pageSize int) error {
	end := int(tx.Size()) / pageSize
	for id := 2; id < end; id++ { // 0 and 1 are the headers
		page, err := tx.Page(id)
		if err != nil {
			return err
		}
		if page.Type == "free" {
			continue // its header means nothing
		}
		if id += page.OverflowCount; id >= end {
			return corrupt("page %d of %d goes on for %d", id-page.OverflowCount, end, page.OverflowCount)
		}
	}
	var all []error
	for err := range tx.Check(bbolt.WithKVStringer(brief{})) {
		if len(all) < 3 { // more would not help
			all = append(all, err)
		}
	}
	if len(all) > 0 {
		return corrupt("pages: %w", errors.Join(all...))
	}
	return nil
}

// brief prints the beginnings of keys, and no values.
type brief struct{}

func (brief) KeyToString(k []byte) string { return fmt.Sprintf("%x", k[:min(len(k), 8)]) }
func (brief) ValueToString([]byte) string { return "" }

// compacted is how far the log was compacted, and when the entry of that
// revision was written.
func (t txn) compacted() (rev, nanos int64, err error) {
	v := t.meta.Get(compactedKey)
	if v == nil {
		return 0, 0, nil
	}
	if len(v) == 20 {
		rev, nanos = revisionOf(v[:8]), int64(binary.BigEndian.Uint64(v[8:]))
	}
	if rev == 0 || !bytes.Equal(v, encodeCompacted(rev, nanos)) {
		return 0, 0, corrupt("compacted revision %x is none", v)
	}
	return rev, nanos, nil
}

func (t txn) setCompacted(rev, nanos int64) error {
	return t.meta.Put(compactedKey, encodeCompacted(rev, nanos))
}

// encodeCompacted writes both numbers and their checksum.
func encodeCompacted(rev, nanos int64) []byte {
	b := binary.BigEndian.AppendUint64(revisionKey(rev), uint64(nanos))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
}
