package store

import (
	"slices"
	"strings"
)

// In says whether the entry belongs to a topic: "", a leading part of its
// key's path, or one of its Topics.
func (e Entry) In(topic string) bool {
	return topic == "" || e.Key == topic ||
		len(e.Key) > len(topic) && e.Key[len(topic)] == '/' && strings.HasPrefix(e.Key, topic) ||
		slices.Contains(e.Topics, topic)
}
