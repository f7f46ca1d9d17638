package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/util/jsonpath"
	"pgregory.net/rapid"

	ours "orch/pkg/cli/jsonpath"
)

// kubectl executes a template as kubectl does.
func kubectl(template string, data any) (out string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	p := jsonpath.New("test").AllowMissingKeys(true)
	if err := p.Parse(template); err != nil {
		return "", err
	}
	var b strings.Builder
	err = p.Execute(&b, data)
	return b.String(), err
}

func orchctl(template string, data any) (string, error) {
	p, err := ours.Parse(template)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = p.Execute(&b, data)
	return b.String(), err
}

var pods = map[string]any{
	"kind": "List",
	"none": nil,
	"items": []any{
		map[string]any{
			"metadata": map[string]any{"name": "a", "labels": map[string]any{"app": "web", "a.b/c": "dotted"}},
			"spec":     map[string]any{"replicas": int64(3), "ratio": 1.5, "paused": true},
			"conditions": []any{
				map[string]any{"type": "Ready", "status": "True"},
				map[string]any{"type": "Initialized", "status": "False"},
			},
		},
		map[string]any{
			"metadata": map[string]any{"name": "b"},
			"spec":     map[string]any{"replicas": int64(0), "paused": false},
		},
	},
}

func TestJSONPathAgreesWithKubectl(t *testing.T) {
	for _, template := range []string{
		``, `text`, `{}`, `{ }`, `{.}`, `{@}`, `{$}`, `{.kind}`, `{.kind}{"\n"}`, `{$.kind}`, `{@.kind}`, `{.none}`, `{.none.x}`, `{.missing}`,
		`{.items}`, `{.items[*]}`, `{.items[0]}`, `{.items[-1].metadata.name}`, `{.items[-3]}`, `{.items[2]}`, `{.items[]}`, `{.items[x]}`,
		`{.items[0:1].metadata.name}`, `{.items[:].metadata.name}`, `{.items[::1].metadata.name}`, `{.items[::2].metadata.name}`,
		`{.items[0:2:0]}`, `{.items[1:0]}`, `{.items[0:-1].metadata.name}`, `{.items[-2:-1].metadata.name}`, `{.items[0:5]}`, `{.items[1:1]}`, `{.items[:0]}`,
		`{.items[0,1].metadata.name}`, `{.items[0]['kind','metadata']['name']}`, `{.items[0].metadata['name', 'labels']}`, `{.items['x']}`,
		`{.items[0].metadata.labels.a\.b/c}`, `{.items[0].metadata.labels['a\.b/c']}`, `{.items[0].metadata.labels['a.b/c']}`, `{.items[0].metadata["name"]}`,
		`{..name}`, `{.items..status}`, `{....name}`, `{.items[*].*.name}`, `{.items[0].metadata.name.x}`,
		`{range .items[*]}{.metadata.name}{"\t"}{.spec.replicas}{"\n"}{end}`, `{range .items[*]}[{.metadata.name}] {end}!`, `{range.items[*]}x{end}`,
		`{range .items[*]}{range .conditions[*]}{.type}{end};{end}`, `{range .missing[*]}x{end}y`, `{end}`, `{ range .items[*] }{ .metadata.name }{ end }`,
		`{range .missing[*]}{range .items[*]}a{end}b{end}c`, `{range .items[*]}{end}`,
		`{.items[?(@.spec.replicas>0)].metadata.name}`, `{.items[?(@.spec.replicas>=0)].metadata.name}`, `{.items[?(@.spec.replicas < 3)].metadata.name}`,
		`{.items[?(@.metadata.name=="a")].spec.replicas}`, `{.items[?(@.metadata.name=='a')].spec.replicas}`, `{.items[?(@.metadata.name!="a")].metadata.name}`,
		`{.items[?(@.spec.paused==true)].metadata.name}`, `{.items[?(@.spec.paused!=true)].metadata.name}`, `{.items[?(@.spec.paused>true)]}`, `{.items[?(@.conditions)].metadata.name}`,
		`{.items[?(@.spec.ratio==1.5)].metadata.name}`, `{.items[?(@.metadata.name==1)]}`, `{.items[?(@.metadata==1)]}`, `{.items[?(@.metadata.name=a)]}`, `{.items[?(@.metadata.name==b)]}`,
		`{.items[*].conditions[?(@.type=="Ready")].status}`, `{.items[0].conditions[?(@.type=="R)]")].status}`, `{.items[?(@.metadata.name==@.metadata.name)].metadata.name}`,
		`{.items[0].metadata[?(@.x)]}`, `{.none[?(@.x)]}`, `{.items[?(@.metadata.name=="a"]}`, `{.items[?(@.metadata.name=="a")}`, `{.items[?(@.metadata.name=="a)]}`,
		`{.items[0].spec.replicas}`, `{.items[0].spec.ratio}`, `{.items[0].spec.paused}`, `{.items[0].conditions}`, `{.items[*].spec.replicas}`,
		`{"a"}`, `{'a'}`, `{"a\"b"}`, `{'a\'b'}`, `{"\u00e4"}`, `{'"'}`, `{"'"}`, `{"a}`, `{"\x"}`, `{1}`, `{-1}`, `{1.5}`, `{1.5.5}`, `{true}`, `{false}`, `{-}`,
		`{.kind "x"}`, `{"x" .kind}`, `{.items[*] 1}`, `{.missing 1}`, `{.kind .x}`, `{kind}`, `{foo.bar}`, `{%}`, `{*}`, `{.items[0].*.name}`, `{(}`, `{.kind`, `{.kind}}`, `{{.kind}}`, "{.kind\n}", `{.kind,}`,
		`{.items[0].metadata.name}-{.items[1].metadata.name}`, `{.items[*].metadata.labels.app}`, `ä{.kind}ö`, `{.ä}`, `{ä}`, `\{.kind}`,
	} {
		want, wantErr := kubectl(template, pods)
		got, gotErr := orchctl(template, pods)
		if walksMap(template) {
			want, got = inOrder(want), inOrder(got)
		}
		if (wantErr == nil) != (gotErr == nil) || wantErr == nil && got != want {
			t.Errorf("%s\nkubectl %q, %v\norchctl %q, %v", template, want, wantErr, got, gotErr)
		}
	}
}

// walksMap reports whether kubectl prints in the order of a Go map.
func walksMap(template string) bool {
	return strings.Contains(template, "*") && !strings.Contains(template, "[*]") || strings.Contains(template, "..") || strings.Contains(template, ".*")
}

func inOrder(s string) string {
	words := strings.Fields(s)
	slices.Sort(words)
	return strings.Join(words, " ")
}

func TestJSONPathAgreesWithKubectlOnRandomTemplates(t *testing.T) {
	piece := rapid.SampledFrom([]string{
		".items", ".metadata", ".name", ".spec", ".replicas", ".conditions", ".type", ".labels", ".app", ".missing", ".none",
		"[*]", "[0]", "[1]", "[-1]", "[0:1]", "[1:]", "[0,1]", "['name']", "['spec','metadata']",
		`[?(@.metadata.name=="a")]`, `[?(@.type!="Ready")]`, "[?(@.conditions)]", "[?(@.spec.replicas>1)]", " ", "@", "$", `"x"`, "1",
	})
	path := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(piece, 1, 5).Draw(t, "pieces"), "")
	})
	var write func(t *rapid.T, b *strings.Builder, depth int)
	write = func(t *rapid.T, b *strings.Builder, depth int) {
		for range rapid.IntRange(1, 3).Draw(t, "nodes") {
			switch rapid.IntRange(0, 4).Draw(t, "node") {
			case 0:
				b.WriteString(rapid.SampledFrom([]string{"text", " ", "}", "{end}"}).Draw(t, "text"))
			case 1:
				if depth < 3 {
					b.WriteString("{range " + path.Draw(t, "over") + "}")
					write(t, b, depth+1)
					b.WriteString("{end}")
				}
			default:
				b.WriteString("{" + path.Draw(t, "path") + "}")
			}
		}
	}
	template := rapid.Custom(func(t *rapid.T) string {
		var b strings.Builder
		write(t, &b, 0)
		return b.String()
	})
	rapid.Check(t, func(t *rapid.T) {
		template := template.Draw(t, "template")
		want, wantErr := kubectl(template, pods)
		got, gotErr := orchctl(template, pods)
		if wantErr != nil && gotErr == nil && strings.Contains(template, "{range") {
			return // a range over nothing: kubectl executes its body all the same
		}
		if (wantErr == nil) != (gotErr == nil) || wantErr == nil && got != want {
			t.Errorf("%s\nkubectl %q, %v\norchctl %q, %v", template, want, wantErr, got, gotErr)
		}
	})
}
