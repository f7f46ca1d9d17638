// Package store is the contract of Orch's memory: a versioned key-value map
// with compare-and-swap, watch and history.
//
// The centre is an append-only log of revisions. Every committed [Change]
// becomes one [Entry], which says what the key holds since then, who wrote it,
// why, and which revision made that necessary. The current state is a
// projection of the log, written in the same transaction.
//
// The one invariant: a change that was answered is in the log, on disk, at one
// revision, and the log never holds half of one.
//
// Keys are paths such as "Pod/default/web-1"; the store gives the slashes a
// meaning only for topics (see [Store.Watch]). Values are opaque bytes.
//
// Implementations: boltstore (the real one) and memstore (the simplest truth,
// used as the model); storetest is the suite that both pass. Read next:
// storetest, then boltstore.
package store

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotFound says that the key holds nothing at the revision asked for.
	ErrNotFound = errors.New("key not found")
	// ErrConflict says that the key is not at the revision that the change
	// expected. The value that won is there for the next Get.
	ErrConflict = errors.New("revision conflict")
	// ErrCompacted says that the log no longer reaches back to the revision
	// asked for. The caller lists anew and goes on from that list's revision.
	ErrCompacted = errors.New("revision has been compacted")
	// ErrFuture says that the revision asked for has not been written yet.
	ErrFuture = errors.New("revision is in the future")
	// ErrClosed says that the store has been closed.
	ErrClosed = errors.New("store is closed")
)

// Expectations for [Change.Expect] besides a revision.
const (
	// ExpectAbsent wants the key not to exist.
	ExpectAbsent int64 = 0
	// ExpectAny takes whatever is there, or nothing.
	ExpectAny int64 = -1
)

// Cause says why a change was made. Every entry of the log has one.
type Cause struct {
	// Actor is who wrote: a user ("admin") or a component
	// ("deployment-controller", "agent/node-1").
	Actor string
	// Reason is one CamelCase word that programs can match, for example
	// "ScaledUp".
	Reason string
	// Message is one sentence for people.
	Message string
	// Trigger is the revision that made this change necessary; 0 where it
	// began with a person, a node or the cluster itself, -1 with a clock.
	Trigger int64
	// SteppedBy is the user who let the actor, which was paused, do this one step.
	SteppedBy string
}

// Change is one conditional write.
type Change struct {
	Key string
	// Value is what the key will hold; with Delete, the last state of what is
	// deleted, for those who watch.
	Value  []byte
	Delete bool
	// Expect is the revision that the key must be at, or ExpectAbsent, or
	// ExpectAny. A Delete of an absent key is ErrNotFound, whatever it expects.
	Expect int64
	// Topics are names, besides the key's own path, under which watchers find
	// the entry (for example "Pod@node-1"). A change that takes an object
	// out of a topic names that topic too, so that its watchers learn of it.
	Topics []string
	Cause  Cause
}

// Entry is one revision of the log.
type Entry struct {
	// Revision is larger than that of every earlier entry; revisions need not
	// be consecutive.
	Revision int64
	Key      string
	Value    []byte
	Deleted  bool
	// Prev is the revision of the key before this one; 0 where the entry
	// created the key, be it for the second time. It may have been compacted.
	Prev   int64
	Topics []string
	Cause  Cause
	// Time is when the entry was written, in UTC. It is never before that of an
	// earlier entry, even where the machine's clock was set back.
	Time time.Time
}

// Page is a part of a list, all of it at one revision.
type Page struct {
	// Entries are in the order of their keys; none is Deleted.
	Entries []Entry
	// Revision is the one that the list shows; later pages and a watch go on
	// from it.
	Revision int64
	// More says that keys after the last entry's match too.
	More bool
	// Remaining is how many there are after this page, or -1 where counting
	// them would cost a scan.
	Remaining int64
}

// ListOptions narrow a list.
type ListOptions struct {
	// At is the revision to read; 0 means the newest.
	At int64
	// After makes the page begin with the first key greater than it.
	After string
	// Limit is the most entries that the page may have; 0 means all.
	Limit int
}

// Store is a versioned key-value map.
//
// Concurrency: all methods may be called from several goroutines. Bytes that
// a method returns are read-only and stay valid.
type Store interface {
	// Commit makes one change and returns its entry once that is durable.
	// Errors: ErrConflict, ErrNotFound (a Delete of what is not there), ErrClosed,
	// or the medium's own (disk full, read-only); after such an error nothing
	// of the change is visible, then or later.
	Commit(ctx context.Context, c Change) (Entry, error)

	// Get returns what key holds at the revision `at` (0: the newest).
	// Errors: ErrNotFound, ErrCompacted, ErrFuture.
	Get(ctx context.Context, key string, at int64) (Entry, error)

	// List returns the live keys that begin with prefix.
	// Errors: ErrCompacted, ErrFuture.
	List(ctx context.Context, prefix string, o ListOptions) (Page, error)

	// History returns the entries of one key, newest first, at most limit
	// (0: all), as far back as the log goes, deletions and earlier lives of
	// the key included. A key that never was has an empty one.
	History(ctx context.Context, key string, limit int) ([]Entry, error)

	// Log returns the entries with revisions in (after, …], oldest first, at
	// most limit. Errors: ErrCompacted where entries after `after` are gone.
	Log(ctx context.Context, after int64, limit int) ([]Entry, error)

	// At returns the newest revision whose entry was written no later than t;
	// 0 where the log does not go back that far.
	At(ctx context.Context, t time.Time) (int64, error)

	// Watch follows the entries of one topic with revisions greater than
	// after. Topics of an entry are the leading parts of its key's path
	// ("Pod", "Pod/default", "Pod/default/web-1"), its Change's Topics, and ""
	// for the whole log. Watch itself never fails; Next does.
	Watch(topic string, after int64) Watcher

	// Revision is the newest revision; 0 for an empty store.
	Revision() int64

	// Compact forgets the log at and below revision rev, except what keys hold
	// at rev. Reads and watches that would need what is gone answer ErrCompacted
	// from then on; reads at rev itself do not. To compact again to less is no
	// error; to more than Revision is ErrFuture.
	Compact(ctx context.Context, rev int64) error

	// Compacted is the revision that the log was last compacted to; 0: never.
	Compacted() int64

	// Close ends all watches with ErrClosed and frees the medium.
	Close() error
}

// Watcher reads the log at its own pace. A slow one costs the others nothing
// and misses nothing: there is no buffer that could overflow.
//
// Concurrency: a Watcher belongs to one goroutine.
type Watcher interface {
	// Next waits until the topic has entries that it has not returned yet, and
	// returns some of them, oldest first; or ctx's error. Errors: ErrCompacted
	// (what should come next is gone), ErrClosed.
	Next(ctx context.Context) ([]Entry, error)
	// Progress is the revision up to which everything that matches has been
	// returned. It moves also while nothing matches.
	Progress() int64
	// Close frees what the watcher holds.
	Close()
}
