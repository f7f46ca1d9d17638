package store

import "testing"

func TestEntryIn(t *testing.T) {
	e := Entry{Key: "Pod/default/web-1", Topics: []string{"Pod@node-1"}}
	for _, tt := range []struct {
		name, topic string
		want        bool
	}{
		{"the whole log holds every entry", "", true},
		{"the first part of the path is a topic", "Pod", true},
		{"two parts of the path are a topic", "Pod/default", true},
		{"the key itself is a topic", "Pod/default/web-1", true},
		{"a topic of the change counts", "Pod@node-1", true},
		{"a part ends at a slash, not before", "Pod/def", false},
		{"a trailing slash belongs to no leading part", "Pod/", false},
		{"a longer path is another key's", "Pod/default/web-1/x", false},
		{"another topic is another topic", "Pod@node-2", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := e.In(tt.topic); got != tt.want {
				t.Errorf("In(%q) = %v, want %v", tt.topic, got, tt.want)
			}
		})
	}
}
