package apiserver

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"orch/pkg/api"
	"orch/pkg/store"
	v1 "orch/proto/v1"
)

// What wire sends without decoding is what decoding, setting the resource
// version and encoding would send.
func TestWireIsTheStoredObjectWithItsRevision(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := rapid.SampledFrom(api.Kinds()).Draw(t, "kind").New()
		m := o.GetMetadata()
		m.Name = rapid.String().Draw(t, "name")
		m.Labels = rapid.MapOfN(rapid.StringMatching("[a-z]*"), rapid.StringMatching("[a-z]*"), 0, 4).Draw(t, "labels")
		e := store.Entry{Revision: rapid.Int64Min(1).Draw(t, "revision")}
		var err error
		if e.Value, err = encode(o); err != nil {
			t.Skip(err) // no valid UTF-8
		}
		sent, err := proto.Marshal(&v1.ListResponse{Items: []*v1.Object{wire(e), wire(e)}})
		if err != nil {
			t.Fatal(err)
		}
		var got v1.ListResponse
		if err := proto.Unmarshal(sent, &got); err != nil {
			t.Fatal(err)
		}
		m.ResourceVersion = e.Revision
		for _, item := range got.GetItems() {
			if diff := cmp.Diff(api.Wrap(o), item, protocmp.Transform()); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// The numbers that wire writes by hand are those of the .proto files.
func TestWireKnowsTheNumbersOfItsFields(t *testing.T) {
	for _, k := range api.Kinds() {
		f := k.New().ProtoReflect().Descriptor().Fields().ByNumber(fieldMetadata)
		if f == nil || f.Name() != "metadata" {
			t.Errorf("field %d of %s is %v", fieldMetadata, k.Name, f)
		}
	}
	f := (&v1.ObjectMeta{}).ProtoReflect().Descriptor().Fields().ByName("resource_version")
	if f.Number() != fieldResourceVersion {
		t.Errorf("resource_version has number %d", f.Number())
	}
}

func TestBookmarkDue(t *testing.T) {
	tests := map[string]struct {
		behind int64
		silent time.Duration
		want   bool
	}{
		"nothing has happened":                 {0, time.Hour, false},
		"little has happened, and just now":    {999, 59 * time.Second, false},
		"little has happened, for a long time": {1, time.Minute, true},
		"much has happened":                    {1000, 0, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := bookmarkDue(tt.behind, tt.silent); got != tt.want {
				t.Errorf("bookmarkDue(%d, %v) = %v", tt.behind, tt.silent, got)
			}
		})
	}
}
