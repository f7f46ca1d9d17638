package api

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "orch/proto/v1"
)

// safeAlphabet has no vowels and nothing that looks like a vowel, so that no
// generated name is a word. It is Kubernetes'.
const safeAlphabet = "bcdfghjklmnpqrstvwxz2456789"

// GenerateName returns base and five random characters, cut to the 63 that a
// label holds. A caller that finds the name taken asks again.
func GenerateName(base string) string {
	const random, most = 5, 63
	name := []byte(base[:min(len(base), most-random)])
	for range random {
		name = append(name, safeAlphabet[rand.IntN(len(safeAlphabet))])
	}
	return string(name)
}

// TemplateHash names a template: equal templates have equal hashes, and a
// different one nearly always has another; where it does not, the deployment
// counts collisionCount up. Like Kubernetes' it is a 32-bit FNV-1a, written in
// the safe alphabet.
//
// The hash stays the same over releases: it covers the names and values of the
// fields that are set, in the order of their names, so it depends neither on
// the wire form nor on fields that this release does not know yet.
func TemplateHash(t *v1.PodTemplateSpec, collisionCount int32) string {
	h := fnv.New32a()
	hashMessage(h, t.ProtoReflect())
	if collisionCount != 0 {
		_ = binary.Write(h, binary.LittleEndian, collisionCount)
	}
	text := []byte(strconv.FormatUint(uint64(h.Sum32()), 10))
	for i, c := range text {
		text[i] = safeAlphabet[int(c)%len(safeAlphabet)]
	}
	return string(text)
}

// hashMessage writes every set field as name and value. Lists and maps have
// their lengths in front and texts are quoted, so that no two templates write
// the same.
func hashMessage(h hash.Hash, m protoreflect.Message) {
	var set []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		set = append(set, fd)
		return true
	})
	slices.SortFunc(set, func(a, b protoreflect.FieldDescriptor) int { return cmp.Compare(a.Name(), b.Name()) })
	fmt.Fprint(h, "{")
	for _, fd := range set {
		fmt.Fprintf(h, "%s:", fd.Name())
		v := m.Get(fd)
		switch {
		case fd.IsMap():
			keys := make([]string, 0, v.Map().Len())
			v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
				keys = append(keys, k.String())
				return true
			})
			slices.Sort(keys)
			fmt.Fprintf(h, "%d", len(keys))
			for _, k := range keys {
				fmt.Fprintf(h, "%q=", k)
				hashValue(h, fd.MapValue(), v.Map().Get(protoreflect.ValueOfString(k).MapKey()))
			}
		case fd.IsList():
			fmt.Fprintf(h, "%d", v.List().Len())
			for i := range v.List().Len() {
				hashValue(h, fd, v.List().Get(i))
			}
		default:
			hashValue(h, fd, v)
		}
	}
	fmt.Fprint(h, "}")
}

func hashValue(h hash.Hash, fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	if fd.Message() != nil {
		hashMessage(h, v.Message())
		return
	}
	fmt.Fprintf(h, "%q,", v.String())
}
