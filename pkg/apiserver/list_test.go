package apiserver_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"orch/pkg/api"
	"orch/pkg/client"
	v1 "orch/proto/v1"
)

// fill creates config maps c-00 ... c-NN; every third has the label third.
func fill(t *testing.T, s *server, n int) {
	t.Helper()
	for i := range n {
		c := configMap(fmt.Sprintf("c-%02d", i))
		if i%3 == 0 {
			c.Metadata.Labels = map[string]string{"third": "yes"}
		}
		must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.Client).Create(t.Context(), c))
	}
}

func TestPagesShowOneRevisionAndCountWhatMatches(t *testing.T) {
	s := start(t)
	fill(t, s, 20)
	var got []string
	q := &v1.ListRequest{Kind: "ConfigMap", Limit: 3, LabelSelector: "third"}
	var revision int64
	for page := 0; ; page++ {
		r := must[*v1.ListResponse](t)(s.Resources().List(t.Context(), q))
		if page == 0 {
			revision = r.GetRevision()
			// What happens meanwhile is not seen.
			must[*v1.ConfigMap](t)(client.For[*v1.ConfigMap](s.Client).Delete(t.Context(), "default", "c-18", client.DeleteOptions{}))
		}
		if r.GetRevision() != revision {
			t.Errorf("page %d is at revision %d, the first at %d", page, r.GetRevision(), revision)
		}
		if r.GetContinue() != "" && len(r.GetItems()) != 3 {
			t.Errorf("page %d has %d objects", page, len(r.GetItems()))
		}
		for _, o := range r.GetItems() {
			got = append(got, api.Unwrap(o).GetMetadata().GetName())
		}
		if q.Continue = r.GetContinue(); q.Continue == "" {
			break
		}
	}
	if want := "[c-00 c-03 c-06 c-09 c-12 c-15 c-18]"; fmt.Sprint(got) != want {
		t.Errorf("pages hold %v, want %v", got, want)
	}
}

func TestThereIsNoEmptyLastPage(t *testing.T) {
	s := start(t)
	fill(t, s, 9)
	r := must[*v1.ListResponse](t)(s.Resources().List(t.Context(), &v1.ListRequest{Kind: "ConfigMap", Limit: 3, LabelSelector: "third"}))
	if len(r.GetItems()) != 3 || r.GetContinue() != "" {
		t.Errorf("%d objects, continue %q", len(r.GetItems()), r.GetContinue())
	}
}

func TestALongListIsCutIntoPagesThatFitAMessage(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	for i := range 6 {
		c := configMap(fmt.Sprint("big-", i))
		c.Data["key"] = strings.Repeat("x", 900<<10)
		must[*v1.ConfigMap](t)(configs.Create(t.Context(), c))
	}
	first := must[*v1.ListResponse](t)(s.Resources().List(t.Context(), &v1.ListRequest{Kind: "ConfigMap"}))
	if len(first.GetItems()) != 2 || first.GetContinue() == "" {
		t.Errorf("%d objects, continue %q", len(first.GetItems()), first.GetContinue())
	}
	all := must[client.List[*v1.ConfigMap]](t)(configs.List(t.Context(), client.ListOptions{}))
	if len(all.Items) != 6 {
		t.Errorf("%d objects over all pages", len(all.Items))
	}
}

func TestListsTakeSelectors(t *testing.T) {
	s := start(t)
	must[*v1.Namespace](t)(client.For[*v1.Namespace](s.Client).Create(t.Context(), namespace("team")))
	pods := client.For[*v1.Pod](s.Client)
	for _, p := range []struct{ namespace, name, app, node string }{
		{"default", "a", "web", "node-1"},
		{"default", "b", "db", "node-1"},
		{"team", "a", "web", "node-2"},
		{"team", "c", "web", ""},
	} {
		o := pod(p.name)
		o.Metadata.Namespace, o.Metadata.Labels["app"], o.Spec.NodeName = p.namespace, p.app, p.node
		must[*v1.Pod](t)(pods.Create(t.Context(), o))
	}
	for want, o := range map[string]client.ListOptions{
		"[a b a c]": {},
		"[a b]":     {Namespace: "default"},
		"[a a c]":   {LabelSelector: "app=web"},
		"[a a]":     {FieldSelector: "metadata.name=a"},
		"[a]":       {Namespace: "team", FieldSelector: "metadata.name=a"},
		"[b]":       {LabelSelector: "app in (db, cache)", FieldSelector: "spec.nodeName=node-1"},
		"[c]":       {FieldSelector: "spec.nodeName="},
		"[]":        {Namespace: "nowhere"},
	} {
		got := must[client.List[*v1.Pod]](t)(pods.List(t.Context(), o))
		if names(got.Items) != want {
			t.Errorf("%+v: %s, want %s", o, names(got.Items), want)
		}
	}
}

func TestThePastCanBeReadUntilItIsCompacted(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	c := must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("a")))
	then := c.GetMetadata().GetResourceVersion()
	c.Data["key"] = "later"
	must[*v1.ConfigMap](t)(configs.Update(t.Context(), c))
	fill(t, s, 3)

	old := must[*v1.ConfigMap](t)(configs.GetAt(t.Context(), "default", "a", then))
	if old.GetData()["key"] != "value" || old.GetMetadata().GetResourceVersion() != then {
		t.Errorf("at %d: %v", then, old)
	}
	past := must[client.List[*v1.ConfigMap]](t)(configs.List(t.Context(), client.ListOptions{At: then}))
	if names(past.Items) != "[a]" || past.Revision != then {
		t.Errorf("list at %d: %s at %d", then, names(past.Items), past.Revision)
	}
	page := must[*v1.ListResponse](t)(s.Resources().List(t.Context(), &v1.ListRequest{Kind: "ConfigMap", Limit: 1}))
	fill2 := configMap("last")
	must[*v1.ConfigMap](t)(configs.Create(t.Context(), fill2))
	if err := s.store.Compact(t.Context(), s.store.Revision()); err != nil {
		t.Fatal(err)
	}
	_, err := configs.GetAt(t.Context(), "default", "a", then)
	if !errors.Is(err, api.ErrExpired) {
		t.Errorf("get at a compacted revision: %v", err)
	}
	_, err = configs.List(t.Context(), client.ListOptions{At: then})
	if !errors.Is(err, api.ErrExpired) {
		t.Errorf("list at a compacted revision: %v", err)
	}
	_, err = s.Resources().List(t.Context(), &v1.ListRequest{Kind: "ConfigMap", Limit: 1, Continue: page.GetContinue()})
	if err = api.FromStatus(err); !errors.Is(err, api.ErrExpired) || !strings.Contains(err.Error(), "continue parameter is too old") {
		t.Errorf("next page of a compacted revision: %v", err)
	}
	if _, err = configs.GetAt(t.Context(), "default", "a", s.store.Revision()+1); !errors.Is(err, api.ErrTimeout) {
		t.Errorf("get at a revision to come: %v", err)
	}
}

func TestThePastCanBeReadByTime(t *testing.T) {
	s := start(t)
	configs := client.For[*v1.ConfigMap](s.Client)
	c := must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("a")))
	written := func(revision int64) time.Time {
		for e, err := range s.History(t.Context(), &v1.HistoryRequest{Revisions: []int64{revision}}) {
			if err != nil {
				t.Fatal(err)
			}
			return e.GetTime().AsTime()
		}
		t.Fatalf("revision %d is not in the log", revision)
		return time.Time{}
	}
	then := written(c.GetMetadata().GetResourceVersion())
	for time.Now().UTC().Equal(then) { // a clock that is too coarse for two writes
		runtime.Gosched()
	}
	must[*v1.ConfigMap](t)(configs.Delete(t.Context(), "default", "a", client.DeleteOptions{}))

	if old := must[*v1.ConfigMap](t)(configs.GetAtTime(t.Context(), "default", "a", then)); old.GetData()["key"] != "value" {
		t.Errorf("at %v: %v", then, old)
	}
	past := must[client.List[*v1.ConfigMap]](t)(configs.List(t.Context(), client.ListOptions{AtTime: then}))
	if names(past.Items) != "[a]" || past.Revision != c.GetMetadata().GetResourceVersion() {
		t.Errorf("list at %v: %s at revision %d", then, names(past.Items), past.Revision)
	}
	if now := must[client.List[*v1.ConfigMap]](t)(configs.List(t.Context(), client.ListOptions{AtTime: time.Now()})); len(now.Items) > 0 {
		t.Errorf("now there is %s", names(now.Items))
	}
	if _, err := configs.GetAtTime(t.Context(), "default", "a", then.Add(-time.Hour)); !errors.Is(err, api.ErrExpired) || !strings.Contains(err.Error(), "the log reaches back to revision 1, of ") {
		t.Errorf("before the log begins: %v", err)
	}
	_, err := s.Resources().Get(t.Context(), &v1.GetRequest{Kind: "ConfigMap", Name: "a", AtRevision: 1, AtTime: client.Timestamp(then)})
	if !errors.Is(api.FromStatus(err), api.ErrBadRequest) {
		t.Errorf("at a revision and a time: %v", err)
	}
	var found []int64
	for e, err := range s.History(t.Context(), &v1.HistoryRequest{Kind: "ConfigMap", Since: client.Timestamp(then), Until: client.Timestamp(then)}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, e.GetRevision())
	}
	if want := []int64{c.GetMetadata().GetResourceVersion()}; !slices.Equal(found, want) {
		t.Errorf("since and until %v: %v, want %v", then, found, want)
	}

	if err := s.store.Compact(t.Context(), s.store.Revision()); err != nil {
		t.Fatal(err)
	}
	last := must[*v1.ConfigMap](t)(configs.Create(t.Context(), configMap("b")))
	for what, err := range map[string]error{
		"a time":     second(configs.GetAtTime(t.Context(), "default", "a", then)),
		"a revision": second(configs.GetAt(t.Context(), "default", "a", 2)),
	} {
		if want := fmt.Sprintf("the log reaches back to revision %d, of ", last.GetMetadata().GetResourceVersion()); !errors.Is(err, api.ErrExpired) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s that was compacted: %v, want %s", what, err, want)
		}
	}
	for e, err := range s.History(t.Context(), &v1.HistoryRequest{Revisions: []int64{2, 3}}) {
		t.Errorf("a compacted revision came: %v, %v", e, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestABadContinueTokenIsRefused(t *testing.T) {
	s := start(t)
	fill(t, s, 2)
	page := must[*v1.ListResponse](t)(s.Resources().List(t.Context(), &v1.ListRequest{Kind: "ConfigMap", Limit: 1}))
	for name, q := range map[string]*v1.ListRequest{
		"no token":               {Kind: "ConfigMap", Continue: "what?"},
		"of a list of others":    {Kind: "Pod", Continue: page.GetContinue()},
		"of another namespace":   {Kind: "ConfigMap", Namespace: "kube-system", Continue: page.GetContinue()},
		"with a revision of 0":   {Kind: "ConfigMap", Continue: "MCBDb25maWdNYXAv"},
		"with an absurd padding": {Kind: "ConfigMap", Continue: page.GetContinue() + "="},
	} {
		if _, err := s.Resources().List(t.Context(), q); !errors.Is(api.FromStatus(err), api.ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHistoryTellsWhatHappened(t *testing.T) {
	s := start(t)
	fill(t, s, 3)
	configs := client.For[*v1.ConfigMap](s.Client)
	must[*v1.ConfigMap](t)(configs.Modify(t.Context(), "default", "c-01", func(c *v1.ConfigMap) error { c.Data["key"] = "new"; return nil }))
	must[*v1.ConfigMap](t)(configs.Delete(t.Context(), "default", "c-01", client.DeleteOptions{}))
	must[*v1.Pod](t)(client.For[*v1.Pod](s.Client).Create(t.Context(), pod("web")))

	for name, tt := range map[string]struct {
		q    *v1.HistoryRequest
		want string
	}{
		"of one object":         {&v1.HistoryRequest{Kind: "ConfigMap", Name: "c-01"}, "[c-01 value c-01 new c-01 new gone]"},
		"of one object, newest": {&v1.HistoryRequest{Kind: "ConfigMap", Name: "c-01", Limit: 2}, "[c-01 new c-01 new gone]"},
		"of a kind":             {&v1.HistoryRequest{Kind: "ConfigMap"}, "[c-00 value c-01 value c-02 value c-01 new c-01 new gone]"},
		"after a revision":      {&v1.HistoryRequest{Kind: "ConfigMap", AfterRevision: 11}, "[c-01 new c-01 new gone]"},
		"of a namespace":        {&v1.HistoryRequest{Namespace: "default", Limit: 2}, "[c-01 new gone web]"},
		"of all":                {&v1.HistoryRequest{Limit: 1}, "[web]"},
		"up to a revision":      {&v1.HistoryRequest{Kind: "ConfigMap", AfterRevision: 9, ToRevision: 11}, "[c-01 value c-02 value]"},
		"without a reason":      {&v1.HistoryRequest{Kind: "ConfigMap", ExceptReasons: []string{"Create"}}, "[c-01 new c-01 new gone]"},
		"of single revisions":   {&v1.HistoryRequest{Revisions: []int64{11, 10, 1000}}, "[c-01 value c-02 value]"},
	} {
		var got []string
		for e, err := range s.History(t.Context(), tt.q) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, e.GetName())
			if c := e.GetObject().GetConfigMap(); c != nil {
				got = append(got, c.GetData()["key"])
			}
			if e.GetDeleted() {
				got = append(got, "gone")
			}
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
