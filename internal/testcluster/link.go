package testcluster

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// Link is the wire between a node and the API server. A link that is cut loses
// nothing and refuses nothing: as on a real network, who speaks over it hears
// nothing, and has to find out by himself.
//
// Concurrency: all methods may be called from several goroutines.
type Link struct {
	mu    sync.Mutex
	ways  [2]way
	conns map[*linkConn]bool
	wg    sync.WaitGroup // of what delivers
}

// way is one direction of a link.
type way struct {
	open   chan struct{} // closed while the way is open
	delay  time.Duration // of each write
	prompt chan struct{} // closed when the delay ends
}

// Directions of a link, as the node sees them.
const (
	Up   = 0 // to the API server
	Down = 1 // from it
)

func newLink() *Link {
	l := &Link{conns: map[*linkConn]bool{}}
	l.Heal()
	return l
}

// Cut cuts the ways; without one, both.
func (l *Link) Cut(ways ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range orBoth(ways) {
		select {
		case <-l.ways[w].open:
			l.ways[w].open = make(chan struct{})
		default: // cut already
		}
	}
}

// Delay makes each message over the ways late; what is behind it waits, as in
// TCP. A lost packet is a late one, too.
func (l *Link) Delay(d time.Duration, ways ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range orBoth(ways) {
		l.ways[w].delay = d
		if l.ways[w].prompt == nil {
			l.ways[w].prompt = make(chan struct{})
		}
	}
}

// end heals the link and returns when all that was written has gone over it: a
// message that is late would outlive the bubble.
func (l *Link) end() {
	l.Heal()
	l.wg.Wait()
}

// Reset ends all connections, as a firewall does that forgets them.
func (l *Link) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Conn.Close()
	}
}

// Heal opens both ways and ends all delays.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.ways {
		w := &l.ways[i]
		w.delay = 0
		if w.prompt != nil {
			close(w.prompt)
			w.prompt = nil
		}
		if w.open == nil {
			w.open = make(chan struct{})
		}
		select {
		case <-w.open:
		default:
			close(w.open)
		}
	}
}

func orBoth(ways []int) []int {
	if len(ways) == 0 {
		return []int{Up, Down}
	}
	return ways
}

// pass waits until a message may go, and says whether it did before done.
func (l *Link) pass(direction int, done <-chan struct{}) bool {
	l.mu.Lock()
	w := l.ways[direction]
	l.mu.Unlock()
	if w.delay > 0 {
		late := time.NewTimer(w.delay)
		defer late.Stop()
		select {
		case <-late.C:
		case <-w.prompt:
		case <-done:
			return false
		}
	}
	select {
	case <-w.open:
		return true
	case <-done:
		return false
	}
}

// dial makes a connection through the link; what the caller writes goes out.
func (l *Link) dial(ctx context.Context, out int, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if !l.pass(Up, ctx.Done()) || !l.pass(Down, ctx.Done()) {
		return nil, ctx.Err()
	}
	inner, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &linkConn{Conn: inner, link: l, out: out, closed: make(chan struct{}), sent: make(chan []byte, sendBuffer)}
	l.wg.Go(c.deliver)
	l.mu.Lock()
	l.conns[c] = true
	l.mu.Unlock()
	return c, nil
}

// sendBuffer is how many writes wait on a link before the next one blocks. A
// socket has a buffer as well; without one, gRPC spins until a connection that it
// gives up has written its last word, and time in a bubble stands still.
const sendBuffer = 1024

// linkConn is the dialer's end of a connection.
type linkConn struct {
	net.Conn
	link   *Link
	out    int
	once   sync.Once
	closed chan struct{}
	sent   chan []byte
}

func (c *linkConn) Write(p []byte) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	select {
	case c.sent <- slices.Clone(p):
		return len(p), nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

// deliver brings to the other end what was written, and last that it is closed.
func (c *linkConn) deliver() {
	for open := true; open; {
		select {
		case p := <-c.sent:
			c.link.pass(c.out, nil)
			_, _ = c.Conn.Write(p)
		case <-c.closed:
			open = len(c.sent) > 0
		}
	}
	c.link.pass(c.out, nil)
	_ = c.Conn.Close()
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
}

func (c *linkConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.link.pass(1-c.out, c.closed) {
		return 0, net.ErrClosed
	}
	return n, err
}

// Close ends the connection here at once; the other end hears of it when the
// link lets it.
func (c *linkConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}
