package cli

import (
	"fmt"
	"slices"
	"strings"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

var ruleHeader = []string{"Resources", "Non-Resource URLs", "Resource Names", "Verbs"}

// ruleRows are rules as kubectl lists them: taken apart, then one line for all verbs
// of a resource, in the order of their text.
func ruleRows(rules []*v1.PolicyRule) (rows [][]string) {
	type line struct {
		group, resource string
		name, url       []string // one, or none
		verbs           []string
	}
	var lines []*line
	for _, r := range rules {
		for _, group := range r.GetApiGroups() {
			for _, resource := range r.GetResources() {
				for _, name := range orNone(r.GetResourceNames()) {
					same := func(l *line) bool {
						return l.group == group && l.resource == resource && slices.Equal(l.name, name) && l.url == nil
					}
					i := slices.IndexFunc(lines, same)
					if i < 0 {
						i, lines = len(lines), append(lines, &line{group: group, resource: resource, name: name})
					}
					lines[i].verbs = unique(append(lines[i].verbs, r.GetVerbs()...))
				}
			}
		}
		for _, url := range r.GetNonResourceUrls() {
			for _, verb := range r.GetVerbs() {
				lines = append(lines, &line{url: []string{url}, verbs: []string{verb}})
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b *line) int {
		text := func(l *line) string {
			return fmt.Sprintf("Verbs:%v,APIGroups:[%s],Resources:[%s],ResourceNames:%v,NonResourceURLs:%v", l.verbs, l.group, l.resource, l.name, l.url)
		}
		return strings.Compare(text(a), text(b))
	})
	for _, l := range lines {
		resource, sub, _ := strings.Cut(l.resource, "/")
		if l.group != "" {
			resource += "." + l.group
		}
		if sub != "" {
			resource += "/" + sub
		}
		rows = append(rows, []string{resource, fmt.Sprint(l.url), fmt.Sprint(l.name), fmt.Sprint(l.verbs)})
	}
	return rows
}

// orNone is each of names alone, or once nothing.
func orNone(names []string) (each [][]string) {
	for _, n := range names {
		each = append(each, []string{n})
	}
	if names == nil {
		each = [][]string{nil}
	}
	return each
}

// unique leaves out what comes again.
func unique(words []string) (out []string) {
	for _, w := range words {
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// Verbs that kubectl knows; others are warned of, and refused for paths.
var (
	resourceVerbs = []string{"*", "get", "delete", "list", "create", "update", "patch", "watch", "proxy", "deletecollection", "use", "bind", "escalate", "impersonate"}
	pathVerbs     = []string{"*", "get", "post", "put", "delete", "patch", "head", "options"}
	// roleVerbs are for roles only, userVerbs for those whom one may pass oneself off as.
	roleVerbs, roleKinds = []string{"bind", "escalate"}, []string{"Role", "ClusterRole"}
	userResources        = []string{"users", "groups", "serviceaccounts"}
)

// ruleFlags are those of create role and create clusterrole.
type ruleFlags struct {
	writeFlags
	verbs, resources, names, urls []string
}

// rules are the flags as rules: one for each group of resources.
func (r *ruleFlags) rules(f *factory) (rules []*v1.PolicyRule, err error) {
	verbs := unique(r.verbs)
	if slices.Contains(verbs, "*") {
		verbs = []string{"*"}
	}
	if len(verbs) == 0 {
		return nil, fmt.Errorf("at least one verb must be specified")
	}
	for _, word := range unique(r.resources) {
		group, resource, err := ruleResource(word, verbs)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(rules, func(r *v1.PolicyRule) bool { return r.GetApiGroups()[0] == group })
		if i < 0 {
			i, rules = len(rules), append(rules, &v1.PolicyRule{Verbs: verbs, ApiGroups: []string{group}, ResourceNames: r.names})
		}
		rules[i].Resources = append(rules[i].Resources, resource)
	}
	for _, verb := range verbs {
		switch {
		case len(r.urls) > 0 && !slices.Contains(pathVerbs, verb):
			return nil, fmt.Errorf("invalid verb: '%s' for nonResourceURL", verb)
		case len(r.resources) > 0 && !slices.Contains(resourceVerbs, verb):
			fmt.Fprintf(f.Err, "Warning: '%s' is not a standard resource verb\n", verb)
		}
	}
	for _, url := range r.urls {
		switch i := strings.IndexByte(url, '*'); {
		case url == "*":
		case !strings.HasPrefix(url, "/"):
			return nil, fmt.Errorf("nonResourceURL should start with /")
		case i >= 0 && i != len(url)-1:
			return nil, fmt.Errorf("nonResourceURL only supports wildcard matches when '*' is at the end")
		}
	}
	if len(r.urls) > 0 {
		rules = append(rules, &v1.PolicyRule{Verbs: verbs, NonResourceUrls: r.urls})
	}
	return rules, nil
}

// ruleResource finds what a word such as deploy, deployments.apps/scale or * means.
func ruleResource(word string, verbs []string) (group, resource string, err error) {
	word, sub, _ := strings.Cut(word, "/")
	k := api.KindByResource(word)
	switch {
	case word == "":
		return "", "", fmt.Errorf("resource must be specified if apiGroup/subresource specified")
	case word == "*":
		group, resource = "*", "*"
	case k != nil:
		group, resource = k.Group, k.Plural
	case slices.Contains(userResources, word) && slices.Equal(verbs, []string{"impersonate"}):
		resource = word
	default:
		return "", "", fmt.Errorf("the server doesn't have a resource type %q", word)
	}
	for _, verb := range verbs {
		if slices.Contains(roleVerbs, verb) && (k == nil || !slices.Contains(roleKinds, k.Name)) || verb == "impersonate" && !slices.Contains(userResources, word) {
			return "", "", fmt.Errorf("can not perform '%s' on '%s' in group '%s'", verb, resource, group)
		}
	}
	if sub != "" {
		resource += "/" + sub
	}
	return group, resource, nil
}
