package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// What the bench calls itself with inside of pods: to take traffic, and to send it
// to an address for some seconds.
const (
	trafficSink   = "sink-traffic"
	trafficSource = "send-traffic"

	trafficPort = "5001"
	// Many short turns, so that what else the machine does hits both alike.
	trafficTime   = time.Second / 2
	trafficRounds = 25
)

// traffic is both ends. The source prints how many bytes the sink has taken in a
// second.
func traffic(args []string) {
	if err := func() error {
		if args[0] == trafficSink {
			return sink()
		}
		return send(args[1])
	}(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func sink() error {
	l, err := net.Listen("tcp", ":"+trafficPort)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, c)
		_, _ = c.Write([]byte{1}) // all has come
		c.Close()
	}
}

func send(address string) error {
	c, err := net.Dial("tcp", net.JoinHostPort(address, trafficPort))
	if err != nil {
		return err
	}
	defer c.Close()
	buffer, sent, begin := make([]byte, 1<<17), 0, time.Now()
	for time.Since(begin) < trafficTime {
		n, err := c.Write(buffer)
		if sent += n; err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buffer[:1]); err != nil {
		return err
	}
	fmt.Printf("%.0f\n", float64(sent)/time.Since(begin).Seconds())
	return nil
}
