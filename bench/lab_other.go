//go:build !linux

package main

import (
	"context"
	"fmt"
	"os"
)

func initLab() {}

// network needs bridges.
func (b *bench) network(context.Context) error {
	fmt.Fprintln(os.Stderr, "skipped: the native network needs Linux")
	return nil
}

// lab needs the namespaces of Linux.
func (b *bench) lab(context.Context) error {
	fmt.Fprintln(os.Stderr, "skipped: a lab of machines needs Linux")
	return nil
}

// falsealarm does too.
func (b *bench) falsealarm(ctx context.Context) error { return b.lab(ctx) }
