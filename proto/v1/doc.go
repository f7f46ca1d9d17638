// Package v1 holds every message and service of Orch: the objects with
// Kubernetes' fields, the Resources service that stores them, and the Streams
// service that reaches into a node.
//
// Its one invariant: the .proto files are the source, and every .pb.go file is
// what `make generate` makes of them; `make check` compares. What an object
// means, its defaults and what makes it valid, is said in pkg/api.
package v1
