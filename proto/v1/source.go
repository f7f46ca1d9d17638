package v1

import "embed"

// Sources are the .proto files. Their comments are the documentation of every
// field, which `orchctl explain` shows; generated code does not keep them.
//
//go:embed *.proto
var Sources embed.FS
