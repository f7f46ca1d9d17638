package api

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// The syntax of names, labels and values, each with Kubernetes' sentence about
// it. Each function returns what is wrong, or nothing.

const (
	qualifiedNameFormat = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
	labelValueFormat    = "(" + qualifiedNameFormat + ")?"
	dnsLabelFormat      = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
	searchLabelFormat   = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	searchDomainFormat  = searchLabelFormat + `(\.` + searchLabelFormat + ")*"
	dnsSubdomainFormat  = dnsLabelFormat + `(\.` + dnsLabelFormat + ")*"
	configKeyFormat     = "[-._a-zA-Z0-9]+"
	percentFormat       = "[0-9]+%"
	headerNameFormat    = "[-A-Za-z0-9]+"

	qualifiedNameRule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
	labelValueRule    = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
	dnsLabelRule      = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character"
	dnsSubdomainRule  = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
	searchDomainRule  = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character"
	configKeyRule     = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
	percentRule       = "a valid percent string must be a numeric string followed by an ending '%'"
	headerNameRule    = "a valid HTTP header must consist of alphanumeric characters or '-'"
	envNameRule       = "a valid environment variable name must consist only of printable ASCII characters other than '='"
)

var (
	searchDomainRegexp = regexp.MustCompile("^" + searchDomainFormat + "$")
	configKeyRegexp    = regexp.MustCompile("^" + configKeyFormat + "$")
	percentRegexp      = regexp.MustCompile("^" + percentFormat + "$")
	headerNameRegexp   = regexp.MustCompile("^" + headerNameFormat + "$")
)

// What every name and label of every write is held to is looked at byte by byte:
// with regular expressions it was a tenth of what a create costs.

func isQualifiedName(s string) bool { return word(s, true, "-_.") }

func isLabelValue(s string) bool { return s == "" || isQualifiedName(s) }

func isDNSLabel(s string) bool { return word(s, false, "-") }

func isDNSSubdomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !isDNSLabel(label) {
			return false
		}
	}
	return true
}

// word says whether s is letters and digits, with those of inner only between them.
func word(s string, upper bool, inner string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', upper && 'A' <= c && c <= 'Z':
		case i > 0 && i < len(s)-1 && strings.IndexByte(inner, c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// breach is the sentence about a text that breaks a rule.
func breach(rule, format string, examples ...string) string {
	return fmt.Sprintf("%s (e.g. '%s', regex used for validation is '%s')", rule, strings.Join(examples, "',  or '"), format)
}

func tooLong(most int) string { return fmt.Sprintf("must be no more than %d characters", most) }

func outside(low, high int64) string {
	return fmt.Sprintf("must be between %d and %d, inclusive", low, high)
}

// qualifiedName is the syntax of label keys and finalizers: a name with an
// optional DNS prefix.
func qualifiedName(s string) (msgs []string) {
	sentence := func() string { return breach(qualifiedNameRule, qualifiedNameFormat, "MyName", "my.name", "123-abc") }
	prefix, name, has := strings.Cut(s, "/")
	if strings.Contains(name, "/") {
		return []string{"a qualified name " + sentence() + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"}
	}
	if !has {
		name = s
	} else if prefix == "" {
		msgs = append(msgs, "prefix part must be non-empty")
	} else {
		for _, m := range dnsSubdomain(prefix) {
			msgs = append(msgs, "prefix part "+m)
		}
	}
	if name == "" {
		msgs = append(msgs, "name part must be non-empty")
	} else if len(name) > 63 {
		msgs = append(msgs, "name part "+tooLong(63))
	}
	if !isQualifiedName(name) {
		msgs = append(msgs, "name part "+sentence())
	}
	return msgs
}

func labelValue(s string) (msgs []string) {
	if len(s) > 63 {
		msgs = append(msgs, tooLong(63))
	}
	if !isLabelValue(s) {
		msgs = append(msgs, breach(labelValueRule, labelValueFormat, "MyValue", "my_value", "12345"))
	}
	return msgs
}

func dnsLabel(s string) (msgs []string) {
	if len(s) > 63 {
		msgs = append(msgs, tooLong(63))
	}
	if !isDNSLabel(s) {
		if isDNSSubdomain(s) {
			return append(msgs, "must not contain dots")
		}
		msgs = append(msgs, breach(dnsLabelRule, dnsLabelFormat, "my-name", "123-abc"))
	}
	return msgs
}

func dnsSubdomain(s string) (msgs []string) {
	if len(s) > 253 {
		msgs = append(msgs, tooLong(253))
	}
	if !isDNSSubdomain(s) {
		msgs = append(msgs, breach(dnsSubdomainRule, dnsSubdomainFormat, "example.com"))
	}
	return msgs
}

// searchDomain is a DNS name of a resolver's search list, where the names of
// services begin with an underscore.
func searchDomain(s string) (msgs []string) {
	if len(s) > 253 {
		msgs = append(msgs, tooLong(253))
	}
	if !searchDomainRegexp.MatchString(s) {
		msgs = append(msgs, breach(searchDomainRule, searchDomainFormat, "example.com"))
	}
	return msgs
}

// configKey is the syntax of keys in ConfigMaps and Secrets, which may become
// file names.
func configKey(s string) (msgs []string) {
	if len(s) > 253 {
		msgs = append(msgs, tooLong(253))
	}
	if !configKeyRegexp.MatchString(s) {
		msgs = append(msgs, breach(configKeyRule, configKeyFormat, "key.name", "KEY_NAME", "key-name"))
	}
	switch {
	case s == ".", s == "..":
		msgs = append(msgs, "must not be '"+s+"'")
	case strings.HasPrefix(s, ".."):
		msgs = append(msgs, "must not start with '..'")
	}
	return msgs
}

func portNumber(n int32) []string {
	if n < 1 || n > 65535 {
		return []string{outside(1, 65535)}
	}
	return nil
}

func portName(s string) (msgs []string) {
	if len(s) > 15 {
		msgs = append(msgs, tooLong(15))
	}
	if strings.Trim(s, "-abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		msgs = append(msgs, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
	}
	if !strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyz") {
		msgs = append(msgs, "must contain at least one letter (a-z)")
	}
	if strings.Contains(s, "--") {
		msgs = append(msgs, "must not contain consecutive hyphens")
	}
	if strings.HasPrefix(s, "-") || strings.HasSuffix(s, "-") {
		msgs = append(msgs, "must not begin or end with a hyphen")
	}
	return msgs
}

func envName(s string) []string {
	for _, r := range s {
		if r > unicode.MaxASCII || !unicode.IsPrint(r) || r == '=' {
			return []string{envNameRule}
		}
	}
	return nil
}

func percent(s string) []string {
	if !percentRegexp.MatchString(s) {
		return []string{breach(percentRule, percentFormat, "1%", "93%")}
	}
	return nil
}
