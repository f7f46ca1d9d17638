package cli

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"orch/pkg/api"
	v1 "orch/proto/v1"
)

func newExplain(f *factory) *cobra.Command {
	var recursive bool
	c := &cobra.Command{
		Use: "explain TYPE[.FIELD...]", Short: "Describe the fields of a kind", Args: cobra.ExactArgs(1),
		Example: "  orchctl explain pods\n  orchctl explain deployment.spec.strategy",
		RunE: func(_ *cobra.Command, args []string) error {
			path := strings.Split(args[0], ".")
			k := api.KindByResource(path[0])
			if k == nil {
				_, err := kindOf(path[0])
				return err
			}
			docs, err := readDocs(v1.Sources)
			if err != nil {
				return err
			}
			return explainField(f.Out, k, path[1:], docs, recursive)
		},
	}
	c.Flags().BoolVar(&recursive, "recursive", false, "name the fields of fields too")
	return c
}

// docs are the comments of messages ("Pod") and fields ("Pod.spec", by their
// proto names).
type docs map[string]string

var (
	messageLine = regexp.MustCompile(`^message (\w+) \{`)
	snake       = regexp.MustCompile(`\B_[a-z]`)
	fieldLine   = regexp.MustCompile(`^(?:optional |repeated )?(?:map<[^>]+>|[\w.]+) (\w+) = \d+`)
)

// readDocs takes the comments out of the .proto files: the lines that begin with
// // directly above a message or a field.
func readDocs(sources fs.FS) (docs, error) {
	files, err := fs.Glob(sources, "*.proto")
	if err != nil {
		return nil, err
	}
	d := docs{}
	for _, file := range files {
		data, err := fs.ReadFile(sources, file)
		if err != nil {
			return nil, err
		}
		var comment []string
		message := ""
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			text, isComment := strings.CutPrefix(line, "//")
			if isComment { // names fields as the .proto file does, and manifests do not
				text = snake.ReplaceAllStringFunc(text, func(s string) string { return strings.ToUpper(s[1:]) })
				comment = append(comment, strings.TrimSpace(text))
				continue
			}
			if m := messageLine.FindStringSubmatch(line); m != nil {
				message = m[1]
				d[message] = strings.Join(comment, " ")
			} else if m := fieldLine.FindStringSubmatch(line); m != nil {
				d[message+"."+m[1]] = strings.Join(comment, " ")
			}
			comment = nil
		}
	}
	return d, nil
}

func explainField(w io.Writer, k *api.Kind, path []string, d docs, recursive bool) error {
	md := k.New().ProtoReflect().Descriptor()
	var fd protoreflect.FieldDescriptor
	for i, name := range path {
		if md == nil {
			return fmt.Errorf("field %q does not exist: %s has no fields of its own", strings.Join(path[:i+1], "."), strings.Join(path[:i], "."))
		}
		if fd = md.Fields().ByJSONName(name); fd == nil {
			return fmt.Errorf("field %q does not exist: 'orchctl explain %s' lists those that do", name, strings.Join(append([]string{k.Singular}, path[:i]...), "."))
		}
		md = messageOf(fd)
	}
	if k.Group != "" {
		fmt.Fprintf(w, "GROUP:      %s\n", k.Group)
	}
	fmt.Fprintf(w, "KIND:       %s\nVERSION:    %s\n\n", k.Name, k.Version)
	text := d[k.Name]
	if fd != nil {
		fmt.Fprintf(w, "FIELD: %s <%s>\n\n", fd.JSONName(), typeName(fd))
		text = d.field(fd)
		if md != nil && d[string(md.Name())] != text {
			text = strings.TrimSpace(text + " " + d[string(md.Name())])
		}
	}
	text = cmp.Or(text, "<empty>")
	fmt.Fprintf(w, "DESCRIPTION:\n%s\n\n", wrap(text, "    "))
	if md != nil {
		fmt.Fprintln(w, "FIELDS:")
		if fd == nil {
			fmt.Fprint(w, "  apiVersion\t<string>\n  kind\t<string>\n")
		}
		d.fields(w, md, "  ", recursive)
	}
	return nil
}

// field is the comment of a field, or that of its message.
func (d docs) field(fd protoreflect.FieldDescriptor) string {
	if s := d[string(fd.Parent().Name())+"."+string(fd.Name())]; s != "" {
		return s
	}
	if md := messageOf(fd); md != nil {
		return d[string(md.Name())]
	}
	return ""
}

func (d docs) fields(w io.Writer, md protoreflect.MessageDescriptor, pad string, recursive bool) {
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		fmt.Fprintf(w, "%s%s\t<%s>\n", pad, fd.JSONName(), typeName(fd))
		if !recursive {
			if text := d.field(fd); text != "" {
				fmt.Fprintln(w, wrap(text, pad+"  "))
			}
			fmt.Fprintln(w)
			continue
		}
		if sub := messageOf(fd); sub != nil {
			d.fields(w, sub, pad+"  ", true)
		}
	}
}

// messageOf is the message with the fields of a field; nil for values and for
// messages that JSON shows as a value.
func messageOf(fd protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	md := fd.Message()
	if md == nil || fd.IsMap() || md.FullName() == "google.protobuf.Timestamp" || md.Name() == "IntOrString" {
		return nil
	}
	return md
}

// typeName is a type as kubectl explain writes it.
func typeName(fd protoreflect.FieldDescriptor) string {
	one := func(fd protoreflect.FieldDescriptor) string {
		if proto.GetExtension(fd.Options(), v1.E_JsonForm) == v1.JSONForm_JSON_FORM_STRING {
			return "string"
		}
		switch fd.Kind() {
		case protoreflect.BoolKind:
			return "boolean"
		case protoreflect.Int32Kind, protoreflect.Int64Kind:
			return "integer"
		case protoreflect.MessageKind:
			if fd.Message().FullName() == "google.protobuf.Timestamp" {
				return "string"
			}
			return string(fd.Message().Name())
		}
		return "string"
	}
	switch {
	case fd.IsMap():
		return "map[string]" + one(fd.MapValue())
	case fd.IsList():
		return "[]" + one(fd)
	}
	return one(fd)
}

// wrap breaks text into lines of at most 80 characters, each with the padding.
func wrap(text, pad string) string {
	var b strings.Builder
	width := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			b.WriteString(pad)
			width = len(pad)
		case width+1+len(word) > 80:
			b.WriteString("\n" + pad)
			width = len(pad)
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String()
}
