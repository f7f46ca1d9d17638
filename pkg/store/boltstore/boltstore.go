// Package boltstore keeps the store on disk, in one bbolt file.
//
// The file has three buckets. "log" holds every entry under its revision;
// "current" holds, per key, the revision of its newest entry, tombstones
// included until they are compacted; "meta" holds the format's version and how
// far the log was compacted. A value lives only in the log. Each record links to
// the one that its key had before, and to a milestone further back, so a read at
// an earlier revision starts at the current one and walks back; no index per key
// is needed.
//
// The one invariant: log and current change in one transaction, and what that
// transaction wrote becomes visible to readers and watchers only after it is on
// disk.
//
// One goroutine commits. It takes all changes that wait, which are those that
// came while the commit before was writing, and makes them in one transaction:
// an fsync is the price of a commit, not of a change. Nothing waits on purpose.
//
// Read next: commit.go for a write, read.go for reads, watch.go for watches,
// compact.go, check.go for what Open refuses, record.go for the bytes.
package boltstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"orch/pkg/store"
)

var (
	// ErrLocked says that another process has the file open.
	ErrLocked = errors.New("another process has it open")
	// ErrCorrupt says that the file, or a part of it that was just read, is not
	// what was once written.
	ErrCorrupt = errors.New("store file is corrupt")
	// ErrFailed says that the medium failed in the middle of a commit in a way
	// that leaves open what is on it. The store takes no more writes; opening
	// it again shows what the medium kept.
	ErrFailed = errors.New("store takes no more writes because a commit failed half-way; restart to see what the disk kept")
)

// Defaults of Options. The numbers are Orch's own: a million entries of about
// 1 KiB make a file of 1 to 2 GiB, and three days bring a Monday back to the
// Friday before it.
const (
	DefaultKeepEntries = 1_000_000
	DefaultKeepFor     = 72 * time.Hour
)

// Options say how much of the log to keep. The zero value is the default.
type Options struct {
	// KeepEntries is how many of the newest entries the log keeps; 0 means
	// DefaultKeepEntries, a negative number sets no bound.
	KeepEntries int
	// KeepFor is how long the log keeps an entry; 0 means DefaultKeepFor, a
	// negative duration sets no bound. What is beyond either bound is
	// compacted: the count bounds the disk, and the age keeps a quiet cluster
	// from dragging along what nobody will ask for. The current value of a key
	// stays, however old it is.
	KeepFor time.Duration
	// OnCommit, if set, is told after each transaction of the committer how
	// many changes it made durable and how long it took. It is called by the
	// committer, so it must be quick.
	OnCommit func(changes int, took time.Duration)

	// For this package's tests; 0 means the defaults below.
	windowEntries int
	windowBytes   int
	compactEvery  time.Duration
	noSync        bool
	now           func() time.Time
}

const (
	// The window is what watchers read from memory; one that is further behind
	// reads the disk until it has caught up. In a busy cluster that is some
	// seconds; more would only be kept for the garbage collector to look at.
	defaultWindowEntries = 16 << 10
	defaultWindowBytes   = 8 << 20
	// How often the log is held against the bounds of Options.
	defaultCompactEvery = time.Minute
)

func (o Options) withDefaults() Options {
	setDefault(&o.KeepEntries, DefaultKeepEntries)
	setDefault(&o.KeepFor, DefaultKeepFor)
	setDefault(&o.windowEntries, defaultWindowEntries)
	setDefault(&o.windowBytes, defaultWindowBytes)
	setDefault(&o.compactEvery, defaultCompactEvery)
	if o.now == nil {
		o.now = time.Now
	}
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Store is a store.Store on disk.
//
// Concurrency: all methods may be called from several goroutines. The committer
// alone writes entries and is alone in changing what it calls its own; a
// compaction writes in short transactions in between.
type Store struct {
	path string
	opts Options
	db   *bbolt.DB

	requests chan *request
	closing  chan struct{} // closed when Close begins
	stopped  chan struct{} // closed when the committer will answer no more
	loops    sync.WaitGroup
	closed   sync.Once
	closeErr error

	revision  atomic.Int64 // newest durable revision; never beyond what is on disk
	compacted atomic.Int64
	failed    atomic.Bool // see ErrFailed
	lastTime  int64       // nanoseconds of the newest entry; the committer's own
	crowd     int         // how many changes came together lately; the committer's own

	compacting sync.Mutex            // one compaction at a time
	compactErr atomic.Pointer[error] // of the last run of compactLoop

	mu     sync.Mutex // guards window, and is never held while a transaction is open
	window window

	commits, changes, commitNanos atomic.Int64
}

var _ store.Store = (*Store)(nil)

var (
	logBucket     = []byte("log")
	currentBucket = []byte("current")
	metaBucket    = []byte("meta")
)

// Open opens the store file at path, or creates it (mode 0600) where there is
// none; its directory must exist. Open reads the whole file once, so that what
// is broken is refused before anything is built on it: a second or two for a
// million entries.
//
// Errors: ErrLocked at once where another process has the file, ErrCorrupt with
// what is wrong and how to restore, or the file system's own.
func Open(path string, o Options) (*Store, error) {
	s := &Store{
		path:     path,
		opts:     o.withDefaults(),
		requests: make(chan *request, 1024),
		closing:  make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	if err := s.open(); err != nil {
		if errors.Is(err, ErrCorrupt) {
			return nil, fmt.Errorf("open store %s: %w; to restore, move the file away and put a copy of an earlier time in its place", path, err)
		}
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s.window = newWindow(s.opts.windowEntries, s.opts.windowBytes, s.revision.Load())
	s.loops.Go(s.commitLoop)
	s.loops.Go(s.compactLoop)
	return s, nil
}

func (s *Store) open() error {
	switch info, err := os.Stat(s.path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.IsDir():
		return errors.New("it is a directory")
	case info.Size() == 0:
		// A file of no bytes is never what Open leaves, so it was cut short; to
		// begin anew in it would be to forget a whole cluster without a word.
		return corrupt("it is empty (remove it to begin with an empty cluster)")
	default:
		if err := s.checkSize(info.Size()); err != nil {
			return err
		}
	}
	db, err := s.openBolt(false)
	if err != nil {
		return err
	}
	s.db = db
	if err := s.load(); err != nil {
		return errors.Join(err, guard(db.Close))
	}
	return nil
}

func (s *Store) openBolt(readOnly bool) (db *bbolt.DB, err error) {
	err = guard(func() error {
		db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
			ReadOnly: readOnly,
			// The shortest wait there is: the lock is tried once.
			Timeout: time.Nanosecond,
			// A map that is large from the start: otherwise a growing file waits for
			// all open reads before it can be mapped anew, and a slow snapshot would
			// stop all writers. It costs address space, not memory.
			InitialMmapSize: initialMmap(),
			FreelistType:    bbolt.FreelistMapType,
			NoSync:          s.opts.noSync,
			NoStatistics:    true,
		})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return nil, corrupt("no valid header: %w", err)
	case err != nil:
		return nil, err
	}
	return db, nil
}

func initialMmap() int {
	if bits.UintSize == 32 {
		return 64 << 20
	}
	return 1 << 30
}

// guard runs f and turns a panic into ErrCorrupt. bbolt panics where a page is
// not what it should be, and reading a mapped page that the disk cannot deliver
// faults.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}()
	return f()
}

// txn is a transaction with the three buckets at hand.
type txn struct {
	*bbolt.Tx
	log, current, meta *bbolt.Bucket
}

// view runs f in a transaction that reads.
func (s *Store) view(f func(txn) error) error {
	return s.run(s.db.View, f)
}

// update runs f in a transaction that writes; an error of f undoes it.
func (s *Store) update(f func(txn) error) error {
	return s.run(s.db.Update, f)
}

func (s *Store) run(in func(func(*bbolt.Tx) error) error, f func(txn) error) error {
	err := guard(func() error {
		return in(func(tx *bbolt.Tx) error {
			t := txn{tx, tx.Bucket(logBucket), tx.Bucket(currentBucket), tx.Bucket(metaBucket)}
			if t.log == nil || t.current == nil || t.meta == nil {
				return fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
			}
			t.log.FillPercent = 1 // the log only grows at its end
			return f(t)
		})
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return err
}

// Revision is the newest revision.
func (s *Store) Revision() int64 { return s.revision.Load() }

// Compacted is the revision that the log was last compacted to.
func (s *Store) Compacted() int64 { return s.compacted.Load() }

// Snapshot writes a copy of the store file, as of now, to w and returns its
// size. Writers go on meanwhile. The copy is opened like the file itself, and
// put in its place to restore.
func (s *Store) Snapshot(w io.Writer) (n int64, err error) {
	err = s.view(func(t txn) error {
		n, err = t.WriteTo(w)
		return err
	})
	if err != nil {
		return n, fmt.Errorf("snapshot store %s: %w", s.path, err)
	}
	return n, nil
}

// Stats are figures for a monitor. The counts begin with Open.
type Stats struct {
	Entries    int64         // entries of the log after Compacted
	FileBytes  int64         // size of the file, free pages included
	Commits    int64         // transactions of the committer that wrote
	Changes    int64         // changes that those made; Changes/Commits is the mean batch
	CommitTime time.Duration // spent in them, fsync included
	Watchers   int           // watchers that read from memory
	Wakeups    int64         // signals to watchers that something matches
	CompactErr error         // why the last compaction by Options failed; nil if it did not
}

// Stats returns the present figures.
func (s *Store) Stats() Stats {
	st := Stats{
		Entries:    s.Revision() - s.Compacted(), // revisions of this store are consecutive
		Commits:    s.commits.Load(),
		Changes:    s.changes.Load(),
		CommitTime: time.Duration(s.commitNanos.Load()),
	}
	if info, err := os.Stat(s.path); err == nil {
		st.FileBytes = info.Size()
	}
	if err := s.compactErr.Load(); err != nil {
		st.CompactErr = *err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Watchers, st.Wakeups = s.window.watchers, s.window.wakeups
	return st
}

// Close answers the commit that is under way, ends all else with
// store.ErrClosed, and closes the file once the last read has ended. To close
// twice is harmless.
func (s *Store) Close() error {
	s.closed.Do(func() {
		close(s.closing)
		s.loops.Wait()
		s.closeErr = guard(s.db.Close)
	})
	return s.closeErr
}

func (s *Store) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}
