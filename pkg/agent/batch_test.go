package agent

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestBatchGathersWhileSomethingIsBeingSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBatch()
		messages, sent := make(chan string), make(chan error, 1)
		go func() { sent <- b.run(func(data []byte) error { messages <- string(data); return nil }) }()
		write := func(text string) { fmt.Fprint(b, text) }
		write("on")
		write("e\n")
		time.Sleep(2 * gatherFor)
		synctest.Wait() // it is on its way, and nobody takes it
		write("two\n")
		write("three\n")
		written := make(chan struct{})
		go func() {
			defer close(written)
			_, _ = b.Write(bytes.Repeat([]byte("x"), 3*chunkSize))
		}()
		synctest.Wait()
		select {
		case <-written:
			t.Error("more than a chunk was taken from a writer whose reader does not read")
		default:
		}
		if got := <-messages; got != "one\n" {
			t.Errorf("the first message is %.20q", got)
		}
		second, rest := <-messages, 0
		if want := "two\nthree\nxxx"; second[:len(want)] != want || len(second) != chunkSize {
			t.Errorf("the second message has %d bytes: %.20q", len(second), second)
		}
		for rest = len(second); rest < len("two\nthree\n")+3*chunkSize; {
			rest += len(<-messages)
		}
		<-written
		write("end\n")
		b.end()
		if got := <-messages; got != "end\n" {
			t.Errorf("the last message is %q", got)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}

func TestBatchTellsTheWriterThatNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, gone := newBatch(), errors.New("gone")
		sent := make(chan error, 1)
		go func() { sent <- b.run(func([]byte) error { return gone }) }()
		if n, err := b.Write(make([]byte, 10*chunkSize)); !errors.Is(err, gone) || n > 2*chunkSize {
			t.Errorf("wrote %d bytes, %v", n, err)
		}
		if err := <-sent; !errors.Is(err, gone) {
			t.Error(err)
		}
	})
}
