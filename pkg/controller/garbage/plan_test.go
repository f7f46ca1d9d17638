package garbage

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

// object is a config map with owners of these names and uids.
func object(name string, owners ...string) *v1.ConfigMap {
	m := &v1.ObjectMeta{Namespace: "default", Name: name, Uid: name}
	for _, o := range owners {
		m.OwnerReferences = append(m.OwnerReferences, &v1.OwnerReference{ApiVersion: "v1", Kind: "ConfigMap", Name: o, Uid: o, BlockOwnerDeletion: proto.Bool(true)})
	}
	return &v1.ConfigMap{Metadata: m}
}

// leaving marks an object as being deleted, held by these finalizers.
func leaving(o *v1.ConfigMap, finalizers ...string) *v1.ConfigMap {
	o.Metadata.DeletionTimestamp = &timestamppb.Timestamp{Seconds: 1}
	o.Metadata.Finalizers = finalizers
	return o
}

func held(o *v1.ConfigMap, finalizers ...string) *v1.ConfigMap {
	o.Metadata.Finalizers = finalizers
	return o
}

func unblocking(o *v1.ConfigMap) *v1.ConfigMap {
	for _, r := range o.Metadata.OwnerReferences {
		r.BlockOwnerDeletion = nil
	}
	return o
}

// show says what a plan does, in short.
func show(p Plan) string {
	var all []string
	for _, o := range p.Orphans {
		all = append(all, "orphan "+o.GetMetadata().GetName())
	}
	for _, o := range p.Wake {
		all = append(all, "wake "+o.GetMetadata().GetName())
	}
	if p.Update != nil {
		m := p.Update.GetMetadata()
		text := "update"
		for _, r := range m.GetOwnerReferences() {
			text += " owner:" + r.GetName()
			if r.GetBlockOwnerDeletion() {
				text += "!"
			}
		}
		for _, f := range m.GetFinalizers() {
			text += " finalizer:" + f
		}
		all = append(all, text)
	}
	if p.Delete {
		all = append(all, "delete "+p.Policy)
	}
	return strings.Join(all, ", ")
}

func TestPlan(t *testing.T) {
	for name, tt := range map[string]struct {
		object     *v1.ConfigMap
		owners     []Owner
		dependents []api.Object
		want       string
	}{
		"without owners nothing happens":                      {object: object("a"), want: ""},
		"with its owner there nothing happens":                {object: object("a", "o"), owners: []Owner{Present}, want: ""},
		"without its owner it goes":                           {object: object("a", "o"), owners: []Owner{Absent}, want: "delete Background"},
		"with one owner of two left it forgets the other":     {object: object("a", "o", "p"), owners: []Owner{Absent, Present}, want: "update owner:p!"},
		"an owner that is leaving does not keep it":           {object: object("a", "o", "p"), owners: []Owner{Present, Leaving}, want: "update owner:o!"},
		"with all owners gone it goes":                        {object: object("a", "o", "p"), owners: []Owner{Absent, Absent}, want: "delete Background"},
		"a reference that cannot be followed keeps it":        {object: object("a", "o", "p"), owners: []Owner{Absent, Unresolvable}, want: ""},
		"its own finalizers choose the policy":                {object: held(object("a", "o"), api.FinalizerOrphan), owners: []Owner{Absent}, want: "delete Orphan"},
		"its own finalizers choose the policy, the other way": {object: held(object("a", "o"), api.FinalizerForeground), owners: []Owner{Absent}, want: "delete Foreground"},
		"with an owner that waits it goes":                    {object: object("a", "o"), owners: []Owner{Leaving}, want: "delete Background"},
		"with an owner that waits, its dependents go first":   {object: object("a", "o"), owners: []Owner{Leaving}, dependents: []api.Object{object("d", "a")}, want: "delete Foreground"},
		"owners in a circle are cut":                          {object: object("a", "o"), owners: []Owner{Leaving}, dependents: []api.Object{leaving(object("o", "a"), api.FinalizerForeground)}, want: "update owner:o"},
		"a circle that is cut goes":                           {object: unblocking(object("a", "o")), owners: []Owner{Leaving}, dependents: []api.Object{leaving(object("o", "a"), api.FinalizerForeground)}, want: "delete Foreground"},
		"what is being deleted is left alone":                 {object: leaving(object("a", "o")), want: ""},
		"deleted in the foreground, it waits for those that block": {
			object: leaving(object("a"), api.FinalizerForeground, "other"), dependents: []api.Object{object("d", "a"), unblocking(object("e", "a"))}, want: "wake d, wake e",
		},
		"those that are going already are not woken again": {
			object: leaving(object("a"), api.FinalizerForeground), dependents: []api.Object{leaving(object("d", "a"))}, want: "",
		},
		"deleted in the foreground, it does not wait for those that do not block": {
			object: leaving(object("a"), api.FinalizerForeground, "other"), dependents: []api.Object{unblocking(object("e", "a"))}, want: "update finalizer:other",
		},
		"deleted as orphans, its dependents forget it": {
			object: leaving(object("a"), api.FinalizerOrphan), dependents: []api.Object{object("d", "a", "b")}, want: "orphan d",
		},
		"deleted as orphans, it goes when all have": {
			object: leaving(object("a"), api.FinalizerOrphan), want: "update",
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := proto.CloneOf(tt.object)
			if got := show(MakePlan(State{Object: tt.object, Owners: tt.owners, Dependents: tt.dependents})); got != tt.want {
				t.Errorf("plan: %q, want %q", got, tt.want)
			}
			if !proto.Equal(before, tt.object) {
				t.Error("the plan changed the object that it was made from")
			}
		})
	}
}

func TestFollow(t *testing.T) {
	for name, tt := range map[string]struct {
		namespace string
		ref       *v1.OwnerReference
		want      string
	}{
		"an owner with a namespace is in that of the object":  {"team", &v1.OwnerReference{ApiVersion: "apps/v1", Kind: "Deployment", Name: "o"}, "Deployment team/o"},
		"an owner without one is found from anywhere":         {"team", &v1.OwnerReference{ApiVersion: "v1", Kind: "Node", Name: "o"}, "Node o"},
		"an object without one cannot have an owner with one": {"", &v1.OwnerReference{ApiVersion: "v1", Kind: "Pod", Name: "o"}, ""},
		"a kind that is not known":                            {"team", &v1.OwnerReference{ApiVersion: "batch/v1", Kind: "Job", Name: "o"}, ""},
		"a kind of another group":                             {"team", &v1.OwnerReference{ApiVersion: "extensions/v1beta1", Kind: "Deployment", Name: "o"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if k, key, ok := follow(&v1.ConfigMap{Metadata: &v1.ObjectMeta{Namespace: tt.namespace}}, tt.ref); ok {
				got = k.Name + " " + key.String()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
